"""The types of the fields that people write: durations, instants, names, budgets; each refuses with one sentence.

A sentence may say `{field}`: `problems.py` puts the field's own name there, and `crd.py` for the API server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from foreshock.core.clock import rfc3339
from foreshock.core.durations import DURATION_PATTERN, format_duration, parse_duration
from foreshock.core.errors import QueryRejected
from foreshock.manifests.problems import shown
from foreshock.manifests.schedule import Schedule
from foreshock.prometheus.templates import check_query

NEVER_A_URL = (
    "{field} takes names the administrator configured; a manifest never carries a URL. "
    "Put the address into the settings file."
)
CEL_RULES = "x-cel-rules"
"""The key of a field's JSON schema under which `crd.py` finds its CEL rules: a list of {rule, message}."""

_LONGEST_S = 100 * 366 * 86_400  # a century: longer ones overflow the instants that they are added to


def refuse(sentence: str) -> NoReturn:
    """Refuse a value with a finished sentence, whatever braces the sentence holds."""
    raise PydanticCustomError("sentence", "{sentence}", {"sentence": sentence})


# --- durations and instants -----------------------------------------------------------------------------------------


def _read_duration(value: object) -> int:
    if isinstance(value, bool | int | float):
        refuse(f"{{field}} needs a unit: write a duration such as 90s, 15m, 1h or 1d12h, not {value}.")
    if not isinstance(value, str):
        refuse("{field} must be a duration such as 90s, 15m, 1h or 1d12h.")
    try:
        duration_s = parse_duration(value) if len(value) <= 32 else _LONGEST_S + 1
    except ValueError:
        refuse(f"{{field}} must be a duration such as 90s, 15m, 1h or 1d12h, not {shown(value)}.")
    if duration_s > _LONGEST_S:
        refuse(f"{{field}} must be shorter than a century, not {shown(value)}.")
    return duration_s


DurationS = Annotated[
    int,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "format": "duration", "pattern": DURATION_PATTERN, "minLength": 1, "maxLength": 32}
    ),
]
"""Written as `1d12h`, held as whole seconds."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a duration, for the engine and for the API server."""

    least: str
    most: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        least, most = (f"duration('{parse_duration(bound)}s')" for bound in (self.least, self.most))
        message = f"{{field}} must lie between {self.least} and {self.most}."
        return with_rule(handler(schema["schema"]), f"self >= {least} && self <= {most}", message)

    def _check(self, duration_s: int) -> int:
        if not parse_duration(self.least) <= duration_s <= parse_duration(self.most):
            refuse(f"{{field}} must lie between {self.least} and {self.most}, not {format_duration(duration_s)}.")
        return duration_s


def between(least: str, most: str) -> Between:
    """Bounds of a duration, as a user would write them."""
    return Between(least, most)


def with_rule(schema: JsonSchemaValue, rule: str, message: str) -> JsonSchemaValue:
    """A JSON schema with one more CEL rule about its own value."""
    return {**schema, CEL_RULES: [*schema.get(CEL_RULES, []), {"rule": rule, "message": message}]}


def _read_instant(value: object) -> float:
    sentence = "{field} must be an instant with its offset, such as 2026-11-23T09:00:00Z"
    if not isinstance(value, str) or len(value) > 40:
        refuse(f"{sentence}.")
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        refuse(f"{sentence}, not {shown(value)}.")
    if instant.tzinfo is None:
        refuse(f"{sentence}, not {shown(value)}, which could be any time zone's.")
    return instant.timestamp()


InstantS = Annotated[
    float,
    BeforeValidator(_read_instant),
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40}),
]
"""Written in RFC 3339, held as UTC seconds."""


def _read_season(value: object) -> int:
    if value not in SEASONS:
        refuse("seasonality knows the periods 1d and 7d; write [1d], [7d], [1d, 7d], or [] for none.")
    return parse_duration(str(value))


SEASONS = ("1d", "7d")
SeasonS = Annotated[
    int,
    BeforeValidator(_read_season),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "enum": list(SEASONS)}),
]
"""A period whose shape can be removed, in seconds of civil time."""


def _check_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: `Europe` is a folder of the database
        refuse(f"{{field}} must be a name of the time zone database, such as Europe/Berlin or UTC, not {shown(name)}.")
    return name


_TIME_ZONE = "[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*"
TimeZone = Annotated[
    str,
    Field(max_length=64),
    AfterValidator(_check_time_zone),
    WithJsonSchema(
        with_rule(
            {"type": "string", "minLength": 1, "maxLength": 64, "pattern": f"^{_TIME_ZONE}$"},
            f"self.matches(r'^{_TIME_ZONE}$')",
            "{field} must be a name of the time zone database, such as Europe/Berlin or UTC.",
        )
    ),
]


# --- names and texts ------------------------------------------------------------------------------------------------


_CREDENTIALS = r"://[^/@\s]*:[^/@\s]*@"
_NO_CREDENTIALS = (
    "{field} holds a user and a password; a manifest never carries a secret. Put them into the settings file."
)
NO_CREDENTIALS_RULE = (f"!self.matches(r'{_CREDENTIALS}')", _NO_CREDENTIALS)


def _no_credentials(value: object) -> object:
    """Refuse a text with a login before any other sentence could quote it."""
    if isinstance(value, str) and re.search(_CREDENTIALS, value):
        refuse(_NO_CREDENTIALS)
    return value


_NO_ADDRESS = "{field} is the name that alerts carry; a manifest never carries a URL."


def _no_address(value: object) -> object:
    _no_credentials(value)
    if isinstance(value, str) and "://" in value:
        refuse(_NO_ADDRESS)
    return value


def matching(pattern: str, most: int, sentence: str, *rules: tuple[str, str]) -> tuple[AfterValidator, WithJsonSchema]:
    """Text of 1 to `most` characters that matches all of `pattern`; `sentence` says what would.

    `rules` are pairs of a CEL rule and its message for the API server, beside the one of the pattern.
    """
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not 1 <= len(text) <= most or compiled.fullmatch(text) is None:
            refuse(f"{sentence}, not {shown(text)}.")
        return text

    schema = {"type": "string", "minLength": 1, "maxLength": most, "pattern": f"^{pattern}$"}
    for rule, message in (*rules, (f"self.matches(r'^{pattern}$')", f"{sentence}.")):
        schema = with_rule(schema, rule, message)
    return AfterValidator(check), WithJsonSchema(schema)


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_IDENTIFIER = "[a-zA-Z_][a-zA-Z0-9_]*"

ObjectName = Annotated[
    str,
    *matching(
        rf"{_LABEL}(\.{_LABEL})*",
        253,
        "{field} must be a Kubernetes name: at most 253 lower-case letters, digits, '-' and '.', beginning and ending "
        "with a letter or a digit",
    ),
]
Namespace = Annotated[
    str,
    *matching(
        _LABEL,
        63,
        "{field} must be a Kubernetes namespace: at most 63 lower-case letters, digits and '-', beginning and ending "
        "with a letter or a digit",
    ),
]
MetricName = Annotated[
    str, *matching(_IDENTIFIER, 100, "{field} must be at most 100 letters, digits and '_', and not begin with a digit")
]
LabelName = Annotated[
    str,
    *matching(_IDENTIFIER, 100, "{field} takes names of labels: letters, digits and '_', not beginning with a digit"),
]
ServiceName = Annotated[
    str,
    *matching(
        r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?",
        253,
        "{field} must be 1 to 253 printable characters",
        NO_CREDENTIALS_RULE,
        ("!self.contains('://')", _NO_ADDRESS),
    ),
    BeforeValidator(_no_address),
]
ModelVersion = Annotated[
    str,
    *matching(
        r"[a-zA-Z0-9]([-a-zA-Z0-9._]*[a-zA-Z0-9])?",
        63,
        "{field} must be at most 63 letters, digits, '.', '_' and '-', such as v2.1.0, or v2.1.0-r3 to pin a revision",
    ),
]
Reason = Annotated[
    str,
    Field(max_length=256),
    BeforeValidator(_no_credentials),
    WithJsonSchema(with_rule({"type": "string", "maxLength": 256}, *NO_CREDENTIALS_RULE)),
]


def _never_a_url(value: object) -> object:
    _no_credentials(value)
    if isinstance(value, str) and ("://" in value or "@" in value):
        refuse(NEVER_A_URL)
    return value


ConfiguredName = Annotated[
    str,
    BeforeValidator(_never_a_url),
    *matching(
        _LABEL,
        63,
        "{field} takes names the administrator configured: at most 63 lower-case letters, digits and '-'",
        ("!self.contains('://')", NEVER_A_URL),
    ),
]
"""The name of a sink or a datasource of the settings file, which is where its address and its secrets are."""


def _check_promql(query: str) -> str:
    if not query.strip():
        refuse("{field} is empty; write a PromQL expression.")
    try:
        check_query(query)
    except QueryRejected as error:
        refuse(str(error))
    return query


Query = Annotated[
    str,
    Field(min_length=1, max_length=8192),
    AfterValidator(_check_promql),
    BeforeValidator(_no_credentials),
    WithJsonSchema(
        with_rule(
            with_rule(
                {"type": "string", "minLength": 1, "maxLength": 8192},
                r"self.matches(r'\S')",
                "{field} is empty; write a PromQL expression.",
            ),
            *NO_CREDENTIALS_RULE,
        )
    ),
]


def unique(what: str, written: Callable[[Any], str] = str) -> AfterValidator:
    """A list that names nothing twice."""

    def check(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        twice = [value for index, value in enumerate(values or ()) if value in (values or ())[:index]]
        if twice:
            refuse(f"{{field}} names the {what} {written(twice[0])} twice; remove one.")
        return values

    return AfterValidator(check)


# --- the false-alarm budget and the maintenance schedule -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false incidents are accepted: at most `count` in `period_s` seconds.

    >>> Budget.parse("1/7d")
    Budget(count=1, period_s=604800)
    """

    count: int
    period_s: int

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `N/duration`.

        Raises:
            ValueError: the text is no such budget, N is not 1 to 1000, or the duration not 1h to 365d.

        """
        match = re.fullmatch(r"([0-9]{1,4})/([0-9dhms]{1,32})", text)
        if match is None:
            raise ValueError(f"{shown(text)} is not a budget such as 1/7d")
        budget = cls(int(match[1]), parse_duration(match[2]))
        if not (1 <= budget.count <= 1000 and 3600 <= budget.period_s <= 365 * 86_400):
            raise ValueError(f"{shown(text)} is not 1 to 1000 incidents in 1h to 365d")
        return budget

    @property
    def per_s(self) -> float:
        """Accepted false incidents a second."""
        return self.count / self.period_s

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.period_s)}"


def _read_budget(value: object) -> Budget:
    if isinstance(value, Budget):
        return value
    try:
        return Budget.parse(value if isinstance(value, str) else str(value))
    except ValueError:
        refuse(
            "{field} must be a number of incidents, '/' and a duration, such as 1/7d: 1 to 1000 incidents in 1h to "
            f"365d, not {shown(value)}."
        )


# Numbers with units after the slash; their order, and that they are 1h to 365d, is left to the engine
_BUDGET = "0{0,3}(1000|[1-9][0-9]{0,2})/[0-9]+[dhms]([0-9]+[hms]){0,3}"
FalseAlarmBudget = Annotated[
    Budget,
    PlainValidator(_read_budget),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        with_rule(
            {"type": "string", "minLength": 4, "maxLength": 40, "pattern": f"^{_BUDGET}$"},
            f"self.matches(r'^{_BUDGET}$')",
            "{field} must be a number of incidents, '/' and a duration, such as 1/7d: 1 to 1000 incidents in 1h to "
            "365d.",
        )
    ),
]


def _read_schedule(value: object) -> Schedule:
    if isinstance(value, Schedule):
        return value
    try:
        return Schedule.parse(value if isinstance(value, str) else shown(value))
    except ValueError as error:
        refuse(f"{{field}} must be five cron fields (minute, hour, day of month, month, day of week): {error}.")


CronSchedule = Annotated[
    Schedule,
    PlainValidator(_read_schedule),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        with_rule(
            {"type": "string", "minLength": 9, "maxLength": 100},
            r"self.trim().matches(r'^\S+(\s+\S+){4}$')",
            "{field} must be five cron fields (minute, hour, day of month, month, day of week).",
        )
    ),
]
