"""Find the shape of the day and of the week that a metric repeats, and how reliable each phase of it is.

Everything works on a grid (n_days, n_bins) of civil days. Medians over cycles make one odd day harmless, in keeping
with the contract: what came at the same phase in three days (or two weeks) is normal, anything rarer is an incident.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.features.robust import median, median_of_columns, median_of_rows

DAYS_FOR_DAILY = 3
DAYS_FOR_WEEKLY = 13  # two weeks, less the part of a day that a training window may lack at either end
_WIDTHS = (1, 3, 7, 13)  # bins over which a daily shape may be smoothed; the history chooses
_PHASE_TOLERANCE = 3  # bins by which a nightly job may come early or late
_SMOOTH_WEEK_S = 7_200
_GAIN_DAILY, _GAIN_WEEKLY = 0.98, 0.95  # error left by a shape on cycles it was not drawn from; above it, no shape


@dataclass(frozen=True, slots=True, eq=False)
class Season:
    """What repeats: `daily` (n_bins,) and `weekly` (7 * n_bins,) in the metric's unit, zeros where nothing does."""

    daily: Array
    weekly: Array
    has_daily: bool
    has_weekly: bool


def to_grid(column: Array, day: NDArray[np.int64], bin_: NDArray[np.int64], n_days: int, n_bins: int) -> Array:
    """Average a column (n_times,) into (n_days, n_bins); NaN where a bin holds no sample."""
    seen = ~np.isnan(column)
    cell = (day * n_bins + bin_)[seen]
    total = np.bincount(cell, weights=column[seen], minlength=n_days * n_bins)
    count = np.bincount(cell, minlength=n_days * n_bins)
    with np.errstate(invalid="ignore"):
        return (total / count).reshape(n_days, n_bins)


def find_season(grid: Array, weekday: NDArray[np.int64], periods_s: tuple[int, ...] | None) -> Season:
    """Keep the shapes that predict cycles they were not drawn from; `periods_s` fixes them instead, () means none.

    `grid` (n_days, n_bins); `weekday` (n_days,), Monday 0.
    """
    n_bins = grid.shape[1]
    none = Season(np.zeros(n_bins), np.zeros(7 * n_bins), has_daily=False, has_weekly=False)
    seen_days = np.isfinite(grid).mean(axis=1) >= 0.5
    may_daily = seen_days.sum() >= DAYS_FOR_DAILY and (periods_s is None or 86_400 in periods_s)
    may_weekly = seen_days.sum() >= DAYS_FOR_WEEKLY and (periods_s is None or 604_800 in periods_s)
    if not may_daily and not may_weekly:
        return none
    daily, has_daily = _daily(grid, seen_days, forced=periods_s is not None) if may_daily else (none.daily, False)
    if not may_weekly:
        return Season(daily, none.weekly, has_daily, has_weekly=False)
    weekly, has_weekly = _weekly(grid - daily, weekday)
    return Season(daily, weekly, has_daily, has_weekly)


def _daily(grid: Array, seen_days: NDArray[np.bool_], *, forced: bool) -> tuple[Array, bool]:
    days = grid[seen_days]
    days = days - median_of_rows(days)[:, None]
    halves = (days[0::2], days[1::2])
    flat = sum(float(np.nansum(np.abs(half))) for half in halves)
    best_width, best_error = 1, np.inf
    for width in _WIDTHS:
        error = sum(float(np.nansum(np.abs(other - _day_shape(half, width)))) for half, other in (halves, halves[::-1]))
        if error < best_error:
            best_width, best_error = width, error
    if not forced and best_error > _GAIN_DAILY * flat:
        return np.zeros(grid.shape[1]), False
    shape = _day_shape(days, best_width)
    # the level of each day without its shape, then the shape without the level of each day
    shape = _day_shape(days - median_of_rows(days - shape)[:, None], best_width)
    return shape, True


def _day_shape(days: Array, width: int) -> Array:
    shape = _without_holes(median_of_columns(days))
    shape = _smooth_circular(shape, width)
    return np.asarray(shape - median(shape))


def _weekly(rest: Array, weekday: NDArray[np.int64]) -> tuple[Array, bool]:
    """A smooth shape of the week, where it predicts; and the sharp events that every week had, where any."""
    n_bins = rest.shape[1]
    rest = rest - median(rest)
    week = np.cumsum(np.r_[0, np.diff(weekday) < 0])
    cube = np.full((int(week[-1]) + 1, 7, n_bins), np.nan)
    cube[week, weekday] = rest
    weeks = cube.reshape(len(cube), 7 * n_bins)
    width = max(1, _SMOOTH_WEEK_S * n_bins // 86_400) | 1
    raw = _agreed(weeks)
    smooth = _smooth_circular(raw, width)
    without = np.stack([_smooth_circular(_agreed(np.delete(weeks, k, axis=0)), width) for k in range(len(weeks))])
    error, flat = float(np.nansum(np.abs(weeks - without))), float(np.nansum(np.abs(weeks)))
    has_smooth = error < _GAIN_WEEKLY * flat
    detail = raw - smooth
    noise = 1.4826 * median(np.abs(detail))
    detail = np.where(np.abs(detail) > 6.0 * noise, detail, 0.0)
    weekly = (smooth if has_smooth else 0.0) + detail
    return np.asarray(weekly), bool(has_smooth or detail.any())


def _agreed(weeks: Array) -> Array:
    """What the weeks agree on at each phase: the median of three and more, of two the smaller if the signs agree."""
    count = np.isfinite(weeks).sum(axis=0)
    middle = np.nan_to_num(median_of_columns(weeks))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanmin(weeks, axis=0), np.nanmax(weeks, axis=0)
    both = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return np.where(count >= 3, middle, np.where(count == 2, both, 0.0))


def phase_scale(deviation: Array, weekday: NDArray[np.int64]) -> tuple[Array, Array]:
    """How much less certain each phase is than the median phase: daily (n_bins,) and weekly (7 * n_bins,) ratios.

    `deviation` (n_days, n_bins): root mean square of the residual. A phase is as uncertain as its third worst day
    (its second worst week), so that one incident teaches nothing and a nightly job does.
    """
    n_days, n_bins = deviation.shape
    near = np.nanmax(
        np.stack(
            [np.roll(np.nan_to_num(deviation), k, axis=1) for k in range(-_PHASE_TOLERANCE, _PHASE_TOLERANCE + 1)]
        ),
        axis=0,
    )
    daily, weekly = np.ones(n_bins), np.zeros(7 * n_bins)
    if n_days >= DAYS_FOR_DAILY:
        # the third worst of many days lies high in their distribution, of few it is their middle: the ratio to the
        # median phase cancels that
        daily = _ratio(np.sort(near, axis=0)[-3], least=0.5)
    if n_days >= DAYS_FOR_WEEKLY:
        ranked = np.zeros((7, n_bins))
        for k in range(7):
            same = near[weekday == k]
            if len(same) >= 2:
                ranked[k] = np.sort(same, axis=0)[-2]
        ratio = _ratio(ranked.ravel(), least=0.0)
        weekly = np.where(ratio > 2.0, ratio, 0.0)
    return daily, weekly


def _ratio(worst: Array, *, least: float) -> Array:
    usual = median(worst)
    return np.maximum(worst / usual, least) if usual > 0 else np.maximum(np.where(worst > 0, 10.0, 1.0), least)


def _without_holes(shape: Array) -> Array:
    seen = np.isfinite(shape)
    if seen.all():
        return shape
    if not seen.any():
        return np.zeros_like(shape)
    places = np.arange(len(shape))
    return np.interp(places, places[seen], shape[seen], period=len(shape))


def _smooth_circular(shape: Array, width: int) -> Array:
    if width <= 1:
        return shape
    half = width // 2
    padded = np.r_[shape[-half:], shape, shape[:half]]
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
