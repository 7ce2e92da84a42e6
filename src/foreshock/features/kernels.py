"""The compiled passes from samples to vectors: what was expected of each sample, then what a window of them says.

Both passes serve one service's history (`n_models` = 1, many rows out) and one cycle of a fleet (many models, one row
out) with the same arithmetic in the same order, so that production, `backtest` and `explain` agree bit for bit.
Sums run over the window anew for every row: running sums would differ in the last bits, and cost what they save.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from foreshock.core.frame import Array, Block
from foreshock.features.schema import CHANGE_S, GAP_STEPS, INDEX

_N_RAW_MEAN = INDEX["mean"]
_N_DEVIATION = INDEX["deviation_mean"]
_N_RELATION = INDEX["relation_recent"]
_N_CONTEXT = INDEX["expected_mean"]
_GAP = GAP_STEPS
RELATION_LIMIT = 8.0  # usual distances
_UNKNOWN = np.iinfo(np.int64).max
_MOVED = 2.0  # usual distances between two levels; less is the chance in both


@njit(cache=True, nogil=True)
def expect(  # noqa: C901, PLR0912 - one pass over the samples
    values: Block,
    seconds: Block,
    day_s: Block,
    week_s: Block,
    level: Block,
    known: Block,
    slope: Block,
    daily: Block,
    weekly: Block,
    scale: Block,
    daily_scale: Block,
    weekly_scale: Block,
    loads: Block,
    knots: Block,
    response: Block,
) -> tuple[Array, Array]:
    """Say what was expected of every sample and how far it usually is from that, in the metric's own unit.

    `values` (n_times, n_metrics); `seconds` since the baseline's anchor, `day_s` and `week_s` since local midnight and
    since local Monday, each (n_times,). `level` and `known` hold one row a sample, or one for all.

    A metric is expected at its level, plus its growth, plus the shape of the day
    and of the week, plus what the present load explains: a broken line through `knots`, continued straight. Beyond
    the loads that were seen the scale widens with the extrapolated part, because the line may bend there. Between its
    level and the `known` one that it left, a metric is expected where it is: a way back is no news.
    """
    n_times, n_metrics = values.shape
    n_days, n_weeks = daily.shape[1], weekly.shape[1]
    expected = np.empty((n_times, n_metrics))
    usual = np.empty((n_times, n_metrics))
    is_load = np.zeros(n_metrics, dtype=np.bool_)
    for position in range(loads.shape[0]):
        is_load[loads[position]] = True
    for i in range(n_times):
        levels, others = level[min(i, level.shape[0] - 1)], known[min(i, known.shape[0] - 1)]
        in_day = int(day_s[i]) * n_days // 86_400
        in_week = int(week_s[i]) * n_weeks // 604_800
        for j in range(n_metrics):
            expected[i, j] = levels[j] + slope[j] * seconds[i] + daily[j, in_day] + weekly[j, in_week]
            usual[i, j] = scale[j] * max(daily_scale[j, in_day], weekly_scale[j, in_week])
        for position in range(loads.shape[0]):
            load = values[i, loads[position]]
            ordinary = expected[i, loads[position]]
            if np.isnan(load):
                load = ordinary
            n_knots = knots.shape[1]
            low, high = knots[position, 0], knots[position, n_knots - 1]
            is_rising = True
            for k in range(n_knots - 1):
                is_rising = is_rising and knots[position, k + 1] > knots[position, k]
            if not is_rising:  # a load that mostly stands still, as that of an idle service, explains nothing
                continue
            # the same place on the broken line for every metric: find it once
            segment = 0
            while segment < n_knots - 2 and load > knots[position, segment + 1]:
                segment += 1
            left, right = knots[position, segment], knots[position, segment + 1]
            share = (load - left) / (right - left)
            excess = 0.0
            if load > high:
                excess = load - high
            elif load < low:
                excess = low - load
            for j in range(n_metrics):
                if is_load[j]:
                    continue
                at_left, at_right = response[j, position, segment], response[j, position, segment + 1]
                extra = at_left + (at_right - at_left) * share
                before = expected[i, j]
                expected[i, j] = before + extra
                # half of what was extrapolated may be wrong, and noise grows with the level that the load lifts it to
                unsure = 0.5 * abs((at_right - at_left) / (right - left)) * excess
                if excess > 0.0:
                    edge = before + (at_right if load > high else at_left)
                    if abs(expected[i, j]) > abs(edge) > 0.0:
                        usual[i, j] *= min(10.0, abs(expected[i, j]) / abs(edge))
                usual[i, j] = np.sqrt(usual[i, j] ** 2 + unsure**2)
        for j in range(n_metrics):
            way, off = others[j] - levels[j], values[i, j] - expected[i, j]
            if way > _MOVED * scale[j] and off > 0.0:
                expected[i, j] += min(way, off)
            elif way < -_MOVED * scale[j] and off < 0.0:
                expected[i, j] += max(way, off)
    return expected, usual


@njit(cache=True, nogil=True)
def fill_gaps(values: Block) -> tuple[Array, Array]:
    """Interpolate gaps of up to `GAP_STEPS` linearly, and say from which row on each sample was known.

    A gap is filled when its right end arrives, never before: a window that ends inside the gap does not see it.
    Result: values (n_times, n_metrics), and the row at which each became known (int64; never, where it is missing).
    """
    n_times, n_metrics = values.shape
    filled = values.copy()
    known_at = np.full((n_times, n_metrics), _UNKNOWN)
    for j in range(n_metrics):
        last = -1
        for i in range(n_times):
            if np.isnan(values[i, j]):
                continue
            known_at[i, j] = i
            gap = i - last - 1
            if last >= 0 and 0 < gap <= _GAP:
                slope = (values[i, j] - values[last, j]) / (gap + 1)
                for k in range(1, gap + 1):
                    filled[last + k, j] = values[last, j] + slope * k
                    known_at[last + k, j] = i
            last = i
    return filled, known_at


@njit(cache=True, nogil=True)
def _insert(ordered: Block, count: int, value: float) -> None:
    position = np.searchsorted(ordered[:count], value)
    for k in range(count, position, -1):
        ordered[k] = ordered[k - 1]
    ordered[position] = value


@njit(cache=True, nogil=True)
def _remove(ordered: Block, count: int, value: float) -> None:
    position = np.searchsorted(ordered[:count], value)
    for k in range(position, count - 1):
        ordered[k] = ordered[k + 1]


@njit(cache=True, nogil=True)
def _quantile(ordered: Block, count: int, share: float) -> float:
    """Type 7 of Hyndman and Fan (1996)."""
    place = share * (count - 1)
    below = int(place)
    above = min(below + 1, count - 1)
    return float(ordered[below] + (place - below) * (ordered[above] - ordered[below]))


@njit(cache=True, nogil=True)
def _mean_known(column: Block, known_at: Block, first: int, last: int, now: int) -> float:
    total, count = 0.0, 0
    for i in range(max(0, first), last + 1):
        if known_at[i] <= now:
            total += column[i]
            count += 1
    return total / count if count else np.nan


@njit(cache=True, nogil=True)
def describe(  # noqa: C901, PLR0912, PLR0915 - one pass over the windows, statistic by statistic
    filled: Block,
    known_at: Block,
    expected: Block,
    usual: Block,
    explained_by: Block,
    scale: Block,
    first_row: int,
    step_s: float,
    window: int,
    recent: int,
    long: int,
    out: Block,
) -> None:
    """Describe the window that ends at each row from `first_row` on, for every metric, in `schema.STATISTICS`.

    `filled`, `known_at`, `expected`, `usual`: (n_times, n_metrics). `explained_by` (n_metrics, n_metrics): how the
    others' residuals predict one (zero diagonal), each in units of its `scale` (n_metrics,): widths at a phase of the
    day are guesses, and two metrics that move as one would seem to part where theirs differ. `out`: (n_times -
    first_row, n_metrics, n_statistics), NaN where nothing is known.
    """
    n_times, n_metrics = filled.shape
    out[:] = np.nan
    # lightly smoothed residuals, each from what was known at its own row, and what the other metrics leave of them
    residual = (filled - expected) / usual
    oldest = max(0, first_row - long + 1)
    smooth = np.full((n_times, n_metrics), np.nan)
    unexplained = np.full((n_times, n_metrics), np.nan)
    relation_known = np.full((n_times, n_metrics), _UNKNOWN)
    for i in range(max(0, first_row - window + 1), n_times):
        for j in range(n_metrics):
            smooth[i, j] = _mean_known(residual[:, j], known_at[:, j], i - recent + 1, i, i)
        if n_metrics > 1:
            for j in range(n_metrics):
                if np.isnan(smooth[i, j]):
                    continue
                left = smooth[i, j]
                for k in range(n_metrics):
                    if not np.isnan(smooth[i, k]):
                        # one metric that runs away says nothing about the others: relations were fitted within limits
                        other = min(max(smooth[i, k], -RELATION_LIMIT), RELATION_LIMIT) * usual[i, k] / scale[k]
                        left -= explained_by[j, k] * other * scale[j] / usual[i, j]
                unexplained[i, j] = left
                relation_known[i, j] = i

    change = max(1, int(CHANGE_S / step_s))
    ordered = np.empty(window + 1)
    ordered_residual = np.empty(window + 1)
    inside = np.zeros(n_times, dtype=np.bool_)
    for j in range(n_metrics):
        # a window is read several times: from a column of its own, which lies together in memory
        raw, off, known = filled[:, j].copy(), residual[:, j].copy(), known_at[:, j].copy()
        forecast, width = expected[:, j].copy(), usual[:, j].copy()
        left_over, left_known = unexplained[:, j].copy(), relation_known[:, j].copy()
        count = 0
        inside[:] = False
        for now in range(max(0, first_row - window + 1), n_times):
            leaving = now - window
            if leaving >= 0 and inside[leaving]:
                _remove(ordered, count, raw[leaving])
                _remove(ordered_residual, count, off[leaving])
                count -= 1
                inside[leaving] = False
            if known[now] == now:  # a sample arrived: it also closes a short gap before it
                for i in range(max(0, now - _GAP, leaving + 1), now + 1):
                    if not inside[i] and known[i] <= now and (i == now or known[i] == now):
                        _insert(ordered, count, raw[i])
                        _insert(ordered_residual, count, off[i])
                        count += 1
                        inside[i] = True
            if now < first_row or count == 0:
                continue
            row = out[now - first_row, j]
            first = max(0, leaving + 1)
            n_known, place_sum, squares = 0, 0.0, 0.0
            sum_raw, sum_off, sum_forecast, sum_width = 0.0, 0.0, 0.0, 0.0
            for i in range(first, now + 1):
                if known[i] <= now:
                    n_known += 1
                    place_sum += i - first
                    sum_raw += raw[i]
                    sum_off += off[i]
                    sum_forecast += forecast[i]
                    sum_width += width[i]
                    squares += (raw[i] - forecast[i]) ** 2
            mean, mean_off, expected_mean = sum_raw / n_known, sum_off / n_known, sum_forecast / n_known
            # standard deviations (of the population) and least-squares slopes
            middle, places = place_sum / n_known, 0.0
            squares_raw, weighted_raw, squares_off, weighted_off = 0.0, 0.0, 0.0, 0.0
            for i in range(first, now + 1):
                if known[i] <= now:
                    away = (i - first) - middle
                    places += away * away
                    from_mean, from_mean_off = raw[i] - mean, off[i] - mean_off
                    squares_raw += from_mean * from_mean
                    weighted_raw += away * from_mean
                    squares_off += from_mean_off * from_mean_off
                    weighted_off += away * from_mean_off
            row[0] = mean
            row[1] = _quantile(ordered, count, 0.5)
            row[2] = np.sqrt(squares_raw / n_known)
            row[3] = weighted_raw / places / step_s if places > 0.0 else 0.0
            row[4] = _quantile(ordered, count, 0.75) - _quantile(ordered, count, 0.25)
            row[5] = ordered[0]
            row[6] = ordered[count - 1]
            row[7] = count / window
            d = _N_DEVIATION
            row[d] = mean_off
            row[d + 1] = _quantile(ordered_residual, count, 0.5)
            row[d + 2] = np.sqrt(squares_off / n_known)
            row[d + 3] = weighted_off / places / step_s if places > 0.0 else 0.0
            row[d + 4] = _quantile(ordered_residual, count, 0.75) - _quantile(ordered_residual, count, 0.25)
            row[d + 5] = ordered_residual[0]
            row[d + 6] = ordered_residual[count - 1]
            newest = now
            while newest > now - recent and newest > 0 and known[newest] > now:
                newest -= 1
            if known[newest] <= now:
                row[d + 7] = off[newest]
            row[d + 8] = smooth[now, j]
            n_slow, slow_raw, slow_off, slow_forecast = 0, 0.0, 0.0, 0.0
            for i in range(max(oldest, now - long + 1), now + 1):
                if known[i] <= now:
                    n_slow += 1
                    slow_raw += raw[i]
                    slow_off += off[i]
                    slow_forecast += forecast[i]
            row[d + 9] = slow_off / n_slow
            if now >= change and known[now] <= now and known[now - change] <= now:
                row[d + 10] = off[now] - off[now - change]
            if now >= recent and known[now - recent] <= now:
                row[d + 11] = off[now - recent]
            if n_metrics > 1:
                r = _N_RELATION
                row[r] = left_over[now]
                mean_left = _mean_known(left_over, left_known, first, now, now)
                if not np.isnan(mean_left):
                    row[r + 1] = mean_left
                    squares_left, n_left = 0.0, 0
                    for i in range(first, now + 1):
                        if left_known[i] <= now:
                            squares_left += (left_over[i] - mean_left) ** 2
                            n_left += 1
                    row[r + 2] = np.sqrt(squares_left / n_left)
            c = _N_CONTEXT
            expected_recent = _mean_known(forecast, known, now - recent + 1, now, now)
            row[c] = expected_mean
            row[c + 1] = expected_recent
            row[c + 2] = _mean_known(raw, known, now - recent + 1, now, now) - expected_recent
            row[c + 3] = mean - expected_mean
            row[c + 4] = slow_raw / n_slow - slow_forecast / n_slow
            row[c + 5] = np.sqrt(squares / n_known)
            row[c + 6] = sum_width / n_known
            if now >= change and known[now] <= now and known[now - change] <= now:
                row[c + 7] = raw[now] - raw[now - change]


@njit(cache=True, nogil=True)
def describe_fleet(
    values: Block,
    calendars: Block,
    which_calendar: Block,
    end_seconds: Block,
    level: Block,
    known: Block,
    slope: Block,
    daily: Block,
    weekly: Block,
    scale: Block,
    daily_scale: Block,
    weekly_scale: Block,
    loads: Block,
    knots: Block,
    response: Block,
    explained_by: Block,
    step_s: int,
    window: int,
    recent: int,
    long: int,
    out: Block,
    gaps: Block,
) -> None:
    """Describe the last window of every member of a fleet: one row each, by the arithmetic of one service's history.

    `values` (n_members, n_context, n_metrics); `calendars` (n_calendars, 2, n_context): seconds since local midnight
    and Monday; `which_calendar` (n_members,); `end_seconds` (n_members,): the last row's seconds since the baseline's
    anchor. The baselines' arrays have a leading axis of members. `out` (n_members, n_metrics, n_statistics); `gaps`
    (n_members, n_metrics): steps since the newest sample.
    """
    n_members, n_context, n_metrics = values.shape
    seconds = np.empty(n_context)
    for member in range(n_members):
        calendar = calendars[which_calendar[member]]
        for i in range(n_context):
            seconds[i] = end_seconds[member] - (n_context - 1 - i) * step_s
        rows = values[member]
        expected, usual = expect(
            rows,
            seconds,
            calendar[0],
            calendar[1],
            level[member : member + 1],
            known[member : member + 1],
            slope[member],
            daily[member],
            weekly[member],
            scale[member],
            daily_scale[member],
            weekly_scale[member],
            loads,
            knots[member],
            response[member],
        )
        filled, known_at = fill_gaps(rows)
        describe(
            filled,
            known_at,
            expected,
            usual,
            explained_by[member],
            scale[member],
            n_context - 1,
            float(step_s),
            window,
            recent,
            long,
            out[member : member + 1],
        )
        for j in range(n_metrics):
            gap = 0
            while gap < n_context and np.isnan(rows[n_context - 1 - gap, j]):
                gap += 1
            gaps[member, j] = gap
