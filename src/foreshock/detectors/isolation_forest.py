"""`isolation_forest`: the shape of the whole window is rare. Liu, Ting, Zhou (2008), made to grow outside the known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors import forest
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import AIM
from foreshock.detectors.rules import Mask, Rules
from foreshock.features.robust import median_of_rows
from foreshock.features.schema import DEVIATION, INDEX, RAW, Schema

_OTHERS = {"deviation_long", "deviation_change", "deviation_before"}  # what one sample or many hours did is no shape
_DEVIATIONS = tuple(INDEX[name] for name in DEVIATION if name not in _OTHERS)
_RAW = tuple(INDEX[name] for name in RAW if name != "data_availability")  # a gap is no shape of the service
_COMPACT_FEATURES = 1_023  # more leave too few bits of a small node for its threshold: 64 metrics and up
_LEAST_WIDTH = 2.0  # usual distances
_REACH = 0.1  # what one e-fold of distance outside the known range adds to a score that lies between 0 and 1


@dataclass(frozen=True, slots=True, eq=False)
class IsolationForest:
    """A forest over the window statistics, and the range it knows: a plain forest stands still outside of it.

    With a load among the metrics, raw statistics stay out: they follow the load wherever it goes.
    """

    name: ClassVar[str] = "isolation_forest"
    aim: ClassVar[float] = AIM
    ordinary: ClassVar[float] = 1.0
    trees: forest.Forest | forest.ForestBlock
    with_raw: bool
    middle: Array  # (n_features,) what stands for a missing statistic and for a metric that does not count
    low: Array  # (n_features,)
    high: Array
    members: NDArray[np.int64] | None = None  # of a stack: which tree block judges each row

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        with_raw = not lesson.rules.is_load.any()
        chosen = _chosen(with_raw=with_raw)
        each = np.empty((vectors.shape[1], len(chosen), len(vectors)))  # of one feature all windows together
        for position, statistic in enumerate(chosen):
            each[:, position] = vectors[..., statistic].T
        each[~np.isfinite(each)] = np.nan
        columns = each.reshape(-1, len(vectors))
        middle = np.nan_to_num(median_of_rows(columns))
        _fill(each, lesson.rules.any_counts(vectors).T[:, None], middle.reshape(*each.shape[:2], 1))
        low, high = np.array([np.quantile(column, [0.001, 0.999]) for column in columns]).T
        half = 0.5 * np.maximum(0.0, _least_widths(vectors, lesson.schema, with_raw=with_raw) - (high - low))
        low, high = low - half, high + half
        trees = forest.fit(columns.T, seed=lesson.seed, compact=len(columns) <= _COMPACT_FEATURES)
        return cls(trees, with_raw, middle, low, high)

    def score(self, vectors: Array, rules: Rules) -> Array:
        rows = _filled(vectors, rules, with_raw=self.with_raw, middle=self.middle)
        outside = np.log1p(self._outside(rows).max(axis=-1))
        if isinstance(self.trees, forest.ForestBlock) and self.members is not None:
            starts = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
            return np.asarray(forest.score_fleet(self.trees, rows.ravel(), starts, self.members) + _REACH * outside)
        return np.asarray(forest.score(_alone(self.trees), rows) + _REACH * outside)

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(self.by_feature(vectors, rules).sum(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        rows = _filled(vectors, rules, with_raw=self.with_raw, middle=self.middle)
        credited = np.maximum(0.0, forest.credits(_alone(self.trees), rows))
        credited = credited / np.maximum(credited.sum(axis=1, keepdims=True), 1e-12)
        beyond = np.log1p(self._outside(rows))
        result = np.zeros(vectors.shape)
        result[..., _chosen(with_raw=self.with_raw)] = (credited + beyond).reshape(len(rows), vectors.shape[1], -1)
        return result

    def _outside(self, rows: Array) -> Array:
        """Distance outside the known range in units of its width, (n, n_features)."""
        return np.maximum(0.0, np.maximum(rows - self.high, self.low - rows)) / (self.high - self.low)

    def dump(self) -> Arrays:
        own = {"middle": self.middle, "low": self.low, "high": self.high, "with_raw": np.array([float(self.with_raw)])}
        return {**own, **{f"trees_{name}": array for name, array in forest.dump(_alone(self.trees)).items()}}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        trees = {name.removeprefix("trees_"): array for name, array in arrays.items() if name.startswith("trees_")}
        middle = arrays["middle"]
        return cls(forest.load(trees, len(middle)), bool(arrays["with_raw"][0]), middle, arrays["low"], arrays["high"])

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        trees = tuple(member.trees for member in members if isinstance(member.trees, forest.Forest))
        middle, low, high = (np.stack([getattr(each, name) for each in members]) for name in ("middle", "low", "high"))
        return cls(forest.pack(trees), members[0].with_raw, middle, low, high, np.arange(len(members)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        members = np.arange(len(self.middle)) if self.members is None else self.members
        return replace(self, middle=self.middle[rows], low=self.low[rows], high=self.high[rows], members=members[rows])


def _alone(trees: forest.Forest | forest.ForestBlock) -> forest.Forest:
    if isinstance(trees, forest.ForestBlock):
        raise TypeError("a stack scores; to explain or dump, take the member itself")
    return trees


def _chosen(*, with_raw: bool) -> list[int]:
    return list(_RAW + _DEVIATIONS if with_raw else _DEVIATIONS)


def _least_widths(vectors: Array, schema: Schema, *, with_raw: bool) -> Array:
    """The narrowest range that each feature is believed to have, (n_features,): two usual distances of its metric.

    A statistic of counts or of a step-like metric may have been one number all the time: the next number is no news.
    """
    usual = np.nan_to_num(np.nanmedian(vectors[..., INDEX["usual_distance"]], axis=0), nan=1.0)
    names = _chosen(with_raw=with_raw)
    units = np.where(np.array(names)[None, :] < len(RAW), usual[:, None], 1.0)
    per_s = np.isin(names, [INDEX["rate_of_change"], INDEX["deviation_rate_of_change"]])
    return np.asarray(_LEAST_WIDTH * np.where(per_s, units / schema.window_s, units)).ravel() + 1e-12


def _filled(vectors: Array, rules: Rules, *, with_raw: bool, middle: Array) -> Array:
    """The features of each window, (n, n_features), with something in the middle for what is missing or not counted."""
    features = np.ascontiguousarray(vectors[..., _chosen(with_raw=with_raw)])
    _fill(features, rules.any_counts(vectors)[..., None], middle.reshape(*middle.shape[:-1], *features.shape[1:]))
    return features.reshape(len(features), -1)


def _fill(features: Array, counts: Mask, middle: Array) -> None:
    np.copyto(features, middle, where=~(counts & np.isfinite(features)))
