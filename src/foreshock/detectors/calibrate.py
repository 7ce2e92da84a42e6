"""Turn raw scores into "1.0 spends the false-alarm budget": a robust tail of the hourly maxima of held-out scores.

Maxima of hours, because the budget counts incidents and windows an hour apart share no sample. Quantiles, not the
largest values, because the history may hold incidents: they are kept (leaving them out lowers the threshold at each
retraining, decision 0004), yet a few hours of them must not lift it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.core.frame import Array

HOUR_S = 3600
_BODY, _TAIL = 0.80, 0.95  # the quantiles between which the decay of the tail is read
_SHAPE = 0.1  # of the generalised Pareto tail: slightly heavier than exponential, as services are
_CAUTION = 0.5  # aim for half of the budget: the budget is what a user accepts, not what is owed


@dataclass(frozen=True, slots=True)
class Calibration:
    """The raw score in the middle of normal (0.0) and the one that spends the budget (1.0)."""

    middle: float
    threshold: float

    def __call__(self, raw: Array) -> Array:
        """Calibrated scores: linear, 0 at and below the middle, without an upper end."""
        return np.maximum(0.0, (raw - self.middle) / (self.threshold - self.middle))


def hourly_maxima(scores: Array, step_s: int) -> Array:
    """The largest score of each hour: (n_hours, ...) from (n_times, ...); hours without any score are left out."""
    per_hour = max(1, HOUR_S // step_s)
    n_hours = max(1, len(scores) // per_hour)
    used = min(len(scores), n_hours * per_hour)
    blocks = np.nan_to_num(scores[:used], nan=-np.inf).reshape(n_hours, -1, *scores.shape[1:])
    maxima = blocks.max(axis=1)
    flat = maxima.reshape(n_hours, -1)
    return np.asarray(maxima[np.isfinite(flat).any(axis=1)])


def tail_threshold(maxima: Array, false_alarms_per_s: float) -> Array:
    """The score that the hourly maxima exceed at half of the given rate: (...) from (n_hours, ...).

    A generalised Pareto tail above the 80 % quantile (Pickands 1975) with a fixed shape, whose scale is read between
    the 80 % and 95 % quantiles.
    """
    maxima = np.where(np.isfinite(maxima), maxima, 0.0)
    body, tail = np.quantile(maxima, [_BODY, _TAIL], axis=0)
    per_hour = min(false_alarms_per_s * HOUR_S * _CAUTION, 0.05)
    unit = ((1 - _BODY) / (1 - _TAIL)) ** _SHAPE - 1.0
    reach = ((1 - _BODY) / per_hour) ** _SHAPE - 1.0
    return np.asarray(body + (tail - body) * reach / unit)


def calibrate(raw: Array, step_s: int, false_alarms_per_s: float) -> Calibration:
    """Calibrate held-out raw scores (n_times,) against the budget."""
    seen = raw[np.isfinite(raw)]
    middle = float(np.median(seen)) if len(seen) else 0.0
    threshold = float(tail_threshold(hourly_maxima(raw, step_s), false_alarms_per_s)) if len(seen) else 1.0
    return Calibration(middle, max(threshold, middle + 1e-6 + 1e-3 * abs(middle)))
