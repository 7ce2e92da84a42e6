"""The rules between the fields of an `AnomalyDetector`: each reads named fields and objects with one sentence.

All of them are asked, so that a user sees every problem at once. What the API server can check of a rule stands beside
it in CEL, where durations and instants compare as what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreshock.core.durations import format_duration
from foreshock.manifests.problems import Broken

if TYPE_CHECKING:  # detector.py asks these rules, so they cannot import it
    from foreshock.manifests.detector import DetectorSpec, Maintenance

Findings = Iterator[tuple[str, str]]

_MOST_STEPS_IN_WINDOW = 11_000  # what Prometheus answers in one range query
_MOST_TRAINING_VALUES = 20_000_000  # 160 MB of float64: one manifest cannot take the engine's memory


@dataclass(frozen=True, slots=True)
class Cel:
    """One rule of the API server: `self` is what stands `at` a path below `spec`, and `blamed` the field below that."""

    at: str
    rule: str
    message: str
    blamed: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` yields (path below `spec`, sentence); `fields` are those whose values it reads."""

    fields: frozenset[str]
    check: Callable[[DetectorSpec], Findings]
    cel: tuple[Cel, ...] = ()


def broken_rules(spec: DetectorSpec) -> tuple[Broken, ...]:
    """Every objection of every rule, in the order of `RULES`."""
    return tuple(
        Broken(f"spec.{path}".rstrip("."), sentence, rule.fields)
        for rule in RULES
        for path, sentence in rule.check(spec)
    )


def _exactly_one_source(spec: DetectorSpec) -> Findings:
    if (spec.prometheus_query is None) == (not spec.metrics):
        yield "", "Set exactly one of metrics and prometheus_query."


def _unique_metric_names(spec: DetectorSpec) -> Findings:
    first: dict[str, int] = {}
    for index, metric in enumerate(spec.metrics):
        if metric.name in first:
            yield (
                f"metrics[{index}].name",
                f"The metric name {metric.name!r} is taken by metrics[{first[metric.name]}]; give each metric its own.",
            )
        first.setdefault(metric.name, index)


def _sound_metrics(spec: DetectorSpec) -> Findings:
    for index, metric in enumerate(spec.metrics):
        limits = metric.valid_range
        if limits is not None and limits.min is None and limits.max is None:
            yield f"metrics[{index}].valid_range", "valid_range needs min, max or both."
        elif limits is not None and limits.min is not None and limits.max is not None and limits.min >= limits.max:
            yield (
                f"metrics[{index}].valid_range",
                f"valid_range needs min below max; {limits.min:g} is not below {limits.max:g}.",
            )
        if metric.role == "load" and metric.direction == "up":
            yield (
                f"metrics[{index}].direction",
                "A metric of role load is never anomalous for being high; use direction down or both, or role health.",
            )


def _window_holds_two_steps(spec: DetectorSpec) -> Findings:
    if spec.detection_window < 2 * spec.step:
        window, step = format_duration(spec.detection_window), format_duration(spec.step)
        yield (
            "detection_window",
            f"A detection_window of {window} holds fewer than two steps of {step}; lengthen it or shorten step.",
        )
    elif spec.detection_window // spec.step > _MOST_STEPS_IN_WINDOW:
        yield (
            "step",
            (
                f"detection_window holds {spec.detection_window // spec.step} steps, more than the "
                f"{_MOST_STEPS_IN_WINDOW} of one range query; lengthen step or shorten detection_window."
            ),
        )


def _window_covers_interval(spec: DetectorSpec) -> Findings:
    if spec.detection_window < spec.interval:
        window, interval = format_duration(spec.detection_window), format_duration(spec.interval)
        yield (
            "interval",
            (
                f"An interval of {interval} leaves gaps between windows of {window} that nobody judges; make "
                "interval at most detection_window."
            ),
        )


def _warm_up_within_training(spec: DetectorSpec) -> Findings:
    training = spec.training
    if training.warm_up > training.window:
        yield (
            "training.warm_up",
            (
                f"A warm_up of {format_duration(training.warm_up)} never fits into a training window of "
                f"{format_duration(training.window)}; make warm_up at most training.window."
            ),
        )
    elif training.warm_up < spec.detection_window:
        yield (
            "training.warm_up",
            (
                f"A warm_up of {format_duration(training.warm_up)} is shorter than one window of "
                f"{format_duration(spec.detection_window)}; lengthen warm_up or shorten detection_window."
            ),
        )


def _training_fits_in_memory(spec: DetectorSpec) -> Findings:
    n_steps, n_metrics = spec.training.window // spec.step, max(1, len(spec.metrics))
    if n_steps * n_metrics > _MOST_TRAINING_VALUES:
        yield (
            "training.window",
            (
                f"training.window holds {n_steps} steps of {n_metrics} metrics, more than {_MOST_TRAINING_VALUES} "
                "values; lengthen step or shorten training.window."
            ),
        )


def _sound_exclusions(spec: DetectorSpec) -> Findings:
    for index, exclusion in enumerate(spec.training.exclude):
        if exclusion.start >= exclusion.end:
            yield f"training.exclude[{index}]", "The exclusion ends before it begins; put start before end."


def _sound_maintenance(spec: DetectorSpec) -> Findings:
    for index, entry in enumerate(spec.maintenance):
        if not _is_recurring(entry) and not _is_single(entry):
            yield f"maintenance[{index}]", "Set either schedule and duration, or start and end."
        elif entry.start is not None and entry.end is not None and entry.start >= entry.end:
            yield f"maintenance[{index}]", "The maintenance ends before it begins; put start before end."


def _is_recurring(entry: Maintenance) -> bool:
    given = (entry.schedule is not None, entry.duration is not None, entry.start is not None, entry.end is not None)
    return given == (True, True, False, False)


def _is_single(entry: Maintenance) -> bool:
    given = (entry.schedule is not None, entry.duration is not None, entry.start is not None, entry.end is not None)
    return given == (False, False, True, True)


_N_METRICS = "(has(self.metrics) ? size(self.metrics) : 0)"
_STEPS = "self.{field}.getSeconds() / (self.step.getSeconds() > 0 ? self.step.getSeconds() : 1)"

RULES = (
    Rule(
        frozenset({"metrics", "prometheus_query"}),
        _exactly_one_source,
        (
            Cel(
                "",
                f"has(self.prometheus_query) != ({_N_METRICS} > 0)",
                "Set exactly one of metrics and prometheus_query.",
            ),
        ),
    ),
    Rule(frozenset({"metrics"}), _unique_metric_names),  # for the API server a list keyed by name
    Rule(
        frozenset({"metrics"}),
        _sound_metrics,
        (
            Cel("metrics[].valid_range", "has(self.min) || has(self.max)", "valid_range needs min, max or both."),
            Cel(
                "metrics[].valid_range",
                "!has(self.min) || !has(self.max) || self.min < self.max",
                "valid_range needs min below max.",
            ),
            Cel(
                "metrics[]",
                "self.role != 'load' || self.direction != 'up'",
                "A metric of role load is never anomalous for being high; use direction down or both, or role health.",
                "direction",
            ),
        ),
    ),
    Rule(
        frozenset({"detection_window", "step"}),
        _window_holds_two_steps,
        (
            Cel(
                "",
                "self.detection_window >= self.step + self.step",
                "detection_window holds fewer than two steps; lengthen it or shorten step.",
                "detection_window",
            ),
            Cel(
                "",
                f"{_STEPS.format(field='detection_window')} <= {_MOST_STEPS_IN_WINDOW}",
                f"detection_window holds more steps than the {_MOST_STEPS_IN_WINDOW} of one range query; lengthen step "
                "or shorten detection_window.",
                "step",
            ),
        ),
    ),
    Rule(
        frozenset({"detection_window", "interval"}),
        _window_covers_interval,
        (
            Cel(
                "",
                "self.interval <= self.detection_window",
                "interval leaves gaps between windows that nobody judges; make interval at most detection_window.",
                "interval",
            ),
        ),
    ),
    Rule(
        frozenset({"training", "detection_window"}),
        _warm_up_within_training,
        (
            Cel(
                "training",
                "self.warm_up <= self.window",
                "warm_up never fits into the training window; make warm_up at most training.window.",
                "warm_up",
            ),
            Cel(
                "",
                "self.training.warm_up >= self.detection_window",
                "warm_up is shorter than one window; lengthen warm_up or shorten detection_window.",
                "training.warm_up",
            ),
        ),
    ),
    Rule(
        frozenset({"training", "step", "metrics"}),
        _training_fits_in_memory,
        (
            Cel(
                "",
                f"{_STEPS.format(field='training.window')} * ({_N_METRICS} > 1 ? {_N_METRICS} : 1) "
                f"<= {_MOST_TRAINING_VALUES}",
                f"training.window holds more than {_MOST_TRAINING_VALUES} values of all metrics; lengthen step or "
                "shorten training.window.",
                "training.window",
            ),
        ),
    ),
    Rule(
        frozenset({"training"}),
        _sound_exclusions,
        (
            Cel(
                "training.exclude[]",
                "self.start < self.end",
                "The exclusion ends before it begins; put start before end.",
            ),
        ),
    ),
    Rule(
        frozenset({"maintenance"}),
        _sound_maintenance,
        (
            Cel(
                "maintenance[]",
                "has(self.schedule) == has(self.duration) && has(self.start) == has(self.end) && "
                "has(self.schedule) != has(self.start)",
                "Set either schedule and duration, or start and end.",
            ),
            Cel(
                "maintenance[]",
                "!has(self.start) || !has(self.end) || self.start < self.end",
                "The maintenance ends before it begins; put start before end.",
            ),
        ),
    ),
)
