"""What the manifest says about each metric: which deviations count at all, whatever a model thinks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.features.schema import INDEX

Mask = NDArray[np.bool_]

_WIDE, _CALM = 3.0, 0.3  # usual distances that a window scatters; the share of that which its newest samples deviate


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """One entry a metric, each (n_metrics,) or, for a fleet, (n_models, n_metrics).

    `direction`: 1 only upward deviations count, -1 only downward ones, 0 both. A load (`is_load`) counts only when it
    is lower than expected. A deviation counts when it reaches both minima, absolute and relative to the expected value.
    """

    direction: Array
    min_deviation: Array
    min_relative_deviation: Array
    is_load: Mask
    valid_low: Array
    valid_high: Array

    @classmethod
    def none(cls, n_metrics: int) -> Rules:
        """Every deviation of every metric counts."""
        zeros = np.zeros(n_metrics)
        return cls(
            zeros, zeros, zeros, np.zeros(n_metrics, np.bool_), np.full(n_metrics, -np.inf), np.full(n_metrics, np.inf)
        )

    @classmethod
    def stack(cls, members: Sequence[Rules]) -> Rules:
        """The rules of a fleet, one row a member."""
        return cls(*(np.stack([getattr(member, name) for member in members]) for name in cls.__slots__))

    def without_minima(self) -> Rules:
        """The same sides and ranges, and no deviation is too small: by these a model learns what is rare.

        What is rarely large enough to count would have no tail to read. A minimum then only ever takes alarms away.
        """
        none = np.zeros_like(self.min_deviation)
        return replace(self, min_deviation=none, min_relative_deviation=none)

    def take(self, rows: NDArray[np.int64]) -> Rules:
        """The rules of some members of a fleet."""
        return Rules(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def has_limits(self) -> bool:
        """Whether any metric has a valid range."""
        return bool(np.isfinite(self.valid_low).any() or np.isfinite(self.valid_high).any())

    def counts(self, gap: Array, expected: Array) -> Mask:
        """Whether a signed gap (n, n_metrics) in the metric's own unit counts; a missing one does not."""
        result = np.isfinite(gap) & self._large(np.abs(gap), expected)
        wanted = np.where(self.is_load, -1.0, self.direction)
        return np.asarray(result & ((wanted == 0) | (np.sign(gap) == wanted)) if wanted.any() else result)

    def _large(self, size: Array, expected: Array) -> Mask:
        """Whether a size reaches both minima, (n, n_metrics); most manifests have none."""
        least = self.min_deviation
        if self.min_relative_deviation.any():
            least = np.maximum(least, self.min_relative_deviation * np.abs(expected))
        return np.asarray(size >= least)

    def spread_counts(self, vectors: Array) -> Mask:
        """Whether a change of spread counts (n, n_metrics): large enough, to the judged side, and still going on."""
        size = vectors[..., INDEX["gap_root_mean_square"]]
        result = np.isfinite(size) & self._large(size, vectors[..., INDEX["expected_mean"]]) & ~self.is_load
        if self.direction.any():
            high, low = vectors[..., INDEX["deviation_maximum"]], -vectors[..., INDEX["deviation_minimum"]]
            up, down = (self.direction > 0) & (high >= low), (self.direction < 0) & (low >= high)
            result &= (self.direction == 0) | up | down
        return np.asarray(result & ~has_passed(vectors))

    def any_counts(self, vectors: Array) -> Mask:
        """Whether anything about a metric counts, at any scale (n, n_metrics)."""
        expected = vectors[..., INDEX["expected_mean"]]
        result = self.spread_counts(vectors)
        for name in ("gap_recent", "gap_mean", "gap_long"):
            result = result | self.counts(vectors[..., INDEX[name]], expected)
        return result & ~has_passed(vectors)

    def out_of_range(self, vectors: Array) -> Mask:
        """Whether the recent value left the valid range (n, n_metrics)."""
        return self.outside(vectors[..., INDEX["expected_recent"]] + vectors[..., INDEX["gap_recent"]])

    def outside(self, values: Array) -> Mask:
        """Whether values (n, n_metrics) lie outside the valid range; a missing one does not."""
        return np.asarray((values < self.valid_low) | (values > self.valid_high))


def has_passed(vectors: Array) -> Mask:
    """Whether what made a metric's window wide is over, (n, n_metrics): its newest samples are calm again.

    A window remembers a spike for its whole length, half a day of hourly samples: nobody is to be told for so long.
    """
    wide = vectors[..., INDEX["deviation_standard_deviation"]]
    last, recent = (np.abs(vectors[..., INDEX[name]]) for name in ("deviation_last", "deviation_recent"))
    return np.asarray((wide >= _WIDE) & (np.maximum(last, recent) < _CALM * wide))
