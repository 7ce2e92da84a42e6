"""Whether a service has moved for hours beyond what its history explains: a reason to learn before it is due. Pure.

A two-sample test rejects on every real detector every day: hours of one service are neither independent nor alike. Here
an effect counts only if nine of ten hours lie that far on one side, and only beyond the largest effect of any day that
the model was trained on, stretched by how far a day that was left out lies beyond the others (decision 0020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foreshock.core.clock import rfc3339
from foreshock.core.frame import Array, Frame
from foreshock.detectors.model import Model, recent_level
from foreshock.detectors.rules import Rules
from foreshock.engine.facts import without_thin_metrics
from foreshock.features.baseline import describe
from foreshock.features.calendar import DAY_S
from foreshock.features.schema import INDEX
from foreshock.lifecycle.train import HOUR_S

Kind = Literal["level", "spread", "score"]
LEAST_HOURS = 6  # however short training.persistence is
_LASTS = 0.1  # of the hours may lie elsewhere
_LEAST = {"level": 0.5, "spread": float(np.log(1.5)), "score": 0.5}  # usual distances, logarithm of a ratio, score
_LEAST_DAYS = 5
_RESAMPLES, _SURE = 200, 0.95
_STRETCH = (1.5, 4.0)
_MEAN, _SPREAD = INDEX["deviation_mean"], INDEX["deviation_standard_deviation"]
_GAP, _EXPECTED = INDEX["gap_mean"], INDEX["expected_mean"]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the days were like that a model was trained on: levels, spreads, then the score, each (2 n_metrics + 1,)."""

    middle: Array
    limit: Array  # the lasting effect that chance explains
    hours: int  # how long an effect must last

    def dump(self) -> dict[str, NDArray[Any]]:
        """As flat arrays, beside those of the model."""
        return {"drift.middle": self.middle, "drift.limit": self.limit, "drift.hours": np.array([self.hours])}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], n_metrics: int) -> Reference | None:
        """What `dump` wrote, or None where an earlier version wrote none."""
        parts = [arrays.get(f"drift.{name}") for name in ("middle", "limit", "hours")]
        if any(part is None for part in parts):
            return None
        middle, limit, hours = (np.asarray(part) for part in parts)
        if middle.shape != (2 * n_metrics + 1,) or limit.shape != middle.shape or hours.shape != (1,):
            return None
        return cls(middle, limit, int(hours[0]))


@dataclass(frozen=True, slots=True)
class Drift:
    """What moved furthest beyond its limit, by how much, and since when; `ratio` above 1 is a reason to learn."""

    metric: str  # empty for the score, which is of all metrics together
    kind: Kind
    effect: float
    limit: float
    since_s: int

    @property
    def ratio(self) -> float:
        """How often the effect holds what chance explains."""
        return self.effect / self.limit

    def __str__(self) -> str:
        since = rfc3339(self.since_s)
        match self.kind:
            case "level":
                moved = f"the level of {self.metric} has moved by {self.effect:.1f} usual distances"
                return f"{moved} since {since}, where {self.limit:.1f} is what its history explains"
            case "spread":
                moved = f"the spread of {self.metric} has changed by a factor of {np.exp(self.effect):.1f}"
                return f"{moved} since {since}, where {np.exp(self.limit):.1f} is what its history explains"
            case _:
                moved = f"the score has moved by {self.effect:.2f}"
                return f"{moved} since {since}, where {self.limit:.2f} is what its history explains"


def reference_of(model: Model, rules: Rules, frame: Frame, lasts_s: int) -> Reference | None:
    """What lasting effects the training history had, each day seen from the level of the days before it.

    None for a history of fewer than five days: nothing is known of what is usual then.
    """
    per_hour = max(1, HOUR_S // frame.step_s)
    hours = max(LEAST_HOURS, -(-lasts_s // (per_hour * frame.step_s)))
    values = _effects(*_hourly(model, rules, frame, level=recent_level(frame, model.baseline)))
    n_metrics = len(frame.metrics)
    middle = np.nan_to_num(np.median(np.nan_to_num(values), axis=0)) if len(values) else np.zeros(2 * n_metrics + 1)
    middle[:n_metrics] = 0.0  # a level has its middle by construction
    lasting = np.abs(_lasting(values - middle, hours))
    per_day = max(1, DAY_S // (per_hour * frame.step_s))
    n_days = len(lasting) // per_day
    if n_days < _LEAST_DAYS:
        return None
    days = lasting[-n_days * per_day :].reshape(n_days, per_day, -1).max(axis=1)
    days = np.maximum(days, _least(n_metrics))
    return Reference(middle, days.max(axis=0) * _stretch(days), hours)


def drift_of(model: Model, reference: Reference, rules: Rules, frame: Frame) -> Drift | None:
    """The furthest lasting effect at the end of `frame`, beyond its limit or not; None where too little was measured.

    `frame` holds the context of the model and `reference.hours` more. Loads move as they like, and so does what the
    manifest says is too small to count.
    """
    vectors, scores = _hourly(model, rules, frame, last_hours=reference.hours)
    if len(vectors) < reference.hours:
        return None
    n_metrics = len(frame.metrics)
    values = _effects(vectors, scores) - reference.middle
    effect = _lasting(values, reference.hours)[-1]
    both_sides = replace(rules, direction=np.zeros(n_metrics), is_load=np.zeros(n_metrics, np.bool_))
    gap, expected = (np.median(np.nan_to_num(vectors[:, :, k]), axis=0) for k in (_GAP, _EXPECTED))
    counts = both_sides.counts(gap[None], expected[None])[0] & ~rules.is_load
    far = np.median(np.nan_to_num(vectors[:, :, INDEX["gap_root_mean_square"]]), axis=0)
    spreads = both_sides.counts(far[None], expected[None])[0] & ~rules.is_load
    ratio = np.abs(effect) / reference.limit * np.concatenate([counts, spreads, [True]])
    worst = int(np.argmax(ratio))
    beyond = np.sign(effect[worst]) * values[:, worst] >= np.abs(effect[worst])
    per_hour = max(1, HOUR_S // frame.step_s)
    first = len(values) - 1 - int(np.flatnonzero(beyond)[0]) if beyond.any() else 0
    kind: Kind = "score" if worst == 2 * n_metrics else "spread" if worst >= n_metrics else "level"
    return Drift(
        "" if kind == "score" else frame.metrics[worst % n_metrics], kind,
        float(ratio[worst] * reference.limit[worst]), float(reference.limit[worst]),
        frame.end_s - first * per_hour * frame.step_s,
    )  # fmt: skip


def needed_s(model: Model, reference: Reference) -> int:
    """How much history `drift_of` looks at."""
    schema = model.schema
    per_hour = max(1, HOUR_S // schema.step_s)
    return (schema.context_steps + (reference.hours + 1) * per_hour) * schema.step_s


def _hourly(
    model: Model, rules: Rules, frame: Frame, *, level: Array | None = None, last_hours: int | None = None
) -> tuple[Array, Array]:
    """One window an hour, the last one at the end: vectors (n_hours, n_metrics, n_statistics) and scores (n_hours,).

    A day at a time: vectors of all rows would be gigabytes of a wide detector.
    """
    schema, step_s = model.schema, frame.step_s
    per_hour = max(1, HOUR_S // step_s)
    rows = np.arange(frame.n_times - 1, schema.context_steps - 1, -per_hour)[::-1]
    rows = rows if last_hours is None else rows[-last_hours:]
    parts = []
    for these in np.array_split(rows, max(1, len(rows) * per_hour * step_s // DAY_S)):
        if not len(these):
            continue
        begin, end = int(these[0]) - schema.context_steps, int(these[-1]) + 1
        part = frame.rows(begin, end)
        expected, usual = model.baseline.expect(part, None if level is None else level[begin:end])
        described = describe(part, schema, expected, usual, model.baseline, int(these[0]) - begin)
        parts.append(described[these - these[0]])
    if not parts:
        return np.zeros((0, len(frame.metrics), len(INDEX))), np.zeros(0)
    vectors = np.concatenate(parts)
    return vectors, model.ensemble.score(without_thin_metrics(vectors), rules)


def _effects(vectors: Array, scores: Array) -> Array:
    """Levels in usual distances, logarithms of spreads, and the score: (n_hours, 2 n_metrics + 1), NaN if missing."""
    spreads = np.log(np.maximum(vectors[:, :, _SPREAD], 1e-3))
    return np.concatenate([vectors[:, :, _MEAN], spreads, scores[:, None]], axis=1)


def _lasting(values: Array, hours: int) -> Array:
    """How far all but a tenth of the last `hours` lie on one side, signed: (n_hours - hours + 1, n), 0 if on both.

    An hour that was not measured lies on neither side.
    """
    if len(values) < hours:
        return np.zeros((0, values.shape[1]))
    windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(values), hours, axis=0)
    low, high = np.quantile(windows, [_LASTS, 1.0 - _LASTS], axis=-1)
    return np.asarray(np.where(low > 0.0, low, np.where(high < 0.0, high, 0.0)))


def _stretch(days: Array) -> Array:
    """How far the largest of some days lies beyond the largest of others, (n,), from the maxima of days (n_days, n).

    A bootstrap of whole days, seeded: of the days that a resample misses, against those that it drew.
    """
    n_days, ratios = len(days), []
    random = np.random.default_rng(0)
    for drawn in random.integers(0, n_days, (_RESAMPLES, n_days)):
        missed = np.setdiff1d(np.arange(n_days), drawn)
        if len(missed):
            ratios.append(days[missed].max(axis=0) / days[drawn].max(axis=0))
    return np.asarray(np.clip(np.quantile(ratios, _SURE, axis=0), *_STRETCH))


def _least(n_metrics: int) -> Array:
    """What is too small to be a drift, whatever the history was like."""
    return np.concatenate(
        [np.full(n_metrics, _LEAST["level"]), np.full(n_metrics, _LEAST["spread"]), [_LEAST["score"]]]
    )
