"""`level`: a metric leaves its expected level, at once or slowly, or begins to scatter. Robust z at several scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import AIM
from foreshock.detectors.rules import Mask, Rules
from foreshock.detectors.tails import Tails, fit_tails
from foreshock.features.schema import FEW_METRICS, INDEX

# From one sample to six windows: a spike and a drift of hours each stand out of the scale that is theirs.
# The median as well: under heavy tails a lasting shift moves it far, and single samples not at all.
SCALES = ("deviation_last", "deviation_recent", "deviation_mean", "deviation_median", "deviation_long")
_GAPS = ("gap_recent", "gap_recent", "gap_mean", "gap_mean", "gap_long")
_LEAST_SCATTER = 0.05
# nothing is news that lies within one usual distance, or that scatters by less than twice the usual
_LEAST = np.append(np.ones(len(SCALES)), np.log(2.0))
_CALM = 0.5  # of the deviation: what scatters as widely as it deviates has not settled
_NEWS = 0.4  # of a deviation that six windows' mean does not hold yet: a step falls below it after 3.6 windows


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Each metric's deviations at each scale, and the logarithm of its scatter, against their own held-out tails."""

    name: ClassVar[str] = "level"
    aim: ClassVar[float] = AIM
    ordinary: ClassVar[float] = 1.0
    tails: Tails  # (n_metrics, len(SCALES) + 1)

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        counted = _counted(vectors, lesson.rules)
        step_s, per_s = lesson.schema.step_s, lesson.false_alarms_per_s
        return cls(fit_tails(_statistics(vectors), counted, step_s, per_s, _LEAST, n_alike=len(SCALES)))

    def score(self, vectors: Array, rules: Rules) -> Array:
        excess = np.abs(self.tails.excess(_statistics(vectors)))
        return np.asarray(np.where(_counted(vectors, rules), excess, 0.0).max(axis=(-1, -2)))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self._blame(vectors, rules).max(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        result = np.zeros(vectors.shape)
        result[..., [INDEX[name] for name in (*SCALES, "deviation_standard_deviation")]] = self._blame(vectors, rules)
        return result

    def _blame(self, vectors: Array, rules: Rules) -> Array:
        return self.tails.blame(_statistics(vectors), _counted(vectors, rules))

    def dump(self) -> Arrays:
        return {"middle": self.tails.middle, "spread": self.tails.spread, "threshold": self.tails.threshold}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        return cls(Tails(arrays["middle"], arrays["spread"], arrays["threshold"]))

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        return cls(Tails.stack(tuple(member.tails for member in members)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.tails.take(rows))


def _statistics(vectors: Array) -> Array:
    scatter = np.log(vectors[..., INDEX["deviation_standard_deviation"], None] + _LEAST_SCATTER)
    return np.concatenate([vectors[..., [INDEX[name] for name in SCALES]], scatter], axis=-1)


def _lasts(slow: Array, fast: Array) -> Mask:
    """A slow scale counts while the faster one still deviates likewise: else it would mourn what is long over."""
    return np.asarray(fast * np.sign(slow) >= 0.5 * np.abs(slow))


def is_settled(vectors: Array) -> Mask:
    """Whether a metric went somewhere, and has been calm there for hours, (n, n_metrics): the new level, not news.

    It was said when it happened, and the next training learns it. Only among many metrics, one of which always finds a
    new level somewhere (decision 0009); of a few each is there because somebody cares about its level.
    """
    if vectors.shape[-2] <= FEW_METRICS:
        return np.zeros(vectors.shape[:-1], np.bool_)
    recent, long = vectors[..., INDEX["deviation_recent"]], vectors[..., INDEX["deviation_long"]]
    calm = vectors[..., INDEX["deviation_standard_deviation"]] < _CALM * np.abs(recent)
    with np.errstate(invalid="ignore"):
        return np.asarray(calm & (np.abs(recent - long) < _NEWS * np.abs(recent)))


def _counted(vectors: Array, rules: Rules) -> Array:
    expected = vectors[..., INDEX["expected_mean"]]
    counted = [rules.counts(vectors[..., INDEX[gap]], expected) for gap in _GAPS]
    settled = is_settled(vectors)
    for scale in range(len(SCALES)):
        counted[scale] &= ~settled
    for slow, fast in ((2, 1), (3, 1), (4, 2), (4, 3)):
        counted[slow] &= _lasts(vectors[..., INDEX[SCALES[slow]]], vectors[..., INDEX[SCALES[fast]]])
    return np.stack([*counted, rules.spread_counts(vectors)], axis=-1)
