"""A trained model: everything that turns rows of samples into scores, and nothing else. Plain arrays, no state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ArtifactDamaged
from foreshock.core.frame import Array, Frame
from foreshock.detectors.base import Arrays, Lesson, rows_of
from foreshock.detectors.calibrate import Calibration, calibrate
from foreshock.detectors.correlation import Correlation
from foreshock.detectors.ensemble import UNTHROTTLED, Ensemble
from foreshock.detectors.level import Level
from foreshock.detectors.rules import Rules
from foreshock.detectors.together import Together
from foreshock.features.baseline import LEVEL_DAYS, N_KNOTS, Baseline, bins_of, describe, fit_baseline
from foreshock.features.calendar import DAY_S
from foreshock.features.robust import median_of_columns
from foreshock.features.schema import HALF, INDEX, STATISTICS, Schema

FOLDS = 4
MOST_METRICS = 1_000  # of a model that is read: ten times what a manifest may name
SCREEN_SHARES = np.geomspace(1.0, 1e-3, 61)  # shares of windows above each stored quantile of the cheap statistic


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """The cheap statistic of the throttle: the largest deviation at any scale, of any relation, or sudden move.

    The last because a broad incident may lie within the usual of each metric and of each pair: without it the throttle
    would skip what `together` finds.
    """

    level: Level
    correlation: Correlation | None
    together: Together
    unit: Array  # of `together`: the middle and the threshold of its own score, (2,) or for a fleet (n_models, 2)

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Screen:
        """Fit on held-out vectors; what takes one metric alone hears of all deviations, see `Ensemble.fit`."""
        every, n_metrics = replace(lesson, rules=lesson.rules.without_minima()), vectors.shape[1]
        correlation = Correlation.fit(vectors, every) if n_metrics > 1 else None
        together = Together.fit(vectors, lesson)
        raw = together.score(vectors, lesson.rules)
        unit = calibrate(raw, lesson.schema.step_s, lesson.false_alarms_per_s, aim=Together.aim)
        return cls(Level.fit(vectors, every), correlation, together, np.array([unit.middle, unit.threshold]))

    def score(self, vectors: Array, rules: Rules) -> Array:
        """The cheap statistic, (n,)."""
        result = self.level.score(vectors, rules)
        if self.correlation is not None:
            result = np.maximum(result, self.correlation.score(vectors, rules))
        sudden = Calibration(self.unit[..., 0], self.unit[..., 1])
        return np.asarray(np.maximum(result, sudden(self.together.score(vectors, rules))))

    @classmethod
    def stack(cls, members: tuple[Screen, ...]) -> Screen:
        """The screens of a fleet, one row a member."""
        relations = tuple(member.correlation for member in members if member.correlation is not None)
        return cls(
            Level.stack(tuple(member.level for member in members)),
            Correlation.stack(relations) if relations else None,
            Together.stack(tuple(member.together for member in members)),
            np.stack([member.unit for member in members]),
        )

    def take(self, rows: NDArray[np.int64]) -> Screen:
        """The screens of some members of a fleet."""
        return Screen(
            self.level.take(rows),
            None if self.correlation is None else self.correlation.take(rows),
            self.together.take(rows),
            self.unit[rows],
        )

    def dump(self) -> Arrays:
        """All channels' arrays under `<channel>.<name>`, and the unit."""
        channels = (self.level, self.correlation, self.together)
        arrays = {f"{one.name}.{name}": a for one in channels if one is not None for name, a in one.dump().items()}
        return {**arrays, "unit": self.unit}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Screen:
        """The screen that `dump` came from."""
        level = Level.load(_part(arrays, "level."))
        relation, crowd = _part(arrays, "correlation."), _part(arrays, "together.")
        return cls(
            level,
            Correlation.load(relation) if relation else None,
            # artifacts from before few metrics had one
            Together.load(crowd) if crowd else Together.silent(level.tails.middle.shape[0]),
            arrays.get("unit", np.array([0.0, 1.0])),  # and from before it had a unit
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A baseline, the channels over its vectors, and how often each metric was there while they were learnt."""

    schema: Schema
    baseline: Baseline
    ensemble: Ensemble
    availability: Array  # (n_metrics,) share of the training rows that were measured
    screen: Screen
    screen_quantiles: Array  # (len(SCREEN_SHARES),) of the cheap statistic on held-out windows

    def vectors(self, frame: Frame, first_row: int) -> Array:
        """Describe every window that ends at `first_row` or later; see `features.baseline.describe`."""
        expected, usual = self.baseline.expect(frame)
        return describe(frame, self.schema, expected, usual, self.baseline, first_row)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How to train: what the manifest decides."""

    schema: Schema
    rules: Rules
    algorithm: str
    false_alarms_per_s: float
    periods_s: tuple[int, ...] | None
    time_zone: str
    seed: int = 0


def train(frame: Frame, course: Course, teaches: NDArray[np.bool_]) -> Model:
    """Train on the history in `frame`; rows where `teaches` (n_times,) is False calibrate but do not teach.

    Every channel sees only held-out vectors: the baseline of a block of time is fitted on the other blocks, so that
    what is learnt and calibrated is what production will see, not what a baseline makes of its own rows.
    """
    loads = tuple(int(column) for column in np.flatnonzero(course.rules.is_load))
    folds = np.arange(frame.n_times) * FOLDS // frame.n_times
    vectors = _held_out(frame, course, loads, folds, teaches)
    usable = _usable(vectors)
    vectors = rows_of(vectors, usable)
    baseline = fit_baseline(frame, teaches, loads, course.periods_s, course.time_zone, course.schema)
    lesson = Lesson(course.schema, course.rules, course.false_alarms_per_s, baseline.precision, course.seed)
    ensemble = Ensemble.fit(course.algorithm, vectors, folds[usable], lesson, teaches[usable])
    screen = Screen.fit(vectors, lesson)
    cheap = screen.score(vectors, course.rules)
    quantiles = np.quantile(cheap, 1.0 - SCREEN_SHARES)
    if course.algorithm in UNTHROTTLED:
        quantiles = np.zeros_like(quantiles)  # whatever deviates at all is let through
    availability = np.isfinite(frame.values).mean(axis=0)
    return Model(course.schema, baseline, ensemble, availability, screen, quantiles)


def _usable(vectors: Array) -> NDArray[np.bool_]:
    """Which windows calibrate, (n,): those that are judged, since the first ones of a history scatter less than whole.

    Where a metric is scraped so rarely that none is judged, what there is must do.
    """
    measured = np.nan_to_num(vectors[:, :, INDEX["data_availability"]]).max(axis=1)
    return np.asarray(measured >= HALF if (measured >= HALF).any() else measured > 0.0)


def _held_out(
    frame: Frame, course: Course, loads: tuple[int, ...], folds: NDArray[np.int64], teaches: NDArray[np.bool_]
) -> Array:
    """Vectors of every row from a baseline that never saw the row's block, with the level of the days before it."""
    # training goes through the series of one statistic again and again: each lies together in memory
    vectors = np.empty((frame.n_times, len(frame.metrics), len(STATISTICS)), order="F")
    for fold in range(FOLDS):
        inside = np.flatnonzero(folds == fold)
        if not len(inside):
            continue
        baseline = fit_baseline(
            frame, teaches & (folds != fold), loads, course.periods_s, course.time_zone, course.schema
        )
        begin, end = int(inside[0]), int(inside[-1]) + 1
        first = max(0, begin - course.schema.context_steps)
        rows = frame.rows(first, end)
        expected, usual = baseline.expect(rows, recent_level(frame, baseline)[first:end])
        describe(rows, course.schema, expected, usual, baseline, begin - first, vectors[begin:end])
    return vectors


def recent_level(frame: Frame, baseline: Baseline) -> Array:
    """The level that a daily retraining would have known at each row (n_times, n_metrics): that of the days before."""
    nowhere = np.zeros(len(frame.metrics))
    expected, _ = replace(baseline, level=nowhere, known=nowhere).expect(frame)
    rest = frame.values - expected
    per_day = DAY_S // frame.step_s
    day = np.arange(frame.n_times) // per_day
    n_days = int(day[-1]) + 1
    levels = np.full((n_days, len(frame.metrics)), np.nan)
    for number in range(n_days):
        # the first days have no past: there, what follows stands in for it
        before = (
            slice(max(0, number - LEVEL_DAYS) * per_day, number * per_day)
            if number
            else slice(per_day, (1 + LEVEL_DAYS) * per_day)
        )
        levels[number] = median_of_columns(rest[before])
    overall = np.nan_to_num(median_of_columns(rest))
    levels = np.where(np.isfinite(levels), levels, overall)
    return np.asarray(levels[day])


_BASELINE = ("level", "known", "slope", "daily", "weekly", "scale", "daily_scale", "weekly_scale", "knots", "response")
_RELATION = ("explained_by", "precision")


def dump(model: Model) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Everything the model knows as flat arrays, and the few facts that are no arrays; shapes of zeros are left out."""
    baseline, arrays = model.baseline, dict[str, NDArray[Any]]()
    for name in (*_BASELINE, *_RELATION, "loads"):
        array = np.asarray(getattr(baseline, name))
        if array.any() and array.size:
            arrays[f"baseline.{name}"] = array
    arrays.update({f"ensemble.{name}": array for name, array in model.ensemble.dump().items()})
    arrays.update({f"screen.{name}": array for name, array in model.screen.dump().items()})
    arrays.update({"availability": model.availability, "screen_quantiles": model.screen_quantiles})
    facts = {
        "metrics": list(model.schema.metrics),
        "step_s": model.schema.step_s,
        "window_s": model.schema.window_s,
        "fingerprint": model.schema.fingerprint,
        "anchor_s": baseline.anchor_s,
        "time_zone": baseline.time_zone,
        "n_loads": len(baseline.loads),
    }
    return arrays, facts


def load(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Model:
    """The model that `dump` came from: its scores are identical.

    Raises:
        ArtifactDamaged: a fact or an array is missing, of another shape than the facts ask for, or not finite.

    """
    try:
        schema = Schema(tuple(facts["metrics"]), int(facts["step_s"]), int(facts["window_s"]))
        if schema.fingerprint != facts["fingerprint"]:
            raise ArtifactDamaged("The model was trained on other features than this version computes: train it again.")
        baseline = _load_baseline(arrays, facts, schema)
        ensemble = Ensemble.load(_part(arrays, "ensemble."))
        screen = Screen.load(_part(arrays, "screen."))
        model = Model(schema, baseline, ensemble, arrays["availability"], screen, arrays["screen_quantiles"])
        _probe(model)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArtifactDamaged(f"A model artifact lacks or garbles {error}: train the model again.") from error
    return model


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _load_baseline(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], schema: Schema) -> Baseline:
    n_metrics, n_loads, n_bins = len(schema.metrics), int(facts["n_loads"]), bins_of(schema.step_s)
    if not 0 < n_metrics <= MOST_METRICS or not 0 <= n_loads <= n_metrics:  # arrays that are left out are made of these
        raise ValueError(f"{n_metrics} metrics, {n_loads} loads")
    shapes = {
        "level": (n_metrics,), "known": (n_metrics,), "slope": (n_metrics,), "scale": (n_metrics,),
        "daily": (n_metrics, n_bins), "daily_scale": (n_metrics, n_bins),
        "weekly": (n_metrics, 7 * n_bins), "weekly_scale": (n_metrics, 7 * n_bins),
        "knots": (n_loads, N_KNOTS), "response": (n_metrics, n_loads, N_KNOTS),
        "explained_by": (n_metrics, n_metrics), "precision": (n_metrics,), "loads": (n_loads,),
    }  # fmt: skip
    single = {"daily", "daily_scale", "weekly", "weekly_scale"}
    found = {}
    for name, shape in shapes.items():
        kind = np.int64 if name == "loads" else np.float32 if name in single else np.float64
        array = arrays.get(f"baseline.{name}", np.zeros(shape, kind))
        if array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
            raise ValueError(f"baseline.{name}")
        found[name] = np.ascontiguousarray(array)
    if ((found["loads"] < 0) | (found["loads"] >= n_metrics)).any() or (found["scale"] <= 0).any():
        raise ValueError("baseline.loads or baseline.scale")
    return Baseline(anchor_s=int(facts["anchor_s"]), time_zone=str(facts["time_zone"]), **found)


def _probe(model: Model) -> None:
    """Score one vector: arrays that do not fit together show here and not in a cycle."""
    n_metrics = len(model.schema.metrics)
    zeros = np.zeros((1, n_metrics, len(STATISTICS)))
    score = model.ensemble.score(zeros, Rules.none(n_metrics))
    if not np.isfinite(score).all() or model.screen_quantiles.shape != SCREEN_SHARES.shape:
        raise ValueError("its calibration")
