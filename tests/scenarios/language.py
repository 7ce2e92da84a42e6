"""The scenario language: series in, verdicts and alerts out, in a text that anyone on call can read.

A file holds statements, one a line; `#` begins a comment, indented lines belong to `load`.

    load step=1m seed=7                 the grid, from Monday 2025-09-01T00:00:00Z on; step defaults to 1m, seed to 1
      NAME  SEGMENT for DURATION ...    one series; all of them are equally long
    detector KEY=VALUE ...              fields of the manifest's spec; `a.b=c` is nested, values are YAML
    metric NAME KEY=VALUE ...           fields of one entry of `metrics` (every series is a metric)
    train on 0..7d                      the history; judging begins behind it
    at T VERDICT ...                    the verdict about the window that ends at T after the start
    by T VERDICT ...                    the same at some instant not later than T; at its worst it names `top` first
    alerts CLAUSE ...                   see below

A segment is a shape and then any modifiers. Shapes that start afresh: `flat 40`, `daily 900 amplitude 300 [weekly 50]
[peak 14h]`, `follows OTHER times 2 plus 5` (OTHER stands above), `hold` (stays where the last segment ended). Shapes
that change what is there and stay: `step by 30`, `ramp by 30`, `ramp to 240`, `spread grows to 4` (times the noise).
Shapes that end with their segment: `times 0.5`, `burst times 2` (soft edges), `spike by 30`, `missing`, `gaps of 3m
every 1h`. `the same` goes on. Modifiers stay until they are said again: `noise 2 [ar=0.9]`, `wander 3` (slow, with a
memory of six hours), `nightly by 300 at 2h lasting 40m`.

Verdicts: `normal`, `anomalous [top=NAME] [cause=Absent]`, `inconclusive [reason=Stale]`. Alerts: `none`, or
`firing [after T] by T [top=NAME]`, then optionally `resolved after T [by T]` or `still firing`, and `nothing else`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from tests.scenarios.words import ScenarioError, Words

from foreshock.core.verdicts import Cause, Ignorance


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of a series; `numbers` are the shape's and modifiers' arguments, in the metric's unit or seconds."""

    shape: str
    duration_s: int
    numbers: dict[str, float]
    other: str = ""  # whom `follows` follows


@dataclass(frozen=True, slots=True)
class SeriesText:
    """One series as it was written."""

    name: str
    line: int
    segments: tuple[Segment, ...]

    @property
    def duration_s(self) -> int:
        return sum(segment.duration_s for segment in self.segments)


@dataclass(frozen=True, slots=True)
class VerdictPromise:
    """`at` or `by` an instant, in seconds after the start, the verdict is this."""

    line: int
    when: str
    instant_s: int
    verdict: str
    top: str | None = None
    cause: Cause | None = None
    reason: Ignorance | None = None


@dataclass(frozen=True, slots=True)
class AlertPromise:
    """One alert starts in `[after_s, by_s]` and ends in `[resolved_after_s, resolved_by_s]`, or does not end."""

    line: int
    after_s: int
    by_s: int
    top: str | None = None
    resolved_after_s: int | None = None
    resolved_by_s: int | None = None
    still_firing: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file. `alerts` is what must fire; where `nothing_else`, nothing but that may."""

    name: str
    step_s: int
    seed: int
    series: tuple[SeriesText, ...]
    train_until_s: int
    spec: dict[str, Any] = field(default_factory=dict)
    metric_fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: tuple[VerdictPromise, ...] = ()
    alerts: tuple[AlertPromise, ...] = ()
    nothing_else: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(series.name for series in self.series)


def parse(text: str, name: str = "scenario") -> Scenario:
    """Read one file.

    Raises:
        ScenarioError: with the number of the first line that cannot be understood.

    """
    reader = _Reader()
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].rstrip()
        if line:
            reader.read(Words(number, line))
    return reader.scenario(name)


class _Reader:
    """What was read so far; one method a statement."""

    def __init__(self) -> None:
        self.step_s, self.seed = 60, 1
        self.loaded = self.in_load = False
        self.series: list[SeriesText] = []
        self.train_until_s: int | None = None
        self.spec: dict[str, Any] = {}
        self.metric_fields: dict[str, dict[str, Any]] = {}
        self.verdicts: list[VerdictPromise] = []
        self.alerts: list[AlertPromise] = []
        self.nothing_else = False

    def read(self, words: Words) -> None:
        if words.indented:
            if not self.in_load:
                raise words.error("an indented line is a series and belongs under `load`")
            self._series(words)
        else:
            statement = words.word("a statement")
            handler = getattr(self, f"_{statement}_statement", None)
            if handler is None:
                raise words.error(f"{statement!r} is no statement: load, detector, metric, train, at, by, alerts")
            self.in_load = statement == "load"
            if not self.in_load and not self.series:
                raise words.error("a scenario begins with `load` and its series")
            handler(words)
        words.end()

    def scenario(self, name: str) -> Scenario:
        if self.train_until_s is None:
            raise ScenarioError("line 1: `train on 0..7d` is missing")
        if not (self.verdicts or self.alerts or self.nothing_else):
            raise ScenarioError("line 1: a scenario without `at`, `by` or `alerts` promises nothing")
        return Scenario(
            name,
            self.step_s,
            self.seed,
            tuple(self.series),
            self.train_until_s,
            self.spec,
            self.metric_fields,
            tuple(self.verdicts),
            tuple(self.alerts),
            self.nothing_else,
        )

    def _load_statement(self, words: Words) -> None:
        if self.loaded:
            raise words.error("there is one `load` in a scenario")
        self.loaded = True
        given = words.assignments("step", "seed")
        self.step_s = words.as_duration(given.get("step", "1m"))
        try:
            self.seed = int(given.get("seed", "1"))
        except ValueError:
            raise words.error(f"seed={given['seed']} is no whole number") from None
        if self.step_s <= 0:
            raise words.error("the step is at least one second")

    def _series(self, words: Words) -> None:
        name, segments = words.name(), []
        if name in {series.name for series in self.series}:
            raise words.error(f"{name} is there already")
        while words.peek:
            segments.append(self._segment(words, first=not segments))
        if not segments:
            raise words.error(f"{name} has no segment")
        series = SeriesText(name, words.number, tuple(segments))
        if self.series and self.series[0].duration_s != series.duration_s:
            raise words.error(
                f"{name} is {series.duration_s} s long, {self.series[0].name} {self.series[0].duration_s}"
            )
        self.series.append(series)

    def _segment(self, words: Words, *, first: bool) -> Segment:
        shape, numbers, other = _shape(words)
        if first and shape not in _FRESH:
            raise words.error(f"a series begins with one of {', '.join(sorted(_FRESH))}, not with {shape!r}")
        if other and other not in {series.name for series in self.series}:
            raise words.error(f"{other} is followed here, so it must stand above")
        while _modifier(words, numbers):
            pass
        words.skip("for")
        duration_s = words.duration("a duration")
        if duration_s <= 0 or duration_s % self.step_s:
            raise words.error(f"{duration_s} s is not a multiple of the step of {self.step_s} s")
        return Segment(shape, duration_s, numbers, other)

    def _detector_statement(self, words: Words) -> None:
        _merge(words, self.spec, words.assignments())

    def _metric_statement(self, words: Words) -> None:
        name = self._known(words, words.name())
        _merge(words, self.metric_fields.setdefault(name, {}), words.assignments())

    def _train_statement(self, words: Words) -> None:
        words.skip("on")
        start, dots, end = words.word("0..7d").partition("..")
        if start != "0" or not dots:
            raise words.error("training begins with the series: `train on 0..7d`")
        self.train_until_s = self._instant(words, end)

    def _at_statement(self, words: Words) -> None:
        self._verdict(words, "at")

    def _by_statement(self, words: Words) -> None:
        self._verdict(words, "by")

    def _verdict(self, words: Words, when: str) -> None:
        instant_s = self._instant(words, words.word("an instant"))
        if self.train_until_s is None or instant_s <= self.train_until_s:
            raise words.error("verdicts are about instants after `train on`, which stands above")
        verdict = words.word("a verdict")
        allowed = {"normal": (), "anomalous": ("top", "cause"), "inconclusive": ("reason",)}.get(verdict)
        if allowed is None:
            raise words.error(f"{verdict!r} is no verdict: normal, anomalous, inconclusive")
        given = words.assignments(*allowed) if allowed else {}
        try:
            cause = Cause(given["cause"]) if "cause" in given else None
            reason = Ignorance(given["reason"]) if "reason" in given else None
        except ValueError as error:
            raise words.error(str(error)) from None
        top = self._known(words, given["top"]) if "top" in given else None
        self.verdicts.append(VerdictPromise(words.number, when, instant_s, verdict, top, cause, reason))

    def _alerts_statement(self, words: Words) -> None:
        if self.train_until_s is None:
            raise words.error("`alerts` stands below `train on`")
        if words.takes("none"):
            self.nothing_else = True
            return
        words.skip("firing")
        after_s = self._instant(words, words.word("an instant")) if words.takes("after") else self.train_until_s
        words.skip("by")
        by_s = self._instant(words, words.word("an instant"))
        if by_s < after_s:
            raise words.error("`by` lies before `after`")
        top = words.assignments("top").get("top")
        resolved_after_s = resolved_by_s = None
        if words.takes("resolved"):
            words.skip("after")
            resolved_after_s = self._instant(words, words.word("an instant"))
            resolved_by_s = self._instant(words, words.word("an instant")) if words.takes("by") else None
        still = resolved_after_s is None and words.takes("still", "firing")
        self.nothing_else |= words.takes("nothing", "else")
        top = self._known(words, top) if top else None
        promise = AlertPromise(words.number, after_s, by_s, top, resolved_after_s, resolved_by_s, still_firing=still)
        self.alerts.append(promise)

    def _instant(self, words: Words, word: str) -> int:
        instant_s, length_s = words.as_duration(word), self.series[0].duration_s
        if instant_s % self.step_s or instant_s >= length_s:
            raise words.error(f"{word} is no row of the series: multiples of {self.step_s} s below {length_s} s are")
        return instant_s

    def _known(self, words: Words, name: str) -> str:
        if name not in {series.name for series in self.series}:
            raise words.error(f"there is no series {name!r} under `load`")
        return name


_FRESH = {"flat", "daily", "follows"}

# What follows the word of a shape or modifier: `#` a number, `@` a duration, `?` an optional word with its argument,
# anything else stands for itself.
_SHAPES = {
    "flat": "#level",
    "daily": "#level amplitude #amplitude ?weekly #weekly ?peak @peak_s",
    "follows": "times #times plus #plus",
    "ramp": "",
    "ramp to": "#value",
    "ramp by": "#value",
    "step": "by #value",
    "spike": "by #value",
    "times": "#value",
    "burst": "times #value",
    "spread": "grows to #value",
    "gaps": "of @gap_s every @every_s",
    "the": "same",
    "hold": "",
    "missing": "",
}
_MODIFIERS = {
    "noise": "#noise",
    "wander": "#wander",
    "nightly": "by #nightly at @nightly_at_s lasting @nightly_lasting_s",
}


def _shape(words: Words) -> tuple[str, dict[str, float], str]:
    """The next shape, its numbers, and whom it follows."""
    shape = words.word("a shape")
    if shape not in _SHAPES or " " in shape:
        raise words.error(f"{shape!r} is no shape of a series")
    other = words.name() if shape == "follows" else ""
    if shape == "ramp":
        shape = "ramp to" if words.takes("to") else "ramp by"
        if shape == "ramp by":
            words.skip("by")
    numbers = _arguments(words, _SHAPES[shape])
    return ("the same" if shape == "the" else shape), numbers, other


def _modifier(words: Words, numbers: dict[str, float]) -> bool:
    """Read one modifier into `numbers`, if one comes next."""
    modifier = next((one for one in _MODIFIERS if words.takes(one)), None)
    if modifier is None:
        return False
    numbers.update(_arguments(words, _MODIFIERS[modifier]))
    if modifier == "noise":
        numbers["ar"] = _autocorrelation(words)
    return True


def _autocorrelation(words: Words) -> float:
    text = words.assignments("ar").get("ar", "0")
    if not re.fullmatch(r"0(\.\d+)?", text):
        raise words.error("ar lies between 0 and 1, as in ar=0.9")
    return float(text)


def _arguments(words: Words, pattern: str) -> dict[str, float]:
    found: dict[str, float] = {}
    items = iter(pattern.split())
    for item in items:
        if item[0] == "?":
            if not words.takes(item[1:]):
                next(items)
        elif item[0] == "#":
            found[item[1:]] = words.number_of(f"the {item[1:]}")
        elif item[0] == "@":
            found[item[1:]] = words.duration(f"the {item[1:-2]}")
        else:
            words.skip(item)
    return found


def _merge(words: Words, into: dict[str, Any], given: dict[str, str]) -> None:
    """Put `a.b=c` into nested dictionaries; values are read as YAML."""
    for path, text in given.items():
        *parents, last = path.split(".")
        target = into
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise words.error(f"{path}={text} is not YAML") from None
