"""`ensemble`: the largest of the calibrated channels, calibrated once more together. Each sees what others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.autoencoder import Autoencoder
from foreshock.detectors.base import Arrays, Detector, Itemised, Lesson, rows_of
from foreshock.detectors.calibrate import LEAST_THRESHOLD, Calibration, calibrate
from foreshock.detectors.correlation import Correlation
from foreshock.detectors.forecast import Forecast
from foreshock.detectors.isolation_forest import IsolationForest
from foreshock.detectors.level import Level
from foreshock.detectors.rules import Rules
from foreshock.detectors.together import Together
from foreshock.features.schema import FEW_METRICS, INDEX

CHANNELS: tuple[type[Detector], ...] = (Level, Correlation, Together, IsolationForest)  # of the ensemble
DETECTORS: tuple[type[Detector], ...] = (*CHANNELS, Forecast, Autoencoder)
ALGORITHMS: dict[str, tuple[type[Detector], ...]] = {
    "ensemble": CHANNELS,
    **{detector.name: (detector,) for detector in DETECTORS},
}
# what the throttle's cheap statistic says nothing about: each costs less than a forest, and looks at every window
UNTHROTTLED = frozenset({Forecast.name, Autoencoder.name})
# Least and most of the second calibration of `level`, in its own unit: its tails spend the budget, and hours of an
# incident would lift it far more
_LEVEL_BOUNDS = (1.0, 2.0)
# A density must not hold what fired. A robust spread or tail must not be cleaned: its threshold would sink at each
# retraining, and a metric whose noise grew would be excluded for ever
_TAUGHT = frozenset({IsolationForest, Autoencoder})
_LEAST_METRICS: dict[type[Detector], int] = {Correlation: 2}
_SUDDEN = 0.1  # of the budget for what `together` hears of a few metrics; of many it has the whole
# So many metrics count as one where there are many: what `together` does not find among them is mostly noise (measured)
_ALIKE, _ALIKE_IN_RELATIONS = 10.0, 3.0
MOST_SCORE = 1e6  # what was always zero lies any number of its widths away: beyond this the number says nothing
# Channels explain a score in proportion to this power of their own, counted from a threshold below the middle: far
# beyond it the largest leads, and where none is near it all have a say. A fourth power names fewer causes (measured).
_BLEND, _SAY = 2, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Calibrated channels and their joint calibration: the one scorer behind every `algorithm`."""

    channels: tuple[Detector, ...]
    calibrations: tuple[Calibration, ...]
    joint: Calibration

    @classmethod
    def fit(
        cls, algorithm: str, vectors: Array, folds: NDArray[np.int64], lesson: Lesson, teaches: NDArray[np.bool_]
    ) -> Self:
        """Learn from held-out vectors (n, n_metrics, n_statistics).

        `folds` (n,) numbers the blocks of time: a channel is calibrated on blocks that it was not fitted on.
        `teaches` (n,) is False for windows that fired: they stay out of the fits, and in the calibration.
        """
        kinds = ALGORITHMS[algorithm]
        if len(kinds) > 1:
            kinds = tuple(kind for kind in kinds if vectors.shape[1] >= _LEAST_METRICS.get(kind, 1))
        lessons = {kind: _share(kind, kinds, lesson, vectors.shape[1]) for kind in kinds}
        held_out = _cross_scores(lessons, vectors, folds, teaches)
        taught = rows_of(vectors, teaches)
        channels, calibrations = [], []
        for kind, share in lessons.items():
            channels.append(kind.fit(taught if kind in _TAUGHT else vectors, share))
            if kind is Together:  # what moved in one block of time only has no unit in the others
                held_out[kind] = np.fmax(held_out[kind], channels[-1].score(vectors, share.rules))
            bounded = kind is Level and vectors.shape[1] <= FEW_METRICS
            least, most = _LEVEL_BOUNDS if bounded else (LEAST_THRESHOLD, np.inf)
            calibration = calibrate(
                held_out[kind], lesson.schema.step_s, share.false_alarms_per_s,
                aim=kind.aim, ordinary=kind.ordinary, least=least, most=most,
            )  # fmt: skip
            if share.false_alarms_per_s < lesson.false_alarms_per_s:
                calibration = _with_reserve(calibration, kind, vectors.shape[1])
            calibrations.append(calibration)
        scores = [calibration(held_out[kind]) for kind, calibration in zip(kinds, calibrations, strict=True)]
        largest = np.max(np.stack(scores), axis=0)
        return cls(tuple(channels), tuple(calibrations), Calibration(float(np.median(largest)), 1.0))

    def channel_scores(self, vectors: Array, rules: Rules) -> Array:
        """Calibrated scores of the channels, (n_channels, n)."""
        pairs = zip(self.channels, self.calibrations, strict=True)
        return np.stack([calibration(channel.score(vectors, rules)) for channel, calibration in pairs])

    def score(self, vectors: Array, rules: Rules) -> Array:
        """Calibrated scores (n,): 1.0 spends the budget, 0 is the middle of normal, `MOST_SCORE` the upper end."""
        return np.minimum(self.joint(self.channel_scores(vectors, rules).max(axis=0)), MOST_SCORE)

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        """Shares of the metrics in each score, (n, n_metrics); every row adds up to 1."""
        total = np.zeros(vectors.shape[:2])
        for weight, channel in zip(self._weights(vectors, rules), self.channels, strict=True):
            shares = channel.contributions(vectors, rules)
            total += weight[:, None] * shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
        return np.asarray(total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        """Shares of every statistic in each score, (n, n_metrics, n_statistics): they add up to the metric's share.

        Where a channel does not say which statistics mattered, the metric's recent deviation stands for all of them.
        """
        total = np.zeros(vectors.shape)
        for weight, channel in zip(self._weights(vectors, rules), self.channels, strict=True):
            each = channel.contributions(vectors, rules)
            if isinstance(channel, Itemised):
                items = channel.by_feature(vectors, rules)
                items = items / np.maximum(items.sum(axis=-1, keepdims=True), 1e-12) * each[..., None]
            else:
                items = np.zeros(vectors.shape)
                items[..., INDEX["deviation_recent"]] = each
            total += (weight / np.maximum(each.sum(axis=1), 1e-12))[:, None, None] * items
        return np.asarray(total / np.maximum(total.sum(axis=(1, 2), keepdims=True), 1e-12))

    def _weights(self, vectors: Array, rules: Rules) -> Array:
        scores = self.channel_scores(vectors, rules)
        return np.asarray(((_SAY + scores) / (_SAY + scores.max(axis=0))) ** _BLEND)

    def dump(self) -> Arrays:
        """All channels' arrays under `<channel>.<name>`, and the calibrations as (n_channels + 1, 2)."""
        arrays: Arrays = {}
        for channel in self.channels:
            arrays.update({f"{channel.name}.{name}": array for name, array in channel.dump().items()})
        rows = [(each.middle, each.threshold) for each in (*self.calibrations, self.joint)]
        return {**arrays, "calibrations": np.array(rows)}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        """The ensemble that `dump` came from; one from before few metrics had `together` gets one that is silent."""
        channels: list[Detector] = []
        for kind in DETECTORS:
            own = {name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{kind.name}.")}
            if own:
                channels.append(kind.load(own))
        rows = [Calibration(float(middle), float(threshold)) for middle, threshold in arrays["calibrations"]]
        if len(channels) > 1 and not any(isinstance(channel, Together) for channel in channels):
            place = len(channels) - 1  # where it stands in CHANNELS
            channels.insert(place, Together.silent(arrays["level.middle"].shape[0]))
            rows.insert(place, Calibration(0.0, 1.0))
        return cls(tuple(channels), tuple(rows[:-1]), rows[-1])

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        """One ensemble whose row i is judged by member i; all members have the same channels."""
        channels = tuple(
            type(first).stack(tuple(member.channels[k] for member in members))
            for k, first in enumerate(members[0].channels)
        )
        calibrations = tuple(
            _stacked([member.calibrations[k] for member in members]) for k in range(len(members[0].calibrations))
        )
        return cls(channels, calibrations, _stacked([member.joint for member in members]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The members of a stack that judge these rows."""
        return type(self)(
            tuple(channel.take(rows) for channel in self.channels),
            tuple(_taken(calibration, rows) for calibration in self.calibrations),
            _taken(self.joint, rows),
        )


def _stacked(each: list[Calibration]) -> Calibration:
    return Calibration(np.array([one.middle for one in each]), np.array([one.threshold for one in each]))


def _taken(stacked: Calibration, rows: NDArray[np.int64]) -> Calibration:
    return Calibration(np.asarray(stacked.middle)[rows], np.asarray(stacked.threshold)[rows])


def _share(kind: type[Detector], kinds: tuple[type[Detector], ...], lesson: Lesson, n_metrics: int) -> Lesson:
    """What one of the channels learns by (decision 0009): of many metrics, who sees most has all of the budget.

    Of many metrics there is always one that moved: there, what is too small to count stays out.
    """
    many = n_metrics > FEW_METRICS
    part = 1.0 / len(kinds)
    if kind is Together and len(kinds) > 1:
        part = 1.0 if many else _SUDDEN
    rules = lesson.rules if many else lesson.rules.without_minima()
    return replace(lesson, rules=rules, false_alarms_per_s=lesson.false_alarms_per_s * part)


def _cross_scores(
    lessons: Mapping[type[Detector], Lesson], vectors: Array, folds: NDArray[np.int64], teaches: NDArray[np.bool_]
) -> dict[type[Detector], Array]:
    """Score every block of time by detectors that were fitted on the others: (n,) for each kind."""
    scores = {kind: np.full(len(vectors), np.nan) for kind in lessons}
    for fold in np.unique(folds):
        inside = folds == fold
        within, others = rows_of(vectors, inside), rows_of(vectors, ~inside)
        taught = rows_of(others, teaches[~inside])
        for kind, lesson in lessons.items():
            learnt = taught if kind in _TAUGHT else others
            if len(learnt):
                scores[kind][inside] = kind.fit(learnt, lesson).score(within, lesson.rules)
    return scores


def _with_reserve(calibration: Calibration, kind: type[Detector], n_metrics: int) -> Calibration:
    """Ask for more of the channels that take metrics one by one where there are many beside `together`.

    Each metric of a real service finds a new level now and then, which no tail of its past foretells: with 19 metrics
    that alone is ten times the budget (docs/decisions/0009). Relations count twice: they move with either metric.
    """
    reserve = 1.0
    if n_metrics > FEW_METRICS:
        reserve = (n_metrics / _ALIKE_IN_RELATIONS) ** 2 if kind is Correlation else max(1.0, n_metrics / _ALIKE)
    middle = float(calibration.middle)
    return Calibration(middle, middle + reserve * (float(calibration.threshold) - middle))
