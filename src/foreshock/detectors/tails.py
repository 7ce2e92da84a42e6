"""Many statistics on one scale: how far each lies from its own middle, in units of its own share of the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import saturated
from foreshock.detectors.calibrate import hourly_maxima, tail_threshold
from foreshock.features.robust import median_of_rows

LEAST_THRESHOLD = 3.5  # robust standard deviations: below them nothing is unusual, however tame the history was
_ORDINARY_THRESHOLD = 8.0  # of normal noise over two weeks
_CERTAIN = 7.0  # thresholds: who lies beyond is to blame, and a metric that was always zero not more than others
_OWN = 0.75  # of its own threshold every view keeps: spikes of every hour are in single samples, and in no mean
_LEAST_SPREAD = 0.05  # statistics are in units of the residual's usual distance: finer than that is no news


@dataclass(frozen=True, slots=True, eq=False)
class Tails:
    """For each statistic its middle, spread and threshold: (...,) or, for a fleet, (n_models, ...)."""

    middle: Array
    spread: Array
    threshold: Array

    def excess(self, statistics: Array) -> Array:
        """Signed distance from the middle, 1.0 at the statistic's threshold; 0 where it is missing."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num((statistics - self.middle) / (self.spread * self.threshold), nan=0.0)

    def blame(self, statistics: Array, counted: Array) -> Array:
        """How far each counted statistic lies from its middle, in thresholds; beyond a few of them it hardly grows."""
        return np.where(counted, saturated(np.abs(self.excess(statistics)), _CERTAIN), 0.0)

    @classmethod
    def stack(cls, members: tuple[Tails, ...]) -> Tails:
        """The tails of a fleet, one row a member."""
        return cls(*(np.stack([getattr(member, name) for member in members]) for name in cls.__slots__))

    def take(self, rows: NDArray[np.int64]) -> Tails:
        """The tails of some members of a fleet."""
        return Tails(self.middle[rows], self.spread[rows], self.threshold[rows])


def fit_tails(
    statistics: Array,
    counted: Array,
    step_s: int,
    false_alarms_per_s: float,
    least: Array | float = 0.0,
    n_alike: int = 0,
) -> Tails:
    """Fit (n_times, n_metrics, ...) held-out statistics; `counted` says which of them the rules let count.

    Each metric has its share of the budget; its statistics look at the same samples and are not divided once more.
    Nothing closer than `least`, (...,) in the statistics' own unit, is unusual, however tame the history was.
    The first `n_alike` of the statistics (n_times, n_metrics, n_statistics) are views of one thing: their tails, in
    spreads, tell of one threshold, the geometric mean of what each of them says; who says far more keeps most of it.
    """
    n_times, shape = len(statistics), statistics.shape[1:]
    # series by series, each together in memory: a copy, which is worked on in place
    flat = np.array(np.moveaxis(statistics, 0, -1), order="C").reshape(-1, n_times)
    middle = np.nan_to_num(median_of_rows(flat))
    missing = np.isnan(flat)
    away = np.abs(np.subtract(flat, middle[:, None], out=flat), out=flat)
    spread = np.maximum(1.4826 * np.nan_to_num(median_of_rows(away)), _LEAST_SPREAD)
    away /= spread[:, None]
    away[~(np.moveaxis(counted, 0, -1).reshape(flat.shape) | missing)] = 0.0
    threshold = tail_threshold(
        hourly_maxima(away.T, step_s), false_alarms_per_s / max(1, shape[0]), ordinary=_ORDINARY_THRESHOLD
    )
    if n_alike:
        views = threshold.reshape(shape)[:, :n_alike]  # a view of the array: what is written here is written there
        common = np.exp(np.log(np.maximum(views, LEAST_THRESHOLD)).mean(axis=1, keepdims=True))
        views[:] = np.maximum(common, _OWN * views)
    threshold = np.maximum(threshold, np.maximum(LEAST_THRESHOLD, np.broadcast_to(least, shape).ravel() / spread))
    return Tails(middle.reshape(shape), spread.reshape(shape), threshold.reshape(shape))
