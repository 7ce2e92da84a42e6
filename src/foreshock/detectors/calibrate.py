"""Turn raw scores into "1.0 spends the false-alarm budget": a robust tail of the hourly maxima of held-out scores.

Maxima of hours, because the budget counts incidents and windows an hour apart share no sample. Quantiles, not the
largest values, because the history may hold incidents: they are kept (leaving them out lowers the threshold at each
retraining, decision 0004), yet a few hours of them must not lift it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from foreshock.core.frame import Array

HOUR_S = 3600
_BODY = 0.80  # the quantile of the hourly maxima above which an hour may belong to an incident
_SHAPE = 0.1  # of the generalised Pareto tail: slightly heavier than exponential, as services are
LEAST_THRESHOLD = 0.5
AIM = 0.2  # of the budget: it is what a user accepts, not what is owed
_ORDINARY = 0.75  # of the incidents of a history teach the scale of their tail: a quarter may be real
_LUCK = np.exp(0.5772)  # times n: the mean of the worst of n excesses is exceeded by one in so many (Gumbel 1958)
_STRANGE = 20.0  # histories, one of which holds a worst excess that lies so far: it is an incident, not the tail's own
_BEYOND = 3.0  # times as far above the body as the worst incident: no history of weeks knows what lies further
_NO_NEWS = 1.001  # times what a history holds often
_QUANTILES = (0.50, _BODY, 0.95)  # that fix the tail of a crowd
_GUESS = 0.05  # of its shape before it was seen
_GUESS_HOURS = 200.0  # that say as much about the shape as the guess does
# The longest interval whose threshold is read from the history: half of it, and a week from any. Beyond, up to the one
# that was measured, the score of a crowd rises with the square root: on D2, D3 and ASD one alarm in x squared lies
# beyond x thresholds (decision 9)
_READABLE, _READABLE_S, _MEASURED_S, _FAR = 0.5, 7 * 86_400, 30 * 86_400, 0.5
_FEW_HOURS = 48.0  # of history, at which a threshold may be twice the ordinary one
_CHANCE = 3  # incidents above the threshold beyond those that the budget pays for


def _above(k: int) -> float:
    """Of the hours above the lowest quantile, those above the k-th."""
    return (1.0 - _QUANTILES[k]) / (1.0 - _QUANTILES[0])


_SHAPES = np.linspace(-0.25, 0.45, 141) + 1e-6
# What `_scale` finds of a tail with this shape and a scale of 1: the integral of its quantiles, the upper ones cut
_CENSORED_MEAN = (
    ((1.0 - (1.0 - _ORDINARY) ** (1.0 - _SHAPE)) / (1.0 - _SHAPE) - _ORDINARY) / _SHAPE
    + (1.0 - _ORDINARY) * ((1.0 - _ORDINARY) ** -_SHAPE - 1.0) / _SHAPE
) / _ORDINARY
_RATIOS = (_above(2) ** -_SHAPES - 1.0) / (_above(1) ** -_SHAPES - 1.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The raw score in the middle of normal (0.0) and the one that spends the budget (1.0).

    Numbers for one model; for a fleet arrays (n_models,), row i calibrating score i.
    """

    middle: float | Array
    threshold: float | Array

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


@njit(cache=True, nogil=True)
def _incidents(maxima: Array) -> Array:
    """Join consecutive hours above the 80 % quantile into one incident, its largest hour; the others become NaN.

    An incident of a day is one event that people see, not 24: counted hour by hour it would lift the threshold so far
    that nothing is found for as long as the history holds it.
    """
    n_hours, n_scores = maxima.shape
    result = maxima.copy()
    for k in range(n_scores):
        body = np.quantile(maxima[:, k], _BODY)
        peak = -1
        for i in range(n_hours):
            if maxima[i, k] <= body:
                peak = -1
            elif peak < 0:
                peak = i
            elif maxima[i, k] > maxima[peak, k]:
                result[peak, k] = np.nan
                peak = i
            else:
                result[i, k] = np.nan
    return result


def tail_threshold(
    maxima: Array, false_alarms_per_s: float, *, aim: float = AIM, ordinary: float = np.inf, most: float = np.inf
) -> Array:
    """The score that incidents exceed at `aim` times the given rate: (...) from the hourly maxima (n_hours, ...).

    A generalised Pareto tail of the incidents above the 80 % quantile (Pickands 1975) with a fixed shape. Its scale is
    read twice, and the smaller counts: from the lower three quarters of the incidents, plus one standard error, so that
    a short history asks for more distance and a few real incidents do not move it far; and from the worst that is not
    so far off that it must be real, since a tail foretells nothing worse than what came. But hours know no tail: the
    fewer days there are, the less may they lift a threshold above the `ordinary` one of longer histories; and no tail
    lifts it above `most`, or thrice as far as the worst. Whatever the tail says, what a history holds often is no news:
    a fifth of its hours do not lie above, nor more incidents than chance explains.
    """
    shape = maxima.shape[1:]
    flat = np.ascontiguousarray(np.where(np.isfinite(maxima), maxima, 0.0).reshape(len(maxima), -1))
    body = np.quantile(flat, _BODY, axis=0)
    incidents = _incidents(flat)
    above = np.where(incidents > body, incidents - body, np.nan)
    n_above = np.maximum(1, np.isfinite(above).sum(axis=0))
    worst = np.nan_to_num(above).max(axis=0)
    per_hour = false_alarms_per_s * HOUR_S * aim
    share = np.minimum(1.0, per_hour * len(flat) / n_above)  # of the incidents, those that may exceed the threshold
    scale = _scale(above, n_above)
    own = np.where(above <= scale * _reach(_STRANGE * n_above), above, 0.0).max(axis=0)
    scale = np.minimum(scale, own / _reach(_LUCK * n_above))
    most = min(most, ordinary * (1.0 + (len(flat) / _FEW_HOURS) ** 2))
    tail = np.minimum(scale * _reach(1.0 / share), _BEYOND * worst)
    threshold = np.maximum(np.minimum(most, body + tail), _NO_NEWS * body)
    allowed = _allowed(false_alarms_per_s, len(flat))
    if len(flat) > allowed:
        next_one = np.sort(np.nan_to_num(above, nan=-np.inf), axis=0)[-1 - allowed]
        threshold = np.maximum(threshold, body + _NO_NEWS * next_one)
    return np.asarray(threshold.reshape(shape))


def _reach(one_in: Array) -> Array:
    """The excess, in scales, that one in so many exceeds."""
    return np.asarray((one_in**_SHAPE - 1.0) / _SHAPE)


def _scale(above: Array, n_above: NDArray[np.int64]) -> Array:
    """The scale of the excesses (n, n_scores), NaN where there is none, and its standard error: (n_scores,).

    The lower three quarters of them as they are, the others taken for the largest of these: what remains of the mean of
    an exponential tail is its maximum likelihood estimate (Epstein and Sobel 1953), with an error of 1 / sqrt(taught).
    """
    taught = np.ceil(_ORDINARY * n_above).astype(np.int64)
    last = np.take_along_axis(np.sort(above, axis=0), taught[None, :] - 1, axis=0)[0]
    mean = np.nansum(np.minimum(above, last), axis=0) / taught
    return np.asarray(mean / _CENSORED_MEAN * (1.0 + 1.0 / np.sqrt(taught)))


def _allowed(false_alarms_per_s: float, n_hours: int) -> int:
    """How many incidents of a history may lie above a threshold."""
    return _CHANCE + round(false_alarms_per_s * HOUR_S * n_hours)


def crowd_threshold(maxima: Array, false_alarms_per_s: float, *, aim: float) -> float:
    """The score of many metrics together that incidents exceed at `aim` times the given rate, from (n_hours,) maxima.

    A generalised Pareto tail of the hours above their median, whose own shape is read as well: a sum over many metrics
    is tame, and a guess for single metrics would ask far too much of it. Three quantiles fix it, the highest 95 %, so
    that a twentieth of the hours may be real incidents; few hours pull the shape to a guess. Whatever the tail says, a
    twentieth of the hours do not lie above, nor more incidents than chance explains; and a budget that is rarer than
    the history can tell asks for what services of its kind have shown (docs/decisions/0009).
    """
    read_per_s = max(false_alarms_per_s, 1.0 / max(_READABLE_S, _READABLE * HOUR_S * len(maxima)))
    low, body, high = np.quantile(maxima, _QUANTILES)
    ratio = (high - low) / (body - low) if body > low else _RATIOS[-1]
    weight = len(maxima) / (len(maxima) + _GUESS_HOURS)
    tail = weight * float(np.interp(ratio, _RATIOS, _SHAPES)) + (1.0 - weight) * _GUESS
    scale = (body - low) * tail / (_above(1) ** -tail - 1.0)
    incidents = _incidents(np.ascontiguousarray(maxima[:, None]))[:, 0]
    peaks = np.sort(incidents[incidents > body])[::-1]
    hours_each = max(1, int((maxima > body).sum())) / max(1, len(peaks))
    share = min(1.0, read_per_s * HOUR_S * aim * hours_each / (1.0 - _QUANTILES[0]))
    threshold = low + scale * (share**-tail - 1.0) / tail
    allowed = _allowed(read_per_s, len(maxima))
    if len(peaks) > allowed:
        threshold = max(threshold, _NO_NEWS * float(peaks[allowed]))
    threshold = max(threshold, _NO_NEWS * float(high))
    rarer = max(1.0, read_per_s / max(false_alarms_per_s, 1.0 / _MEASURED_S))
    return float(low + (threshold - low) * rarer**_FAR)


def calibrate(
    raw: Array,
    step_s: int,
    false_alarms_per_s: float,
    *,
    aim: float = AIM,
    ordinary: float = np.inf,
    least: float = LEAST_THRESHOLD,
    most: float = np.inf,
) -> Calibration:
    """Calibrate held-out raw scores (n_times,) against the budget; see `tail_threshold`."""
    seen = raw[np.isfinite(raw)]
    middle = float(np.median(seen)) if len(seen) else 0.0
    if not len(seen):
        return Calibration(middle, max(1.0, least))
    maxima = hourly_maxima(raw, step_s)
    if aim >= 1.0:
        threshold = crowd_threshold(maxima, false_alarms_per_s, aim=aim)
    else:
        threshold = float(tail_threshold(maxima, false_alarms_per_s, aim=aim, ordinary=ordinary, most=most))
    # where nothing ever counted there is no tail to read: half of a channel's own unit is then the least
    return Calibration(middle, max(threshold, middle + 1e-6 + 1e-3 * abs(middle), least))
