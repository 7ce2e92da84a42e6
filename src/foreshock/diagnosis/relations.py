"""Which metrics stopped to move together: their correlation as it was learnt, and in the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.core.frame import Array, Frame
from foreshock.detectors.model import Model

_RELATED = 0.4  # below this correlation two metrics have no relation that a person would see
_KEPT = 0.5  # of a correlation, beneath which it is broken
_CLIP = 4.0  # usual distances: as when the relation was learnt, so that one spike does not speak for the window


@dataclass(frozen=True, slots=True)
class Broken:
    """`metric` followed `other`, and no longer does; both correlations are of what is unusual about the two."""

    metric: str
    other: str
    before: float
    now: float

    def __str__(self) -> str:
        verb = "no longer follows" if self.before > 0 else "no longer moves against"
        return f"{self.metric} {verb} {self.other}: correlation {self.before:.2f} before, {self.now:.2f} now"


def learnt_correlation(model: Model) -> Array:
    """The correlation of the metrics' residuals that the baseline learnt, (n_metrics, n_metrics).

    The inverse of P with P[i, i] = precision[i] and P[i, j] = -explained_by[i, j] P[i, i] (Lauritzen 1996, 5.1).
    """
    precision = model.baseline.precision
    matrix = -model.baseline.explained_by * precision[:, None]
    np.fill_diagonal(matrix, precision)
    covariance = np.linalg.inv((matrix + matrix.T) / 2.0)
    width = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    return np.asarray(covariance / np.outer(width, width))


def broken_pairs(model: Model, frame: Frame, blamed: Sequence[str], most: int = 5) -> tuple[Broken, ...]:
    """The relations of the blamed metrics that the last window of `frame` broke, the strongest first.

    The correlation now is about the expected values, not about the window's mean: a metric that left for a new level
    does not follow one that stayed, however alike the two wiggle.
    """
    n = len(frame.metrics)
    if n < 2 or not model.baseline.explained_by.any():
        return ()
    expected, usual = model.baseline.expect(frame)
    steps = min(model.schema.window_steps, frame.n_times)
    away = np.clip(((frame.values - expected) / usual)[-steps:], -_CLIP, _CLIP)
    before = learnt_correlation(model)
    found, seen = [], set[tuple[int, int]]()
    for name in blamed:
        i = frame.metrics.index(name)
        for j in range(n):
            pair = (min(i, j), max(i, j))
            if i == j or pair in seen or abs(before[i, j]) < _RELATED:
                continue
            seen.add(pair)
            both = np.isfinite(away[:, i]) & np.isfinite(away[:, j])
            if both.sum() < max(3, steps // 2):
                continue
            x, y = away[both, i], away[both, j]
            now = float(x @ y / np.sqrt(max(float(x @ x) * float(y @ y), 1e-300)))
            if now * np.sign(before[i, j]) < _KEPT * abs(before[i, j]):
                found.append(Broken(name, frame.metrics[j], float(before[i, j]), now))
    return tuple(sorted(found, key=lambda each: -abs(each.before))[:most])
