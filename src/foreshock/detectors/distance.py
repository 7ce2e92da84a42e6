"""How far several numbers lie from their middle together, in view of how they usually move together. Robust."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from foreshock.core.frame import Array, Block
from foreshock.detectors.rules import Mask

_SHRINKAGE = 0.05  # towards uncorrelated metrics: a covariance of many metrics and few weeks is too sure of itself
_LEAST_VARIANCE = 1e-2  # of a metric in units of its own robust spread
_MOST_ROWS = 20_000


@njit(cache=True, nogil=True)
def _credits(away: Block, precision: Block) -> Array:
    """Terms of the quadratic form, (n, n_metrics); `precision` (1 or n, n_metrics, n_metrics).

    Row by row, so that a fleet and one service's history add up in the same order.
    """
    n, n_metrics = away.shape
    result = np.zeros((n, n_metrics))
    for i in range(n):
        own = precision[min(i, precision.shape[0] - 1)]
        for j in range(n_metrics):
            if away[i, j] != 0.0:
                for k in range(n_metrics):
                    result[i, j] += away[i, j] * own[j, k] * away[i, k]
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Distance:
    """A winsorised Mahalanobis distance: arrays of one model, or with a leading axis of models for a fleet.

    Each number counts up to `limit` spreads and no further: one metric that runs away is the business of a channel
    that looks at metrics one by one, and must not drown what all of them say together.
    """

    limit: float
    middle: Array  # (n_metrics,)
    spread: Array  # (n_metrics,)
    precision: Array  # (n_metrics, n_metrics)

    @classmethod
    def fit(cls, values: Array, counted: Mask, limit: float) -> Distance:
        """Learn from (n, n_metrics); `counted` says which numbers the rules let count, the others are the middle."""
        rows = values[:: max(1, len(values) // _MOST_ROWS)]
        known = np.where(np.isfinite(rows), rows, np.nan)
        with np.errstate(invalid="ignore"):
            middle = np.nan_to_num(np.nanmedian(np.where(np.isfinite(known).any(axis=0), known, 0.0), axis=0))
        away = np.nan_to_num(np.abs(rows - middle))
        # a metric that rarely moves is as wide as its rare moves, else each of them would count to the limit
        spread = np.maximum(1.4826 * np.median(away, axis=0), np.quantile(away, 0.99, axis=0) / 4.0)
        # one that never moved in the history has no width to measure by, and is the business of other channels
        spread = np.where(spread > 1e-9 * (np.abs(middle) + away.max(axis=0, initial=0.0)), spread, np.inf)
        alone = cls(limit, middle, spread, np.eye(len(middle)))
        clipped = alone.standardise(rows, counted[:: max(1, len(values) // _MOST_ROWS)])
        covariance = clipped.T @ clipped / max(1, len(clipped))
        own = np.maximum(np.diag(covariance), _LEAST_VARIANCE)
        covariance = (1.0 - _SHRINKAGE) * covariance + np.diag(_SHRINKAGE * own + 1e-3)
        return cls(limit, middle, spread, np.linalg.inv(covariance).astype(np.float64))

    def standardise(self, values: Array, counted: Mask) -> Array:
        """Distances from the middle in spreads (n, n_metrics), winsorised; 0 where a number is missing or no matter."""
        with np.errstate(invalid="ignore"):
            away = np.clip((values - self.middle) / self.spread, -self.limit, self.limit)
        return np.asarray(np.where(counted & np.isfinite(away), away, 0.0), dtype=np.float64)

    def score(self, values: Array, counted: Mask) -> Array:
        """The distance of each row, (n,)."""
        return np.asarray(np.sqrt(np.maximum(0.0, self.credits(values, counted).sum(axis=-1))))

    def credits(self, values: Array, counted: Mask) -> Array:
        """What each metric adds to the squared distance, (n, n_metrics); a term may be negative."""
        matrices = np.ascontiguousarray(self.precision.reshape(-1, *self.precision.shape[-2:]))
        return np.asarray(_credits(self.standardise(values, counted), matrices))

    def dump(self) -> dict[str, Array]:
        """As plain arrays."""
        return {"middle": self.middle, "spread": self.spread, "precision": self.precision}

    @classmethod
    def load(cls, arrays: dict[str, Array], limit: float) -> Distance:
        """The distance that `dump` came from."""
        return cls(limit, arrays["middle"], arrays["spread"], arrays["precision"])

    @classmethod
    def stack(cls, members: tuple[Distance, ...]) -> Distance:
        """The distances of a fleet, one row a member."""
        parts = (np.stack([getattr(member, name) for member in members]) for name in ("middle", "spread", "precision"))
        return cls(members[0].limit, *parts)

    def take(self, rows: NDArray[np.int64]) -> Distance:
        """The distances of some members of a fleet."""
        return Distance(self.limit, self.middle[rows], self.spread[rows], self.precision[rows])
