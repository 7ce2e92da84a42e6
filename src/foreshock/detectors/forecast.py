"""`forecast`: a metric does what its own last hours did not foretell. Exponential smoothing, folded into the vector.

A vector holds a metric's past in three pieces: the sample before the last minutes, the rest of the window, and the five
windows before it. The forecast of simple exponential smoothing is linear in what it saw (Hyndman et al. 2008, chapter
2), so its recursion over those pieces is three weights a metric, found once at training; a cycle multiplies. What is
left of the weights goes to the expected value of the baseline, where every forecast returns in the end.

Additive trends stay out on purpose: growth is the baseline's, and a forecast that follows a drift cannot report it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import AIM
from foreshock.detectors.rules import Rules
from foreshock.detectors.tails import Tails, fit_tails
from foreshock.features.schema import INDEX, LONG_WINDOWS, Schema

_MOST_BLOCKS = 1_000  # of the newest history: more do not change a smoothing parameter
_LEAST_BLOCKS = 12  # fewer say nothing about it
_LEAST_ALPHA, _MOST_ALPHA = 1e-4, 0.9999  # the bounds of statsforecast's own search
_WINSOR = 6.0  # robust spreads: an incident of the history must not be what the parameter is chosen for
_AWAY = 0.5  # of its error a metric must lie away from its expected value: the way back is a recovery,
_ASTRAY = 3.0  # if it comes from further than so many usual distances; within them a metric may wander
_EARLIER = LONG_WINDOWS - 1  # windows of the past that the slow scale holds beside the present one


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Errors of two forecasts a metric, each against the held-out width of its own interval.

    The last minutes are forecast from before them, which sees a jump; the whole window from before it, which sees a
    drift. `alpha` and `weights` are arrays of one model, or with a leading axis of models for a fleet.
    """

    name: ClassVar[str] = "forecast"
    aim: ClassVar[float] = AIM
    ordinary: ClassVar[float] = np.inf
    alpha: Array  # (n_metrics, 2): the smoothing parameter between blocks of minutes, and between windows
    weights: (
        Array  # (n_metrics, 4): of the sample before, the rest of the window, the windows before it; for the window
    )
    kept: float  # share of the window that lies before the last minutes
    tails: Tails  # (n_metrics, 2)

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        schema = lesson.schema
        alpha = np.column_stack(
            [
                _smoothing(vectors[:: schema.recent_steps, :, INDEX["deviation_recent"]]),
                _smoothing(vectors[:: schema.window_steps, :, INDEX["deviation_mean"]]),
            ]
        )
        weights, kept = _weights(alpha, schema), 1.0 - min(1.0, schema.recent_steps / schema.window_steps)
        errors = _errors(vectors, weights, kept)
        counted = _counted(vectors, errors, lesson.rules)
        return cls(alpha, weights, kept, fit_tails(errors, counted, schema.step_s, lesson.false_alarms_per_s))

    def score(self, vectors: Array, rules: Rules) -> Array:
        errors = _errors(vectors, self.weights, self.kept)
        excess = np.abs(self.tails.excess(errors))
        return np.asarray(np.where(_counted(vectors, errors, rules), excess, 0.0).max(axis=(-1, -2)))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self._blame(vectors, rules).max(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        result = np.zeros(vectors.shape)
        result[..., [INDEX["deviation_recent"], INDEX["deviation_mean"]]] = self._blame(vectors, rules)
        return result

    def _blame(self, vectors: Array, rules: Rules) -> Array:
        errors = _errors(vectors, self.weights, self.kept)
        return self.tails.blame(errors, _counted(vectors, errors, rules))

    def dump(self) -> Arrays:
        tails = {name: getattr(self.tails, name) for name in Tails.__slots__}
        return {"alpha": self.alpha, "weights": self.weights, "kept": np.array([self.kept]), **tails}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        tails = Tails(*(arrays[name] for name in Tails.__slots__))
        return cls(arrays["alpha"], arrays["weights"], float(arrays["kept"][0]), tails)

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        alpha, weights = (np.stack([getattr(member, name) for member in members]) for name in ("alpha", "weights"))
        return cls(alpha, weights, members[0].kept, Tails.stack(tuple(member.tails for member in members)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.alpha[rows], self.weights[rows], self.kept, self.tails.take(rows))


def _smoothing(blocks: Array) -> Array:
    """The smoothing parameter of each metric, (n_metrics,), from the means of blocks of time (n, n_metrics)."""
    # importing it takes seconds, which a training has and a cycle has not
    from statsforecast.models import AutoETS  # noqa: PLC0415

    result = np.full(blocks.shape[1], _LEAST_ALPHA)
    for k in range(blocks.shape[1]):
        series = _filled(blocks[-_MOST_BLOCKS:, k])
        if len(series) >= _LEAST_BLOCKS and np.ptp(series) > 0.0:
            fitted: dict[str, Any] = AutoETS(season_length=1, model="ANN").fit(series).model_
            found = float(fitted["par"][0])
            result[k] = np.clip(found, _LEAST_ALPHA, _MOST_ALPHA) if np.isfinite(found) else _LEAST_ALPHA
    return result


def _filled(series: Array) -> Array:
    """Without what is missing, and with incidents cut to where they stop to teach."""
    seen = series[np.isfinite(series)]
    if not len(seen):
        return seen
    middle = float(np.median(seen))
    reach = _WINSOR * max(1.4826 * float(np.median(np.abs(seen - middle))), 1e-6)
    return np.asarray(np.clip(seen, middle - reach, middle + reach))


def _weights(alpha: Array, schema: Schema) -> Array:
    """How a forecast follows from the pieces of the past, (n_metrics, 4), by the recursion over their blocks."""
    blocks = max(1.0, schema.window_steps / schema.recent_steps)  # of minutes in one window
    fast, slow = 1.0 - alpha[:, 0], 1.0 - alpha[:, 1]
    inside = max(0.0, blocks - 2.0)  # of the window, without the last minutes and the block before them
    return np.column_stack(
        [
            1.0 - fast,
            fast * (1.0 - fast**inside),
            fast ** (1.0 + inside) * (1.0 - fast ** (_EARLIER * blocks)),
            1.0 - slow**_EARLIER,
        ]
    )


def _errors(vectors: Array, weights: Array, kept: float) -> Array:
    """What came less what was forecast, (n, n_metrics, 2): of the last minutes and of the window; NaN where unknown."""
    recent, window = vectors[..., INDEX["deviation_recent"]], vectors[..., INDEX["deviation_mean"]]
    earlier = window + (vectors[..., INDEX["deviation_long"]] - window) * (LONG_WINDOWS / _EARLIER)
    rest = recent + (window - recent) / kept if kept > 0.0 else earlier
    before = vectors[..., INDEX["deviation_before"]]
    before = np.where(np.isfinite(before), before, rest)
    soon = weights[..., 0] * before + weights[..., 1] * rest + weights[..., 2] * earlier
    return np.stack([recent - soon, window - weights[..., 3] * earlier], axis=-1)


def _counted(vectors: Array, errors: Array, rules: Rules) -> Array:
    """Which errors the rules let count, in the metric's own unit; a recovery from where nobody wanders does not."""
    expected, usual = vectors[..., INDEX["expected_mean"]], vectors[..., INDEX["usual_distance"]]
    counted = []
    for position, (deviation, gap) in enumerate((("deviation_recent", "gap_recent"), ("deviation_mean", "gap_mean"))):
        error, found = errors[..., position], vectors[..., INDEX[deviation]]
        with np.errstate(invalid="ignore"):
            away = (found * np.sign(error) >= _AWAY * np.abs(error)) | (np.abs(found - error) < _ASTRAY)
            # the window counts while its last minutes are still off: else it would mourn what is over
            away &= (vectors[..., INDEX["deviation_recent"]] - (found - error)) * np.sign(error) >= _AWAY * np.abs(
                error
            )
        counted.append(away & rules.counts(error * usual, expected) & rules.counts(vectors[..., INDEX[gap]], expected))
    return np.stack(counted, axis=-1)
