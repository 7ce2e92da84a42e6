"""`together`: metrics move within minutes, by more than they usually do. Of many it finds what none shows alone.

Incidents of real services are broad, and most of them begin at once (docs/decisions/0009). It remembers no level, so it
ends when the change ends. Of a few metrics it hears what is sudden, in their own units, beside the channels for levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import Arrays, Lesson, saturated
from foreshock.detectors.rules import Rules
from foreshock.features.schema import INDEX

_ORDINARY = 0.98  # of the changes of a metric: the largest of these is its unit
_LIMIT = 20.0  # units beyond which one metric hardly counts more: what runs away is the business of other channels
_POWER = 3  # 2 hears many small moves best, 4 a few large ones (measured)
_LEAST_USUAL = 1e-5  # of `_POWER`-th powers: a metric whose moves hardly ever count
_UNEXPECTED = 2.0  # times what was not expected of a change is all of it that counts
_AWAY = 0.5  # of its move a metric must lie away from its expected value, on the side that it moved to


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """The cubic mean of the metrics' changes, each in its own unit and against its own cubic mean.

    Arrays of one model, (n_metrics,), or for a fleet (n_models, n_metrics).
    """

    name: ClassVar[str] = "together"
    aim: ClassVar[float] = 1.5  # what others guess of a tail is read here, and what fired is part of it
    ordinary: ClassVar[float] = np.inf
    unit: Array
    usual: Array  # the mean of the cubes of the winsorised changes

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        changes = _changes(vectors, lesson.rules.without_minima())  # what rarely counts would be a unit of nothing
        unit = np.quantile(changes, _ORDINARY, axis=0)
        # one that hardly moved in the history has no unit to measure by, and is the business of other channels
        unit = np.where(unit > 1e-9 * changes.max(axis=0, initial=0.0), unit, np.inf)
        alone = cls(unit, np.ones_like(unit))
        return cls(unit, np.maximum(alone._cubes(changes).mean(axis=0), _LEAST_USUAL))

    @classmethod
    def silent(cls, n_metrics: int) -> Self:
        """One that never says anything: in the place of a channel that a model was trained without."""
        return cls(np.full(n_metrics, np.inf), np.ones(n_metrics))

    def score(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self._cubes(_changes(vectors, rules)).mean(axis=-1) ** (1.0 / _POWER))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        """How far each metric moved in its own unit, without the limit: who moved furthest leads (n, n_metrics)."""
        return np.asarray(_changes(vectors, rules) / self.unit)

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        shares = np.zeros(vectors.shape)
        shares[..., INDEX["deviation_change"]] = self.contributions(vectors, rules)
        return shares

    def _cubes(self, changes: Array) -> Array:
        """What each metric adds, (n, n_metrics): 1 on average."""
        far = changes / self.unit
        return np.asarray(saturated(far, _LIMIT) ** _POWER / self.usual)

    def dump(self) -> Arrays:
        return {"unit": self.unit, "usual": self.usual}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        return cls(arrays["unit"], arrays["usual"])

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        return cls(np.stack([member.unit for member in members]), np.stack([member.usual for member in members]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.unit[rows], self.usual[rows])


def _changes(vectors: Array, rules: Rules) -> Array:
    """How far each metric changed within minutes, (n, n_metrics); 0 where that is unknown or does not count.

    A change of the samples, and at most twice that of the deviations: what every day does at this hour is no news. The
    deviations alone would not do: the shape of the day, learnt from few days, makes up changes of its own.

    In the metric's own unit: its width at this phase is a guess that only the widening under load makes needful.
    Only what moves away from its expected value counts: the way back is a recovery. Demand may jump as it likes.
    """
    usual, sampled = vectors[..., INDEX["usual_distance"]], vectors[..., INDEX["sample_change"]]
    sign = np.sign(sampled)
    unexpected = vectors[..., INDEX["deviation_change"]] * usual * sign
    with np.errstate(invalid="ignore"):
        agreed = np.minimum(np.abs(sampled), np.maximum(0.0, _UNEXPECTED * unexpected))
        away = vectors[..., INDEX["deviation_last"]] * usual * sign >= _AWAY * agreed
        counted = rules.counts(agreed * sign, vectors[..., INDEX["expected_mean"]]) & ~rules.is_load & away
    change = agreed / usual if rules.is_load.any() else agreed
    return np.asarray(np.where(counted & np.isfinite(change), change, 0.0))
