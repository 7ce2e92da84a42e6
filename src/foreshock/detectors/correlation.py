"""`correlation`: metrics stop moving together while each may stay in range. What the others do not explain of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import AIM
from foreshock.detectors.level import is_settled
from foreshock.detectors.rules import Rules
from foreshock.detectors.tails import Tails, fit_tails
from foreshock.features.schema import INDEX

_LEAST_SCATTER = 0.05
_JOINT = (("deviation_recent", "relation_recent"), ("deviation_mean", "relation_mean"))


@dataclass(frozen=True, slots=True, eq=False)
class Correlation:
    """Conditional residuals of each metric, and the Mahalanobis distance of all of them together, at two scales.

    With P the precision of the residuals r and e what the others leave of each, the squared distance r' P r is the
    sum of P[i, i] r[i] e[i] (Lauritzen 1996, section 5.1): the vector holds all that it takes.
    """

    name: ClassVar[str] = "correlation"
    aim: ClassVar[float] = AIM
    ordinary: ClassVar[float] = 1.0
    single: Tails  # (n_metrics, 3): recent, mean, logarithm of the scatter
    joint: Tails  # (2,): the distance of the recent and of the window's mean residuals
    precision: Array  # (n_metrics,)

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        half = lesson.false_alarms_per_s / 2.0
        counted = _counted(vectors, lesson.rules)
        single = fit_tails(_single(vectors), counted, lesson.schema.step_s, half)
        distances = _joint(vectors, lesson.precision, counted)
        joint = fit_tails(distances, np.ones(distances.shape, np.bool_), lesson.schema.step_s, half)
        return cls(single, joint, lesson.precision)

    def score(self, vectors: Array, rules: Rules) -> Array:
        counted = _counted(vectors, rules)
        single = np.where(counted, np.abs(self.single.excess(_single(vectors))), 0.0).max(axis=(-1, -2))
        joint = self.joint.excess(_joint(vectors, self.precision, counted)).max(axis=-1)
        return np.asarray(np.maximum(np.maximum(single, joint), 0.0))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self._blame(vectors, rules).max(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        result = np.zeros(vectors.shape)
        places = [INDEX[name] for name in ("relation_recent", "relation_mean", "relation_standard_deviation")]
        result[..., places] = self._blame(vectors, rules)
        return result

    def _blame(self, vectors: Array, rules: Rules) -> Array:
        return self.single.blame(_single(vectors), _counted(vectors, rules))

    def dump(self) -> Arrays:
        tails = {"single": self.single, "joint": self.joint}
        arrays = {f"{part}_{name}": getattr(tail, name) for part, tail in tails.items() for name in Tails.__slots__}
        return {**arrays, "precision": self.precision}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        single, joint = (Tails(*(arrays[f"{part}_{name}"] for name in Tails.__slots__)) for part in ("single", "joint"))
        return cls(single, joint, arrays["precision"])

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        return cls(
            Tails.stack(tuple(member.single for member in members)),
            Tails.stack(tuple(member.joint for member in members)),
            np.stack([member.precision for member in members]),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.single.take(rows), self.joint.take(rows), self.precision[rows])


def _single(vectors: Array) -> Array:
    scatter = np.log(vectors[..., INDEX["relation_standard_deviation"], None] + _LEAST_SCATTER)
    return np.concatenate([vectors[..., [INDEX["relation_recent"], INDEX["relation_mean"]]], scatter], axis=-1)


def _joint(vectors: Array, precision: Array, counted: Array) -> Array:
    squares = [
        np.where(
            counted[..., position],
            precision * vectors[..., INDEX[deviation]] * vectors[..., INDEX[relation]],
            0.0,
        )
        for position, (deviation, relation) in enumerate(_JOINT)
    ]
    return np.asarray(np.sqrt(np.maximum(0.0, np.nansum(np.stack(squares, axis=-1), axis=-2))))


def _counted(vectors: Array, rules: Rules) -> Array:
    """A broken relation counts when what the others do not explain is large enough in the metric's own unit."""
    expected, usual = vectors[..., INDEX["expected_mean"]], vectors[..., INDEX["usual_distance"]]
    gaps = [rules.counts(vectors[..., INDEX[name]] * usual, expected) for name in ("relation_recent", "relation_mean")]
    judged = ~rules.is_load & ~is_settled(vectors)
    scatter = np.isfinite(vectors[..., INDEX["relation_standard_deviation"]]) & rules.spread_counts(vectors)
    return np.stack([gaps[0] & judged, gaps[1] & judged, scatter], axis=-1)
