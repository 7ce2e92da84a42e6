"""`together`: many metrics move by a little at once, in a way that they do not move together by themselves.

Incidents of real services are broad. Two views of them find, summed, what no channel finds that takes the metrics one
by one (docs/decisions/0009): changes within minutes against each other (`_SUDDEN`), and how many metrics left the level
of their own last window, each by a little (`_BREADTH`). Neither remembers a level, so both end when the change ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import Calibration, calibrate
from foreshock.detectors.distance import Distance
from foreshock.detectors.rules import Mask, Rules
from foreshock.features.schema import INDEX

_SUDDEN_LIMIT, _BREADTH_LIMIT = 20.0, 1e4  # spreads at which one metric stops to count more
_AWAY = 0.5  # of its move a metric must lie away from its expected value, on the side that it moved to
_STRETCH = 3.0  # where evidence turns from linear to logarithmic: at a third of its own threshold


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """The sum of two views' evidence, each log(1 + 3 g) of its own calibrated distance g."""

    name: ClassVar[str] = "together"
    aim: ClassVar[float] = 3.0  # a sum of logarithms has a lighter tail than calibration assumes (measured)
    ordinary: ClassVar[float] = np.inf
    sudden: Distance
    breadth: Distance
    calibrations: Array  # (2, 2) or, for a fleet, (n_models, 2, 2): middle and threshold of either view

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        sudden = Distance.fit(*_changes(vectors, lesson.rules), _SUDDEN_LIMIT)
        breadth = Distance.fit(*_moves(vectors, lesson.rules), _BREADTH_LIMIT)
        raw = _views(sudden, breadth, vectors, lesson.rules)
        each = [calibrate(view, lesson.schema.step_s, lesson.false_alarms_per_s, aim=1.0) for view in raw]
        return cls(sudden, breadth, np.array([(one.middle, one.threshold) for one in each]))

    def score(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self._evidence(vectors, rules).sum(axis=0))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self.by_feature(vectors, rules).sum(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        evidence = self._evidence(vectors, rules)
        shares = np.zeros(vectors.shape)
        parts = (
            np.maximum(0.0, self.sudden.credits(*_changes(vectors, rules))),
            _little(self.breadth.standardise(*_moves(vectors, rules))),
        )
        places = (INDEX["deviation_change"], INDEX["deviation_recent"])
        for place, weight, part in zip(places, evidence, parts, strict=True):
            shares[..., place] = (weight / np.maximum(part.sum(axis=-1), 1e-12))[:, None] * part
        return shares

    def _evidence(self, vectors: Array, rules: Rules) -> Array:
        raw = _views(self.sudden, self.breadth, vectors, rules)
        each = (Calibration(self.calibrations[..., k, 0], self.calibrations[..., k, 1]) for k in range(2))
        return np.stack([np.log1p(_STRETCH * one(view)) for one, view in zip(each, raw, strict=True)])

    def dump(self) -> Arrays:
        parts = {"sudden": self.sudden, "breadth": self.breadth}
        arrays = {f"{part}_{name}": array for part, one in parts.items() for name, array in one.dump().items()}
        return {**arrays, "calibrations": self.calibrations}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        def part(prefix: str, limit: float) -> Distance:
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            return Distance.load(own, limit)

        return cls(part("sudden_", _SUDDEN_LIMIT), part("breadth_", _BREADTH_LIMIT), arrays["calibrations"])

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        return cls(
            Distance.stack(tuple(member.sudden for member in members)),
            Distance.stack(tuple(member.breadth for member in members)),
            np.stack([member.calibrations for member in members]),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.sudden.take(rows), self.breadth.take(rows), self.calibrations[rows])


def _views(sudden: Distance, breadth: Distance, vectors: Array, rules: Rules) -> tuple[Array, Array]:
    """Raw scores of both views, (n,) each."""
    away = breadth.standardise(*_moves(vectors, rules))
    return sudden.score(*_changes(vectors, rules)), np.sqrt(_little(away).mean(axis=-1))


def _little(away: Array) -> Array:
    """What one metric adds to the breadth: logarithmic, so that ten small moves outweigh one large one."""
    return np.asarray(np.log1p(np.abs(away)) ** 2)


def _changes(vectors: Array, rules: Rules) -> tuple[Array, Mask]:
    """The change of each metric within minutes, (n, n_metrics), and whether it counts."""
    change, last = vectors[..., INDEX["deviation_change"]], vectors[..., INDEX["deviation_last"]]
    return _numbers(vectors[..., INDEX["sample_change"]], change, last, vectors, rules)


def _moves(vectors: Array, rules: Rules) -> tuple[Array, Mask]:
    """How far each metric's newest sample lies from the middle of its window, (n, n_metrics); whether it counts."""
    last = vectors[..., INDEX["deviation_last"]]
    sampled = vectors[..., INDEX["sample_last"]] - vectors[..., INDEX["median"]]
    return _numbers(sampled, last - vectors[..., INDEX["deviation_median"]], last, vectors, rules)


def _numbers(sampled: Array, moves: Array, deviations: Array, vectors: Array, rules: Rules) -> tuple[Array, Mask]:
    """A move of the samples as far as the deviations moved too, (n, n_metrics), and whether it counts.

    What every day does at this hour is no news, and the shape of the day, learnt from few days, makes up moves of its
    own: what only one of the two says is one of these.

    In the metric's own unit: its width at this phase is a guess that only the widening under load makes needful.
    Only what moves away from its expected value counts: the way back is a recovery. Demand may jump as it likes.
    """
    usual = vectors[..., INDEX["usual_distance"]]
    expected_too = moves * usual
    with np.errstate(invalid="ignore"):
        agreed = np.sign(sampled) * np.minimum(np.abs(sampled), np.maximum(0.0, expected_too * np.sign(sampled)))
        away = deviations * usual * np.sign(agreed) >= _AWAY * np.abs(agreed)
    counted = rules.counts(agreed, vectors[..., INDEX["expected_mean"]]) & ~rules.is_load & away
    return (agreed / usual if rules.is_load.any() else agreed), counted
