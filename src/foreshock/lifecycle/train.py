"""Turn a manifest and its history into a model: what may be learnt from, and with which rules. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreshock.core.durations import format_duration
from foreshock.core.errors import NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema
from foreshock.manifests.detector import DetectorSpec, Metric

WARM = 0.95  # of the warm-up's steps must have been measured
HOUR_S, DAY_S = 3_600, 86_400
SETTLED = 1.1  # times `training.persistence`: by then a new level is that of most of a day and is learnt early
MOST_EXCLUDED = 0.25  # of the last day: more than that is a new regime, not an incident


def rules_of(metrics: tuple[Metric, ...]) -> Rules:
    """The metrics' rules as arrays."""
    signs = {"up": 1.0, "down": -1.0, "both": 0.0}
    ranges = [metric.valid_range for metric in metrics]
    return Rules(
        direction=np.array([signs[metric.direction] for metric in metrics]),
        min_deviation=np.array([metric.min_deviation for metric in metrics], dtype=np.float64),
        min_relative_deviation=np.array([metric.min_relative_deviation for metric in metrics], dtype=np.float64),
        is_load=np.array([metric.role == "load" for metric in metrics]),
        valid_low=np.array([-np.inf if each is None or each.min is None else each.min for each in ranges]),
        valid_high=np.array([np.inf if each is None or each.max is None else each.max for each in ranges]),
    )


def course_of(spec: DetectorSpec, n_groups: int = 1) -> Course:
    """How one model of this detector is trained; the budget is the whole detector's, so groups share it."""
    metrics = spec.named_metrics
    return Course(
        schema=Schema(tuple(metric.name for metric in metrics), spec.step, spec.detection_window),
        rules=rules_of(metrics),
        algorithm=spec.algorithm,
        false_alarms_per_s=spec.false_alarm_budget.per_s / max(1, n_groups),
        periods_s=spec.seasonality,
        time_zone=spec.time_zone,
    )


def warm_share(frame: Frame, warm_up_s: int) -> float:
    """How much of the warm-up was measured, 0 to 1 and above: rows on which any metric was there."""
    seen = int(np.isfinite(frame.values).any(axis=1).sum()) if frame.n_times else 0
    return seen * frame.step_s / (WARM * warm_up_s)


def teaching_rows(spec: DetectorSpec, frame: Frame, fired: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows may teach, (n_times,): not those that fired, nor exclusions, nor maintenance."""
    teaches = ~_passing(fired, frame.step_s, spec.training.persistence)
    for exclusion in spec.training.exclude:
        teaches &= (frame.times_s < exclusion.start) | (frame.times_s >= exclusion.end)
    for rows in maintenance_rows(spec, frame).values():
        teaches &= ~rows
    return teaches


def maintenance_rows(spec: DetectorSpec, frame: Frame) -> dict[str, NDArray[np.bool_]]:
    """The rows, (n_times,), of each maintenance by its reason; a row that two of them share is the first one's."""
    found: dict[str, NDArray[np.bool_]] = {}
    free = np.ones(frame.n_times, np.bool_)
    if not frame.n_times or not spec.maintenance:
        return found
    for begin_s, end_s, reason in spec.maintenance_spans(frame.start_s - 1, frame.end_s):
        rows = (frame.times_s >= begin_s) & (frame.times_s < end_s) & free
        free &= ~rows
        before = found.get(reason)
        found[reason] = rows if before is None else before | rows
    return found


def incidents_in(fired: NDArray[np.bool_], step_s: int) -> list[tuple[int, int]]:
    """The first row of each incident and the row after its last; rows that fired less than an hour apart are one."""
    rows = np.flatnonzero(fired)
    parts = np.split(rows, np.flatnonzero(np.diff(rows) * step_s > HOUR_S) + 1) if len(rows) else []
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def _passing(fired: NDArray[np.bool_], step_s: int, persistence_s: int) -> NDArray[np.bool_]:
    """The rows of incidents that passed, (n_times,): what lasted is the new normal and teaches again."""
    result = np.zeros(len(fired), np.bool_)
    for begin, end in incidents_in(fired, step_s):
        result[begin:end] = (end - begin) * step_s < persistence_s
    return result & fired if result[-DAY_S // step_s :].mean() < MOST_EXCLUDED else np.zeros(len(fired), np.bool_)


def train_revision(
    spec: DetectorSpec, history: Frame, fired: NDArray[np.bool_], *, provisional: bool = False, n_groups: int = 1
) -> Model:
    """Train on the part of `history` that `training.window` allows.

    `provisional` trains on less than the warm-up: such a model judges and never pages.

    Raises:
        NotEnoughHistory: fewer rows were measured than the warm-up asks for, or than any model can use.

    """
    keep = min(history.n_times, spec.training.window // spec.step)
    frame, fired = history.rows(history.n_times - keep, history.n_times), fired[history.n_times - keep :]
    seen = np.flatnonzero(np.isfinite(frame.values).any(axis=1))
    first = int(seen[0]) if len(seen) else frame.n_times
    frame, fired = frame.rows(first, frame.n_times), fired[first:]
    share = warm_share(frame, spec.training.warm_up)
    least = 4 * spec.detection_window // spec.step
    if (share < 1.0 and not provisional) or len(seen) < max(least, 120):
        raise NotEnoughHistory(
            f"training.warm_up asks for {format_duration(spec.training.warm_up)} and "
            f"{format_duration(len(seen) * spec.step)} were measured: wait, or shorten training.warm_up."
        )
    return train(frame, course_of(spec, n_groups), teaching_rows(spec, frame, fired))
