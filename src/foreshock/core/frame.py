"""The aligned grid on which everything is computed: a row a step, a column a metric, NaN where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Block = NDArray[Any]  # what a compiled kernel takes: it is compiled for the dtype that arrives


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Rows lie at `start_s + i * step_s`, oldest first; `values` is (n_times, n_metrics) in each metric's own unit.

    Samples were rounded to float32 when they were read, wherever they came from, so that the same series gives the
    same features bit for bit in every process. NaN is "not measured"; an infinity never gets here.
    """

    start_s: int
    step_s: int
    metrics: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.metrics):
            raise ValueError(f"values have shape {self.values.shape}, metrics are {self.metrics}")

    @property
    def n_times(self) -> int:
        return int(self.values.shape[0])

    @property
    def end_s(self) -> int:
        """The instant of the last row."""
        return self.start_s + (self.n_times - 1) * self.step_s

    @property
    def times_s(self) -> NDArray[np.int64]:
        return self.start_s + self.step_s * np.arange(self.n_times, dtype=np.int64)

    def rows(self, first: int, last: int) -> Frame:
        """The rows `first` to `last`, the last not included."""
        return Frame(self.start_s + first * self.step_s, self.step_s, self.metrics, self.values[first:last])

    def between(self, from_s: float, to_s: float) -> Frame:
        """The rows whose instants lie in `[from_s, to_s]`; none where there are none."""
        first = max(0, int(-(-(from_s - self.start_s) // self.step_s)))
        last = min(self.n_times, int((to_s - self.start_s) // self.step_s) + 1)
        return self.rows(first, max(first, last))


def as_samples(values: Array) -> Array:
    """Round to float32 and drop infinities: what was measured, as every process stores it."""
    with np.errstate(over="ignore", invalid="ignore"):
        samples = values.astype(np.float32).astype(np.float64)
    samples[~np.isfinite(samples)] = np.nan
    return samples
