"""What is normal: the shapes of day and week, growth, the response to load, in civil time."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.core.frame import Array, Frame
from foreshock.features.baseline import Baseline, fit_baseline
from foreshock.features.calendar import civil_seconds
from foreshock.features.schema import Schema

DAY_S, STEP_S = 86_400, 300
MONDAY_S = 1_767_571_200  # 2026-01-05T00:00:00Z


def _frame(*columns: Array) -> Frame:
    return Frame(MONDAY_S, STEP_S, tuple(f"m{k}" for k in range(len(columns))), np.column_stack(columns))


def _times(days: int) -> Array:
    return MONDAY_S + STEP_S * np.arange(days * DAY_S // STEP_S)


def _fit(frame: Frame, *, loads: tuple[int, ...] = (), time_zone: str = "UTC") -> Baseline:
    schema = Schema(frame.metrics, STEP_S, 3600)
    return fit_baseline(frame, np.ones(frame.n_times, np.bool_), loads, None, time_zone, schema)


def test_a_daily_shape_is_expected_again() -> None:
    """The fitted shape predicts the day after the history."""
    random = np.random.default_rng(1)
    times = _times(9)
    values = 100 + 30 * np.sin(2 * np.pi * times / DAY_S) + random.normal(0, 1, times.size)
    per_day = DAY_S // STEP_S
    history = Frame(MONDAY_S, STEP_S, ("m0",), values[: 8 * per_day, None])
    expected, usual = _fit(history).expect(_frame(values).rows(8 * per_day, 9 * per_day))
    assert np.abs(expected[:, 0] - values[8 * per_day :]).mean() < 2.0
    assert 0.4 < np.median(usual) < 2.5


def test_one_odd_day_teaches_nothing_and_a_nightly_job_does() -> None:
    """What came at one phase on one day is an incident; on every day it is normal."""
    random = np.random.default_rng(2)
    times = _times(8)
    base = random.normal(50, 1, times.size)
    at_three = (times % DAY_S >= 3 * 3600) & (times % DAY_S < 4 * 3600)
    nightly = base + 40 * at_three
    once = base + 40 * (at_three & (times < MONDAY_S + DAY_S))
    day = Frame(MONDAY_S + 8 * DAY_S, STEP_S, ("m0",), np.full((DAY_S // STEP_S, 1), np.nan))
    seen = _fit(_frame(nightly)).expect(day)[0][39, 0]
    unseen = _fit(_frame(once)).expect(day)[0][39, 0]
    assert seen == pytest.approx(90, abs=4)
    assert unseen == pytest.approx(50, abs=4)


def test_growth_is_expected_where_the_whole_history_had_it() -> None:
    """Steady growth goes on; a step in the middle of the history is no growth."""
    random = np.random.default_rng(3)
    days = np.arange(_times(10).size) * STEP_S / DAY_S
    steady = _fit(_frame(100 + 5 * days + random.normal(0, 1, days.size)))
    step = _fit(_frame(100 + 30 * (days > 5) + random.normal(0, 1, days.size)))
    assert steady.slope[0] * DAY_S == pytest.approx(5, rel=0.1)
    assert step.slope[0] == 0


def test_health_follows_the_load_beyond_what_was_seen() -> None:
    """Latency that rises with traffic is expected to rise on with it, and the uncertainty widens there."""
    random = np.random.default_rng(4)
    times = _times(8)
    load = 500 + 300 * np.sin(2 * np.pi * times / DAY_S) + random.normal(0, 10, times.size)
    latency = 0.1 + 1e-4 * load + random.normal(0, 0.002, times.size)
    baseline = _fit(_frame(load, latency), loads=(0,))
    rush = Frame(MONDAY_S + 8 * DAY_S, STEP_S, ("m0", "m1"), np.array([[1500.0, np.nan], [500.0, np.nan]]))
    expected, usual = baseline.expect(rush)
    assert expected[0, 1] == pytest.approx(0.25, abs=0.01)
    assert usual[0, 1] > 3 * usual[1, 1]


def test_civil_time_follows_daylight_saving() -> None:
    """The same local hour has the same phase before and after the switch."""
    before, after = 1_774_602_000, 1_774_602_000 + 2 * DAY_S - 3600  # 10:00 in Berlin on 27 and 29 March 2026
    day_s, _ = civil_seconds(np.array([before, after]), "Europe/Berlin")
    assert day_s[0] == day_s[1] == 10 * 3600


def test_a_load_that_mostly_stands_still_explains_nothing() -> None:
    """A service that idles most of the time can be learnt: its few requests say nothing of its latency."""
    random = np.random.default_rng(5)
    times = _times(3)
    requests = np.where(random.uniform(size=times.size) < 0.1, 4.0, 0.0)
    latency = random.normal(20, 1, times.size)
    frame = _frame(requests, latency)
    expected, usual = _fit(frame, loads=(0,)).expect(frame)
    assert np.abs(expected[:, 1] - 20).max() < 1.0
    assert np.isfinite(usual).all()


@pytest.mark.parametrize(("n_metrics", "away"), [(1, 0.0), (6, 9.0)])
def test_a_way_back_to_the_level_of_most_days_is_expected(n_metrics: int, away: float) -> None:
    """A week at 10, a day at 100: 10 and what lies between is expected, 110 is not; of many metrics only 100 is."""
    random = np.random.default_rng(4)
    times = _times(8)
    values = np.where(times < MONDAY_S + 7 * DAY_S, 10.0, 100.0) + random.normal(0, 10, times.size)
    baseline = _fit(_frame(*[values] * n_metrics))
    later = _frame(*[np.array([10.0, 55.0, 110.0])] * n_metrics)
    expected, _ = baseline.expect(later)
    off = (later.values - expected)[:, 0] / 10.0
    assert off[0] == pytest.approx(-away, abs=1.0)
    assert off[1] == pytest.approx(-away / 2, abs=1.0)
    assert off[2] == pytest.approx(1.0, abs=1.0)
