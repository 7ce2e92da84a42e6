"""What is normal for one service at any instant and load: fitted from its history, evaluated sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array, Frame
from foreshock.features import kernels
from foreshock.features.calendar import DAY_S, civil_days, civil_seconds
from foreshock.features.robust import median, median_by_group
from foreshock.features.schema import FEW_METRICS, STATISTICS, Schema
from foreshock.features.seasonality import find_season, phase_scale, to_grid

Shape = NDArray[np.float32]
LEVEL_DAYS = 1  # the level is that of the last day: slow change is followed, an incident of hours is not
_BIN_S = 300
N_KNOTS = 4
_WINSOR = 4.0
_GROWTH_DAYS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """The envelope's middle and width as flat arrays, in each metric's own unit; see `kernels.expect`.

    `level` of the last day, `known` that most days had, `slope` (per second from `anchor_s`), `scale`: (n_metrics,).
    `daily`, `daily_scale`: (n_metrics, n_bins); `weekly`, `weekly_scale`: (n_metrics, 7 * n_bins); these four in
    float32, they are most of a model. `loads`: columns of the load metrics; `knots` (n_loads, n_knots), `response`
    (n_metrics, n_loads, n_knots). `explained_by` (n_metrics, n_metrics) and `precision` (n_metrics,): the joint
    structure of the lightly smoothed residuals.
    """

    anchor_s: int
    time_zone: str
    level: Array
    known: Array
    slope: Array
    daily: Shape
    weekly: Shape
    scale: Array
    daily_scale: Shape
    weekly_scale: Shape
    loads: NDArray[np.int64]
    knots: Array
    response: Array
    explained_by: Array
    precision: Array

    def expect(self, frame: Frame, level: Array | None = None) -> tuple[Array, Array]:
        """Expected value and usual distance from it, both (n_times, n_metrics).

        `level` (n_times, n_metrics) replaces the baseline's own.
        """
        levels = self.level[None, :] if level is None else level
        day_s, week_s = civil_seconds(frame.times_s, self.time_zone)
        return kernels.expect(
            np.ascontiguousarray(frame.values),
            (frame.times_s - self.anchor_s).astype(np.float64),
            day_s,
            week_s,
            levels,
            self.known[None, :] if len(self.known) <= FEW_METRICS else levels,
            self.slope,
            self.daily,
            self.weekly,
            self.scale,
            self.daily_scale,
            self.weekly_scale,
            self.loads,
            self.knots,
            self.response,
        )


def bins_of(step_s: int) -> int:
    """How many phases a day is divided into: five minutes each, or one step where steps are longer."""
    return DAY_S // max(_BIN_S, step_s)


def describe(
    frame: Frame,
    schema: Schema,
    expected: Array,
    usual: Array,
    baseline: Baseline,
    first_row: int,
    out: Array | None = None,
) -> Array:
    """Describe every window that ends at `first_row` or later: (n_times - first_row, n_metrics, n_statistics)."""
    filled, known_at = kernels.fill_gaps(np.ascontiguousarray(frame.values))
    if out is None:
        out = np.empty((max(0, frame.n_times - first_row), len(schema.metrics), len(STATISTICS)))
    kernels.describe(
        filled,
        known_at,
        expected,
        usual,
        baseline.explained_by,
        baseline.scale,
        first_row,
        float(schema.step_s),
        schema.window_steps,
        schema.recent_steps,
        schema.long_steps,
        out,
    )
    return out


def fit_baseline(
    frame: Frame,
    teaches: NDArray[np.bool_],
    loads: tuple[int, ...],
    periods_s: tuple[int, ...] | None,
    time_zone: str,
    schema: Schema,
) -> Baseline:
    """Learn what is normal from the rows that may teach, and the present level from all of the last days.

    A service that was away from its level for a day comes back to what is known. Of many metrics one always wanders:
    there only the present level counts (docs/decisions/0024).

    Loads are fitted first, each alone; the others then as the response to the loads and what is left of it.
    """
    n_metrics = len(frame.metrics)
    calendar = _Calendar.of(frame, time_zone)
    anchor_s = frame.end_s
    seconds = (frame.times_s - anchor_s).astype(np.float64)
    n_bins = calendar.n_bins
    level, known = np.zeros(n_metrics), np.zeros(n_metrics)
    slope, scale = np.zeros(n_metrics), np.ones(n_metrics)
    daily, daily_scale = np.zeros((n_metrics, n_bins)), np.ones((n_metrics, n_bins))
    weekly, weekly_scale = np.zeros((n_metrics, 7 * n_bins)), np.zeros((n_metrics, 7 * n_bins))
    knots = np.zeros((len(loads), N_KNOTS))
    response = np.zeros((n_metrics, len(loads), N_KNOTS))
    for position, column in enumerate(loads):
        seen = frame.values[:, column][np.isfinite(frame.values[:, column])]
        if len(seen):
            knots[position] = np.quantile(seen, [0.005, 0.33, 0.67, 0.995])
    ordinary_load = np.zeros((frame.n_times, len(loads)))
    residual = np.full(frame.values.shape, np.nan)
    in_order = [*loads, *(column for column in range(n_metrics) if column not in loads)]
    for column in in_order:
        every = frame.values[:, column]
        values = np.where(teaches, every, np.nan)
        extra = np.zeros(frame.n_times)
        if loads and column not in loads:
            current = np.where(np.isfinite(frame.values[:, list(loads)]), frame.values[:, list(loads)], ordinary_load)
            response[column] = _fit_response(values, current, knots)
            for position in range(len(loads)):
                extra += _broken_line(current[:, position], knots[position], response[column, position])
        slope[column] = _growth(values - extra, calendar, frame.step_s)
        rest = values - extra - slope[column] * seconds
        season = find_season(
            to_grid(rest, calendar.day, calendar.bin, calendar.n_days, n_bins), calendar.weekday, periods_s
        )
        daily[column], weekly[column] = season.daily, season.weekly
        shape = season.daily[calendar.bin] + season.weekly[calendar.in_week]
        # the width is drawn from all rows: without those that fired it would shrink at each retraining
        rest = every - extra - slope[column] * seconds - shape
        level[column] = known[column] = _level(rest, frame)
        if n_metrics <= FEW_METRICS:
            most = median(median_by_group(rest, calendar.day, calendar.n_days))
            known[column] = most if np.isfinite(most) else level[column]
        if column in loads:
            ordinary_load[:, loads.index(column)] = level[column] + slope[column] * seconds + shape
        rest = rest - _running_level(rest, calendar)
        scale[column] = _robust_scale(rest, every)
        squares = to_grid(rest**2, calendar.day, calendar.bin, calendar.n_days, n_bins)
        if periods_s is None or periods_s:
            daily_scale[column], weekly_scale[column] = phase_scale(np.sqrt(squares), calendar.weekday)
        residual[:, column] = rest / scale[column]
    explained_by, precision = _relations(residual, loads, schema.recent_steps)
    return Baseline(
        anchor_s,
        time_zone,
        level,
        known,
        slope,
        daily.astype(np.float32),
        weekly.astype(np.float32),
        scale,
        daily_scale.astype(np.float32),
        weekly_scale.astype(np.float32),
        np.array(loads, dtype=np.int64),
        knots,
        response,
        explained_by,
        precision,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Calendar:
    day: NDArray[np.int64]  # (n_times,) from 0
    bin: NDArray[np.int64]  # (n_times,) of the day
    in_week: NDArray[np.int64]  # (n_times,)
    weekday: NDArray[np.int64]  # (n_days,), Monday 0
    n_days: int
    n_bins: int

    @classmethod
    def of(cls, frame: Frame, time_zone: str) -> _Calendar:
        n_bins = bins_of(frame.step_s)
        day_s, week_s = civil_seconds(frame.times_s, time_zone)
        days = civil_days(frame.times_s, time_zone)
        first = int(days[0])
        n_days = int(days[-1]) - first + 1
        weekday = (first + np.arange(n_days) + 3) % 7
        return cls(days - first, day_s * n_bins // DAY_S, week_s * 7 * n_bins // (7 * DAY_S), weekday, n_days, n_bins)


def _fit_response(values: Array, loads: Array, knots: Array) -> Array:
    """Fit a sum of broken lines through the knots of each load by least squares with Huber weights: (n_loads, n_knots).

    Each line is centred on the usual load, so that the level stays the metric's own; a load that explains less than
    one part in a hundred of the variance explains nothing.
    """
    n_loads, n_knots = knots.shape
    result = np.zeros((n_loads, n_knots))
    seen = np.isfinite(values) & np.isfinite(loads).all(axis=1)
    usable = [position for position in range(n_loads) if np.all(np.diff(knots[position]) > 0)]
    if seen.sum() < 50 or not usable:
        return result
    rows = np.flatnonzero(seen)[:: max(1, int(seen.sum()) // 8000)]
    target = values[rows]
    blocks = [_hats(loads[rows, position], knots[position]) for position in usable]
    design = np.hstack([np.ones((len(rows), 1)), *(block[:, 1:] for block in blocks)])
    bend = np.zeros((design.shape[1], design.shape[1]))
    for k in range(len(usable)):  # a light penalty on bends: data, not noise, must ask for one
        first = 1 + k * (n_knots - 1)
        second = np.diff(np.eye(n_knots), n=2, axis=0)[:, 1:]
        bend[first : first + n_knots - 1, first : first + n_knots - 1] = second.T @ second * 1e-3 * len(rows)
    weights = np.ones(len(rows))
    solution = np.zeros(design.shape[1])
    for _ in range(4):
        weighted = design * weights[:, None]
        solution = np.linalg.lstsq(
            weighted.T @ design + bend + 1e-9 * np.eye(len(bend)) * len(rows), weighted.T @ target, rcond=None
        )[0]
        off = target - design @ solution
        spread = 1.4826 * median(np.abs(off)) + 1e-12
        weights = np.minimum(1.0, 1.5 * spread / (np.abs(off) + 1e-12))
    explained = 1.0 - float(np.average(off**2, weights=weights)) / (
        float(np.average((target - np.average(target, weights=weights)) ** 2, weights=weights)) + 1e-30
    )
    if explained < 0.01:
        return result
    for k, position in enumerate(usable):
        line = np.r_[0.0, solution[1 + k * (n_knots - 1) : 1 + (k + 1) * (n_knots - 1)]]
        usual = median(_broken_line(loads[rows, position], knots[position], line))
        result[position] = line - usual
    return result


def _hats(load: Array, knots: Array) -> Array:
    """The basis of broken lines: (n, n_knots); beyond the ends the outer segments go straight on."""
    basis = np.zeros((len(load), len(knots)))
    segment = np.clip(np.searchsorted(knots, load) - 1, 0, len(knots) - 2)
    share = (load - knots[segment]) / (knots[segment + 1] - knots[segment])
    rows = np.arange(len(load))
    basis[rows, segment] = 1.0 - share
    basis[rows, segment + 1] = share
    return basis


def _broken_line(load: Array, knots: Array, heights: Array) -> Array:
    return _hats(load, knots) @ heights if np.all(np.diff(knots) > 0) else np.zeros(len(load))


def _growth(values: Array, calendar: _Calendar, step_s: int) -> float:
    """Slope per second that the history had throughout: in each of its thirds, and well beyond its noise; else 0."""
    days = median_by_group(values, calendar.day, calendar.n_days)
    counts = np.bincount(calendar.day[np.isfinite(values)], minlength=calendar.n_days)
    full = np.flatnonzero(counts >= 0.5 * DAY_S / step_s)
    if len(full) < _GROWTH_DAYS:
        return 0.0
    x, y = full.astype(np.float64), days[full]
    first, second = np.triu_indices(len(x), 1)
    slope = median((y[second] - y[first]) / (x[second] - x[first]))
    thirds = np.array_split(np.arange(len(x)), 3)
    ends = [median(y[third]) for third in thirds]
    spans = [median(x[third]) for third in thirds]
    early = (ends[1] - ends[0]) / (spans[1] - spans[0])
    late = (ends[2] - ends[1]) / (spans[2] - spans[1])
    rest = y - slope * x
    noise = 1.4826 * median(np.abs(rest - median(rest))) + 1e-12
    steady = min(early / slope, late / slope) > 0.4 if slope else False
    return slope / DAY_S if steady and abs(slope) * (x[-1] - x[0]) > 8.0 * noise else 0.0


def _level(rest: Array, frame: Frame) -> float:
    """The median of the last days that hold enough samples, of everything where they do not."""
    last = rest[-LEVEL_DAYS * DAY_S // frame.step_s :]
    seen = np.isfinite(last).sum()
    level = median(last if seen >= 0.3 * len(last) else rest)
    return level if np.isfinite(level) else 0.0


def _running_level(rest: Array, calendar: _Calendar) -> Array:
    """The level of the days around each row, so that a history that moved is not taken for a noisy one."""
    days = median_by_group(rest, calendar.day, calendar.n_days)
    around = np.array([median(days[max(0, day - 1) : day + 2]) for day in range(calendar.n_days)])
    return np.asarray(np.nan_to_num(around)[calendar.day])


def _robust_scale(rest: Array, values: Array) -> float:
    """Standard deviation as the middle of the data sees it, never below the metric's own resolution."""
    seen = rest[np.isfinite(rest)]
    raw = values[np.isfinite(values)]
    if not len(seen):
        return 1.0
    sample = raw[:: max(1, len(raw) // 4000)]
    steps = np.diff(np.unique(sample))
    resolution = 0.5 * float(np.min(steps)) if 0 < len(steps) < 200 else 0.0
    size = median(np.abs(raw))
    middle = 1.4826 * median(np.abs(seen - median(seen)))
    low, high = np.quantile(seen, [0.05, 0.95])
    wide = float(high - low) / 3.29
    # a metric that hardly ever moves: its usual distance is that of the rare moves, or 2 % of its size
    least = max(resolution, 1e-6 * size, 1e-12)
    if max(middle, 0.3 * wide) <= least:
        spread = float(np.std(seen))
        return max(least, spread, 0.02 * size if len(steps) == 0 else 0.0)
    return max(middle, 0.5 * wide, least)


def _relations(residual: Array, loads: tuple[int, ...], recent: int) -> tuple[Array, Array]:
    """Predict each lightly smoothed residual from the others, by the inverse of their shrunk covariance.

    `explained_by[i, j]` = -P[i, j] / P[i, i] and `precision[i]` = P[i, i], P the precision matrix (Lauritzen 1996,
    section 5.1). Residuals are winsorised, loads stand outside: they act through the response.
    """
    n_metrics = residual.shape[1]
    explained_by, precision = np.zeros((n_metrics, n_metrics)), np.ones(n_metrics)
    judged = [column for column in range(n_metrics) if column not in loads]
    if len(judged) < 2:
        return explained_by, precision
    n_blocks = len(residual) // recent
    blocks = residual[: n_blocks * recent, judged].reshape(n_blocks, recent, len(judged))
    counts = np.isfinite(blocks).sum(axis=1)
    smooth = np.where(counts > 0, np.nansum(blocks, axis=1) / np.maximum(counts, 1), 0.0)
    spread = 1.4826 * np.median(np.abs(smooth - np.median(smooth, axis=0)), axis=0)
    spread = np.maximum(np.where(spread > 0, spread, smooth.std(axis=0)), 1e-3)
    clipped = np.clip(smooth / spread, -_WINSOR, _WINSOR)
    covariance = clipped.T @ clipped / max(1, len(clipped))
    shrinkage = min(0.5, 0.02 + 2.0 * len(judged) / max(1, len(clipped)))
    covariance = (1.0 - shrinkage) * covariance + shrinkage * np.diag(np.maximum(np.diag(covariance), 1e-3))
    inverse = np.linalg.inv(covariance * np.outer(spread, spread))
    rows = np.array(judged)
    explained_by[np.ix_(rows, rows)] = -inverse / np.diag(inverse)[:, None]
    explained_by[rows, rows] = 0.0
    precision[rows] = np.diag(inverse)
    return explained_by, precision
