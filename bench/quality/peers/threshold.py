"""The peers' threshold: peaks over threshold on hourly maxima of scores that the model was not fitted on.

The largest tenth of the hourly maxima (10 at least) is the tail; a generalised Pareto distribution is fitted to its
excesses by probability-weighted moments (Hosking and Wallis 1987), its shape held between -0.5 and 0.5; the threshold
is the score that hours exceed as often as the budget allows. The same rule for every peer, and nothing tuned for any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bench.quality.detector import Budget
from bench.quality.measure import HOUR_S, Scores

_TAIL, _LEAST_TAIL = 0.1, 10
_MOST_SHAPE = 0.5


@dataclass(frozen=True, slots=True)
class Scale:
    """Raw scores become 0 in the middle of held-out time and 1 at the threshold."""

    middle: float
    threshold: float

    def __call__(self, raw: Scores) -> Scores:
        """Linear; below the middle it goes on falling."""
        return np.asarray((raw - self.middle) / (self.threshold - self.middle))


def scale_of(held_out: Scores, step_s: int, budget: Budget) -> Scale:
    """Calibrate on held-out raw scores (n_rows,), in the order of time."""
    known = held_out[np.isfinite(held_out)]
    middle = float(np.median(known)) if len(known) else 0.0
    threshold = peaks_over_threshold(hourly_maxima(held_out, step_s), budget.per_s * HOUR_S)
    return Scale(middle, max(threshold, middle + 1e-9 + 1e-6 * abs(middle)))


def hourly_maxima(scores: Scores, step_s: int) -> Scores:
    """The largest score of each hour that has one; a step longer than an hour counts as one."""
    per_hour = max(1, HOUR_S // step_s)
    padded = np.full(-(-len(scores) // per_hour) * per_hour, -np.inf)
    padded[: len(scores)] = np.nan_to_num(scores, nan=-np.inf)
    maxima = padded.reshape(-1, per_hour).max(axis=1)
    return np.asarray(maxima[np.isfinite(maxima)])


def peaks_over_threshold(maxima: Scores, per_hour: float) -> float:
    """The level that an hour exceeds with the given probability."""
    if not len(maxima):
        return np.inf
    ordered = np.sort(maxima)[::-1]
    n_tail = min(len(ordered) - 1, max(_LEAST_TAIL, int(_TAIL * len(ordered))))
    if n_tail < 1:
        return float(ordered[0])
    base = float(ordered[n_tail])
    shape, scale = _pareto(ordered[:n_tail] - base)
    beyond = min(1.0, per_hour * len(ordered) / n_tail)  # of the hours in the tail, those that may exceed the level
    if abs(shape) < 1e-6:
        return base - scale * float(np.log(beyond))
    return base + scale * (beyond**-shape - 1.0) / shape


def _pareto(excesses: Scores) -> tuple[float, float]:
    """Shape and scale, the shape positive for a heavy tail."""
    ascending = np.sort(excesses)
    n = len(ascending)
    mean = float(ascending.mean())
    if n < 2 or mean <= 0.0:
        return 0.0, max(mean, 0.0)
    weights = (n - np.arange(1, n + 1)) / (n - 1)
    moment = float((weights * ascending).mean())
    if mean - 2.0 * moment <= 1e-12 * mean:
        return _MOST_SHAPE, mean * (1.0 - _MOST_SHAPE)
    shape = float(np.clip(2.0 - mean / (mean - 2.0 * moment), -_MOST_SHAPE, _MOST_SHAPE))
    return shape, mean * (1.0 - shape)  # the mean of the distribution stays that of the excesses
