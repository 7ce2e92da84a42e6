"""Geometry that may be believed: extremes stay, gaps stay gaps, labels are round."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foreshock.diagnosis.figure import (
    LINE_BUCKETS,
    Span,
    Tick,
    TimeAxis,
    ValueAxis,
    axis_of_metric,
    axis_of_scores,
    band_path,
    line_path,
    runs,
    thin,
)

AXIS = TimeAxis(0.0, 6000.0)
UNIT = ValueAxis(0.0, 1.0)
NAN = float("nan")


def points(path: str) -> np.ndarray:
    return np.array([[float(x), float(y)] for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)])


@given(arrays(np.float64, st.integers(1, 5000), elements=st.floats(-1e6, 1e6, width=32)), st.integers(2, 200))
def test_a_thinned_line_keeps_its_extremes_and_its_order(values: np.ndarray, buckets: int) -> None:
    """At most two points a bucket remain, among them the highest and the lowest of all, in the order of time."""
    times_s = np.arange(values.size, dtype=np.float64)
    kept_s, kept = thin(times_s, values, buckets)
    assert kept.size <= 2 * buckets
    assert kept.max() == values.max()
    assert kept.min() == values.min()
    assert (np.diff(kept_s) > 0).all()
    np.testing.assert_array_equal(values[kept_s.astype(int)], kept)


def test_a_long_line_has_at_most_1500_points() -> None:
    """Four weeks of minutes become a line that a browser draws at once."""
    times_s = 60.0 * np.arange(28 * 1440)
    path = line_path(times_s, np.random.default_rng(1).random(times_s.size), TimeAxis(0, times_s[-1]), UNIT)
    assert 2 * LINE_BUCKETS * 0.9 < len(points(path)) <= 1500


def test_a_gap_breaks_the_line_and_a_lone_sample_is_a_dot() -> None:
    """What was not measured is not drawn over, be it NaN or rows that are not there at all."""
    values = np.array([0.5, 0.5, NAN, 0.5, NAN, 0.5, 0.5])
    times_s = 60.0 * np.arange(7)
    assert line_path(times_s, values, AXIS, UNIT) == "M0.0,50.0L10.0,50.0 M30.0,50.0h.01 M50.0,50.0L60.0,50.0"
    assert line_path(np.array([0.0, 60, 120, 3000, 3060]), np.full(5, 0.5), AXIS, UNIT).count("M") == 2
    assert line_path(times_s, np.full(7, NAN), AXIS, UNIT) == ""


def test_a_band_is_closed_and_split_by_gaps() -> None:
    """Each stretch with both limits is one closed outline."""
    lower, upper = np.array([0.2, 0.2, NAN, 0.2, 0.2]), np.array([0.8, 0.8, 0.8, 0.8, 0.8])
    path = band_path(60.0 * np.arange(5), lower, upper, AXIS, UNIT)
    assert path.split(" ")[0] == "M0.0,20.0L10.0,20.0L10.0,80.0L0.0,80.0Z"
    assert path.count("Z") == 2


def test_a_long_band_is_averaged() -> None:
    """A band of four weeks has at most two points in each of its buckets, and keeps its level."""
    times_s = 60.0 * np.arange(28 * 1440)
    flat = np.full(times_s.size, 0.25)
    found = points(band_path(times_s, flat, flat + 0.5, TimeAxis(0, times_s[-1]), UNIT))
    assert len(found) <= 702
    assert set(found[:, 1]) == {25.0, 75.0}


@pytest.mark.parametrize(
    ("from_s", "to_s", "expected"),
    [
        (0, 86_400, ["1 Jan", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "2 Jan"]),
        (600, 4200, ["00:10", "00:20", "00:30", "00:40", "00:50", "01:00", "01:10"]),
        (0, 7 * 86_400, ["1 Jan", "2 Jan", "3 Jan", "4 Jan", "5 Jan", "6 Jan", "7 Jan", "8 Jan"]),
    ],
)
def test_times_are_labelled_at_round_instants(from_s: int, to_s: int, expected: list[str]) -> None:
    """Labels stand at round UTC times, with the date where a day begins."""
    assert [tick.text for tick in TimeAxis(from_s, to_s).ticks()] == expected


@given(st.floats(0, 2e9), st.floats(60, 4e8))
def test_there_are_never_many_labels(from_s: float, length_s: float) -> None:
    """Any period has at most ten labels, all of them within the plot."""
    ticks = TimeAxis(from_s, from_s + length_s).ticks()
    assert len(ticks) <= 10
    assert all(0 <= tick.percent <= 100 for tick in ticks)


def test_a_span_is_cut_to_the_plot() -> None:
    """What began before the period or ends after it is drawn up to the edge."""
    assert AXIS.span(-100, 3000) == Span(0.0, 50.0)
    assert AXIS.span(3000, 9000) == Span(50.0, 50.0)
    assert AXIS.span(7000, 9000) == Span(100.0, 0.0)


@given(
    arrays(np.float64, 20, elements=st.floats(-1e9, 1e9, width=32) | st.just(NAN)),
    arrays(np.float64, 20, elements=st.floats(-1e9, 1e9, width=32) | st.just(NAN)),
)
def test_every_value_lies_on_its_axis(values: np.ndarray, centre: np.ndarray) -> None:
    """An axis holds all measured values, has a length, and at most six labels within it."""
    axis = axis_of_metric(values, centre - 1, centre + 1)
    measured = values[np.isfinite(values)]
    assert axis.low < axis.high
    assert ((axis.low <= measured) & (measured <= axis.high)).all()
    assert len(axis.ticks()) <= 6
    assert all(-1e-6 <= axis.percent(tick) <= 100 for tick in axis.ticks())


def test_a_huge_band_does_not_flatten_the_values() -> None:
    """A band of a thousand times the values' range is drawn in part."""
    values = np.array([10.0, 12.0])
    axis = axis_of_metric(values, values - 1000, values + 1000)
    assert axis.high - axis.low < 20


def test_what_was_expected_is_on_the_axis() -> None:
    """A metric that stays at 120 while 70 was expected: both are visible, however calm it is."""
    values, centre = np.full(50, 120.0), np.linspace(120, 70, 50)
    assert axis_of_metric(values, centre - 5, centre + 5).low < 70


def test_what_is_never_negative_has_no_axis_below_zero() -> None:
    """A ratio near zero is not drawn above a negative scale."""
    assert axis_of_metric(np.array([0.0, 0.02]), np.array([0.0, 0.0]), np.array([0.01, 0.01])).low == 0


def test_the_threshold_stays_visible_beside_a_huge_score() -> None:
    """At a score of 500 the line of 1.0 is still a ninth of the plot above the ground; small scores are linear."""
    high = axis_of_scores(np.array([0.2, NAN, 500.0]))
    assert high.logarithmic
    assert 11 < 100 - high.percent(1.0) < 20
    assert high.high >= 500
    assert max(high.ticks()) <= high.high
    low = axis_of_scores(np.array([0.2, 0.4]))
    assert (low.logarithmic, low.high) == (False, 1.3)
    assert axis_of_scores(np.array([NAN])).high == 1.3


@given(arrays(np.bool_, st.integers(0, 60)))
def test_runs_are_the_mask(mask: np.ndarray) -> None:
    """Written back, the runs give the mask; and no two of them touch."""
    back = np.zeros(mask.size, dtype=bool)
    found = runs(mask)
    for first, last in found:
        back[first : last + 1] = True
    np.testing.assert_array_equal(back, mask)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(found))


def test_a_tick_is_a_place_and_a_text() -> None:
    """The label of noon stands in the middle of a day."""
    assert Tick(50.0, "12:00") in TimeAxis(0, 86_400).ticks()
