"""The contract of a detector: it learns from vectors, scores them, says which metric mattered, and is plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema

Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a detector may know while it learns, beside the vectors."""

    schema: Schema
    rules: Rules
    false_alarms_per_s: float  # this detector's share of the budget
    precision: Array  # of the lightly smoothed residuals, (n_metrics,), from the baseline
    seed: int


def saturated(values: Array, limit: float) -> Array:
    """The values up to `limit`, and a tenth of it for each e-fold beyond: what lies far away is told from what is near.

    How many more times far says how narrow something was, not how much it matters.
    """
    return np.asarray(np.minimum(values, limit) * (1.0 + 0.1 * np.log(np.maximum(values, limit) / limit)))


def rows_of(vectors: Array, chosen: NDArray[np.bool_]) -> Array:
    """Some of the windows; each statistic's series stays together in memory, and no copy is made of what already is."""
    rows = np.flatnonzero(chosen)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return vectors[rows[0] : rows[-1] + 1]
    return vectors.T[..., chosen].T


class Detector(Protocol):
    """Vectors are (n, n_metrics, n_statistics), as `features.schema.STATISTICS` names them."""

    name: ClassVar[str]
    aim: ClassVar[float]  # how many times its budget its tail is asked for, see `calibrate.tail_threshold`
    ordinary: ClassVar[float]  # where the threshold of its raw score lies when the history is long; infinite: anywhere

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        """Learn from held-out vectors of ordinary time; equal input and seed give equal arrays."""
        ...

    def score(self, vectors: Array, rules: Rules) -> Array:
        """Raw scores (n,): higher is more anomalous and keeps growing outside what was seen."""
        ...

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        """How much each metric had to do with the score: (n, n_metrics), not negative, in no unit."""
        ...

    def dump(self) -> Arrays:
        """Everything the detector knows, as plain arrays."""
        ...

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        """The detector that `dump` came from: its scores are identical."""
        ...

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        """One detector whose row i is judged by member i: a fleet in one block."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The members of a stack that judge these rows, in their order."""
        ...


@runtime_checkable
class Itemised(Protocol):
    """A detector that can also say which statistics of a metric mattered."""

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        """What each statistic had to do with the score: (n, n_metrics, n_statistics), not negative, in no unit."""
        ...
