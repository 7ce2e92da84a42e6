"""The administrator's settings file: datasources, sinks, where state lives; the only reader of the environment.

`${NAME}` in any value is the environment variable NAME (`$${NAME}` is the text itself). Keys that end in `_file` name
mounted secrets, relative to the folder of the settings file; who uses one reads it, again whenever it changes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from foreshock.alerting.routing import Routing
from foreshock.alerting.sinks import SinkSettings
from foreshock.alerting.sinks.base import SinkName
from foreshock.alerting.sinks.log import LogSettings
from foreshock.core.errors import InvalidSettings, Problem
from foreshock.extractor.settings import ExtractorSettings
from foreshock.manifests import tenancy
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.documents import UnreadableError, read_documents
from foreshock.manifests.problems import Broken, problems_of, refuse_all
from foreshock.operator.surroundings import ChangesSettings
from foreshock.prometheus.settings import Datasource
from foreshock.store import bucket

CONFIG_VARIABLE = "FORESHOCK_CONFIG"
DEFAULT = "default"
_STARS = "**********"
_DATABASES = "sqlite:///foreshock-data/foreshock.db or postgresql+psycopg://user:password@host/name"
_VARIABLE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; it wins over the file. `prometheus` is the URL of the datasource `default`."""

    prometheus: str | None = None
    database: str | None = field(default=None, repr=False)  # it may carry a password
    artifacts: str | None = None
    listen: str | None = None


def _check_database(url: str) -> str:
    try:
        parsed = make_url(url)
        parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise ValueError(f"must be a database URL such as {_DATABASES}") from None
    if parsed.drivername == "sqlite" and parsed.database:
        return url
    if parsed.drivername in {"postgresql", "postgresql+psycopg"} and parsed.host and parsed.database:
        if "password" in parsed.query:  # where nobody would mask it
            raise ValueError("must carry its password as user:password@host, or leave it to database_password_file")
        return url
    raise ValueError(f"must name one of {_DATABASES}")


def _masked(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _check_artifacts(place: str) -> str:
    parts = urlsplit(place)
    if parts.scheme == "s3":
        bucket.split_url(place)
    elif not place.strip() or parts.scheme not in {"", "file"} or (parts.scheme == "file" and parts.netloc):
        raise ValueError("must be a folder (a path, or file:///absolute/path) or s3://bucket/prefix")
    return place


def check_listen(address: str) -> str:
    """Refuse what is no HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ValueError("must be HOST:PORT with a port of 0 to 65535, such as 127.0.0.1:8080 or [::1]:8080")
    return address


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as host and port; brackets of an IPv6 address are taken off."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    wrong = [name for name in labels if not _LABEL.fullmatch(name)]
    if wrong:
        raise ValueError(f"must have names of letters, digits and '_', not {wrong[0]!r}")
    return labels


class Settings(BaseModel):
    """Everything an administrator decides; frozen, unknown keys refused, secrets printed as stars."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    datasources: Annotated[tuple[Datasource, ...], Field(max_length=100)] = Field(
        default=(), description="The Prometheus servers; manifests that name none use the one named default."
    )
    sinks: Annotated[tuple[SinkSettings, ...], Field(max_length=100)] = Field(
        default=(), description="The receivers of alerts; a sink named log, to stdout, is always there."
    )
    default_sinks: Annotated[tuple[SinkName, ...], Field(max_length=10)] = Field(
        default=("log",), description="Who is told where a manifest names no sink."
    )
    cluster: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="default", description="Part of every incident's identity, so that two clusters never share one."
    )
    external_labels: Annotated[dict[str, str], AfterValidator(_check_labels)] = Field(
        default={}, description="Labels that every alert carries."
    )
    database: Annotated[str, AfterValidator(_check_database), PlainSerializer(_masked, return_type=str)] = Field(
        default="sqlite:///foreshock-data/foreshock.db",
        repr=False,
        description="Where the state is kept: SQLite for one replica, PostgreSQL for two and more.",
    )
    database_password_file: Path | None = Field(
        default=None,
        description="A mounted secret with PostgreSQL's password; it is read for each new connection.",
    )
    artifacts: Annotated[str, AfterValidator(_check_artifacts)] = Field(
        default="./foreshock-data/models",
        description="The models: a folder (a path or file:///absolute/path), or s3://bucket/prefix.",
    )
    s3: bucket.BucketSettings = Field(
        default=bucket.BucketSettings(),
        description="How to reach the bucket of `artifacts`; by default as AWS's tools do.",
    )
    listen: Annotated[str, AfterValidator(check_listen)] = Field(
        default="127.0.0.1:8080", description="HOST:PORT of /metrics, /healthz, /readyz and the pages."
    )

    changes: ChangesSettings = Field(
        default=ChangesSettings(), description="What `foreshock operator` reads of the cluster for the diagnosis."
    )
    neighbours: Literal["namespace", "cluster"] = Field(
        default="namespace",
        description="Whose incidents an alert may name and be grouped with: those of its namespace, or all.",
    )
    extractor: ExtractorSettings = Field(
        default=ExtractorSettings(), description="The feature service: without a url the engine extracts by itself."
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        refuse_all(tuple(_broken_rules(self)))
        return self

    def datasource(self, name: str | None) -> Datasource:
        """The datasource of that name; for None the one named `default`, or the only one there is.

        Raises:
            KeyError: no such datasource is configured.

        """
        by_name = {source.name: source for source in self.datasources}
        if name is None and len(by_name) == 1:
            return self.datasources[0]
        return by_name[DEFAULT if name is None else name]

    def sinks_for(self, names: tuple[str, ...] | None, severity: str | None = None) -> tuple[SinkSettings, ...]:
        """The sinks of those names that are told of this severity, in their order; for None the default ones.

        Raises:
            KeyError: no such sink is configured.

        """
        wanted = self.default_sinks if names is None else names
        named = (self.sinks_by_name[name] for name in dict.fromkeys(wanted))
        return tuple(sink for sink in named if severity is None or severity in sink.severities)

    @property
    def sinks_by_name(self) -> dict[str, SinkSettings]:
        """Every sink, with the built-in `log`."""
        return {"log": LogSettings(name="log")} | {sink.name: sink for sink in self.sinks}

    @property
    def routing(self) -> Routing:
        """Which sinks hear of what begins in a maintenance, and which only of what is likely true."""
        sinks = self.sinks_by_name.items()
        return Routing(
            frozenset(name for name, sink in sinks if sink.during_maintenance),
            {name: sink.max_false_share for name, sink in sinks if sink.max_false_share is not None},
        )

    @property
    def artifacts_folder(self) -> Path:
        """`artifacts` as a path, where it is no bucket."""
        parts = urlsplit(self.artifacts)
        return Path(unquote(parts.path)) if parts.scheme == "file" else Path(self.artifacts)

    @property
    def listen_address(self) -> tuple[str, int]:
        """`listen` as host and port."""
        return split_address(self.listen)

    def objections(self, detector: AnomalyDetector) -> Iterator[Broken]:
        """What a manifest names and nobody configured, or may not read, with its path."""
        spec = detector.spec
        sources = {source.name for source in self.datasources}
        if spec.datasource is not None and spec.datasource not in sources:
            yield Broken("spec.datasource", _not_configured("datasource", spec.datasource, sources))
        elif sources:
            yield from tenancy.objections(detector, self.datasource(spec.datasource))
        for index, name in enumerate(spec.sinks or ()):
            if name not in self.sinks_by_name:
                yield Broken(f"spec.sinks[{index}]", _not_configured("sink", name, set(self.sinks_by_name)))


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Overrides = Overrides(),
    *,
    needs_prometheus: bool = True,
) -> Settings:
    """Read the settings from `path`, else from the file that FORESHOCK_CONFIG names, else from the overrides alone.

    Raises:
        InvalidSettings: anything is wrong; it holds every problem with its path, and no value of a variable.

    """
    draft = _Draft(path if path is not None else configured_path(environ), environ)
    data = draft.read()
    _apply(overrides, data, draft.problems)
    settings = _validated(data, draft)
    if needs_prometheus and settings is not None and not settings.datasources and not draft.problems:
        message = "There is no Prometheus; pass --prometheus URL, or set datasources in the settings file."
        draft.problems.append(Problem(draft.label, "datasources", message))
    if draft.problems or settings is None:
        raise InvalidSettings(tuple(_redacted(draft.problems, draft.used)))
    return settings


def configured_path(environ: Mapping[str, str]) -> Path | None:
    """The settings file that FORESHOCK_CONFIG names, or None where it is unset or empty."""
    named = environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


class _Draft:
    """A settings file on its way to `Settings`: its plain values, its problems, and the variables that it used."""

    def __init__(self, file: Path | None, environ: Mapping[str, str]) -> None:
        self.file = file
        self.label = str(file) if file is not None else ""
        self.problems: list[Problem] = []
        self.used: set[str] = set()
        self._environ = environ

    def read(self) -> dict[str, Any]:
        """The file's mapping with variables replaced and `_file` keys made absolute; empty where there is no file."""
        if self.file is None:
            return {}
        try:
            documents = read_documents(self.file)
        except UnreadableError as error:
            raise InvalidSettings((Problem(self.label, error.path, str(error)),)) from error
        if len(documents) > 1 or (documents and not isinstance(documents[0].value, dict)):
            message = "The settings are one mapping; begin with datasources:."
            raise InvalidSettings((Problem(self.label, "", message),))
        return self._resolved(documents[0].value, "") if documents else {}

    def _resolved(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: self._entry(key, entry, f"{path}.{key}".lstrip(".")) for key, entry in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return self._expanded(value, path) if isinstance(value, str) else value

    def _entry(self, key: str, value: Any, path: str) -> Any:
        resolved = self._resolved(value, path)
        if not key.endswith("_file") or not isinstance(resolved, str) or self.file is None:
            return resolved
        mounted = self.file.parent / resolved
        if not os.access(mounted, os.R_OK):  # not opened: a pipe would wait for its writer
            why = "may not be read" if mounted.exists() else "does not exist"
            message = f"The {key} {mounted} {why}; mount it or correct the path."
            self.problems.append(Problem(self.label, path, message))
        return str(mounted)

    def _expanded(self, text: str, path: str) -> str:
        def value_of(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return match[0][1:]
            if name not in self._environ:
                message = f"The environment variable {name} is not set; set it or write the value here."
                self.problems.append(Problem(self.label, path, message))
                return match[0]
            self.used.add(self._environ[name])
            return self._environ[name]

        return _VARIABLE.sub(value_of, text)


def _apply(overrides: Overrides, data: dict[str, Any], problems: list[Problem]) -> None:
    for name in ("database", "artifacts", "listen"):
        if getattr(overrides, name) is not None:
            data[name] = getattr(overrides, name)
    if overrides.prometheus is None:
        return
    try:
        Datasource(url=overrides.prometheus)
    except ValidationError as error:
        found = problems_of(error, Datasource, {"url": overrides.prometheus}, file="--prometheus")
        problems.extend(replace(problem, path="") for problem in found)
        return
    sources = data.setdefault("datasources", [])
    if not isinstance(sources, list):
        return  # a problem of its own
    for source in sources:
        if isinstance(source, dict) and source.get("name", DEFAULT) == DEFAULT:
            source["url"] = overrides.prometheus
            return
    sources.insert(0, {"name": DEFAULT, "url": overrides.prometheus})


def _validated(data: dict[str, Any], draft: _Draft) -> Settings | None:
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        known = {problem.path for problem in draft.problems}
        found = problems_of(error, Settings, data, file=draft.label)
        draft.problems.extend(problem for problem in found if problem.path not in known)
        return None


def _broken_rules(settings: Settings) -> Iterator[Broken]:
    if settings.database_password_file is not None and (url := make_url(settings.database)).drivername == "sqlite":
        yield Broken("database_password_file", "SQLite has no password; remove database_password_file.")
    elif settings.database_password_file is not None and url.password is not None:
        yield Broken("database_password_file", "Set the password in database or in database_password_file, not both.")
    if "s3" in settings.model_fields_set and not settings.artifacts.startswith("s3://"):
        yield Broken("s3", "The models are in a folder; remove s3, or set artifacts to s3://bucket/prefix.")
    for kind in ("datasources", "sinks"):
        names = [entry.name for entry in getattr(settings, kind)]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Broken(f"{kind}[{index}].name", f"The name {name!r} is taken by {kind}[{names.index(name)}].")
    sources = {source.name for source in settings.datasources}
    if len(sources) > 1 and DEFAULT not in sources:
        yield Broken("datasources", "Name one datasource default; manifests that name none use that one.")
    for index, name in enumerate(settings.default_sinks):
        if name not in settings.sinks_by_name:
            sentence = _not_configured("sink", name, set(settings.sinks_by_name))
            yield Broken(f"default_sinks[{index}]", sentence)


def _not_configured(what: str, name: str, known: set[str]) -> str:
    return f"The {what} {name!r} is not configured; use {' or '.join(sorted(known)) or 'none'}, or configure it."


def _redacted(problems: list[Problem], secrets: set[str]) -> Iterator[Problem]:
    """The problems without any value that came from the environment; shorter than four letters hides nothing."""
    longest_first = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
    for problem in problems:
        message = problem.message
        for secret in longest_first:
            message = message.replace(secret, _STARS)
        yield replace(problem, message=message)
