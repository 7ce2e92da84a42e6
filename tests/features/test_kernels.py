"""The compiled passes say what plain numpy says, never use what was not known yet, and agree for rows and fleets."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.core.frame import Array, Frame
from foreshock.features import kernels
from foreshock.features.schema import GAP_STEPS, INDEX, STATISTICS, Schema

WINDOW, RECENT, LONG, STEP_S = 12, 3, 30, 60.0
CHANGE = 5  # steps of five minutes


def _vectors(values: Array, first_row: int) -> Array:
    expected, usual = np.full(values.shape, 2.0), np.full(values.shape, 0.5)
    filled, known_at = kernels.fill_gaps(values)
    out = np.empty((len(values) - first_row, values.shape[1], len(STATISTICS)))
    explained_by = np.zeros((values.shape[1], values.shape[1]))
    scale = np.ones(values.shape[1])
    kernels.describe(
        filled, known_at, expected, usual, explained_by, scale, first_row, STEP_S, WINDOW, RECENT, LONG, out
    )  # fmt: skip
    return out


def _reference(values: Array, row: int) -> dict[str, float] | None:
    """The raw statistics and two of the deviations of one window, as the design says them, in plain numpy."""
    past = values[: row + 1].copy()
    known = np.flatnonzero(np.isfinite(past))
    for left, right in itertools.pairwise(known):
        if 1 < right - left <= GAP_STEPS + 1:
            past[left : right + 1] = np.interp(np.arange(left, right + 1), [left, right], [past[left], past[right]])
    window = past[max(0, row - WINDOW + 1) :]
    places = np.flatnonzero(np.isfinite(window))
    if not len(places):
        return None
    seen = window[places]
    low, middle, high = np.quantile(seen, [0.25, 0.5, 0.75])
    away = places - places.mean()
    slope = (away @ (seen - seen.mean())) / (away @ away) / STEP_S if len(places) > 1 else 0.0
    long = past[max(0, row - LONG + 1) :]
    return {
        "mean": seen.mean(),
        "median": middle,
        "standard_deviation": seen.std(),
        "rate_of_change": slope,
        "inter_quartile_range": high - low,
        "minimum": seen.min(),
        "maximum": seen.max(),
        "data_availability": len(seen) / WINDOW,
        "deviation_mean": (seen.mean() - 2.0) / 0.5,
        "deviation_long": (np.nanmean(long) - 2.0) / 0.5,
        "deviation_change": (past[row] - past[row - CHANGE]) / 0.5 if row >= CHANGE else np.nan,
        "sample_change": past[row] - past[row - CHANGE] if row >= CHANGE else np.nan,
        "deviation_before": (past[row - RECENT] - 2.0) / 0.5 if row >= RECENT else np.nan,
    }


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3, width=32)), min_size=LONG, max_size=80),
)
@settings(max_examples=60)
def test_every_window_equals_plain_numpy(samples: list[float | None]) -> None:
    """Whatever is missing, each statistic is the one that numpy computes from what was known at that row."""
    values = np.array([[np.nan if sample is None else sample] for sample in samples])
    vectors = _vectors(values, 0)
    for row in range(len(values)):
        expected = _reference(values[:, 0], row)
        if expected is None:
            assert np.isnan(vectors[row, 0]).all()
            continue
        for name, value in expected.items():
            np.testing.assert_allclose(vectors[row, 0, INDEX[name]], value, rtol=1e-9, atol=1e-7, err_msg=name)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_one_window_equals_the_row_of_a_history_bit_for_bit(seed: int) -> None:
    """Production sees only the context of one window; a backtest sees everything; they must not differ."""
    random = np.random.default_rng(seed)
    values = random.normal(2.0, 1.0, (90, 2)).astype(np.float32).astype(np.float64)
    values[random.random(values.shape) < 0.15] = np.nan
    whole = _vectors(values, 0)
    context = LONG + RECENT + GAP_STEPS + 1
    for row in (context, 70, 89):
        alone = _vectors(values[row - context + 1 : row + 1], context - 1)
        np.testing.assert_array_equal(alone[0], whole[row])


def test_nothing_is_used_before_its_time() -> None:
    """A window that ends inside a gap does not know the value that ends the gap."""
    values = np.full((40, 1), 2.0)
    values[30:33] = np.nan
    later = values.copy()
    later[33:] = 900.0
    np.testing.assert_array_equal(_vectors(values, 0)[:33], _vectors(later, 0)[:33])


def test_a_gap_of_five_steps_is_filled_and_one_of_six_is_not() -> None:
    values = np.arange(20, dtype=np.float64)[:, None]
    short, long = values.copy(), values.copy()
    short[5:10] = np.nan
    long[5:11] = np.nan
    np.testing.assert_allclose(kernels.fill_gaps(short)[0], values)
    assert np.isnan(kernels.fill_gaps(long)[0][5:11]).all()


def test_the_fingerprint_changes_with_what_a_vector_is_made_of() -> None:
    one = Schema(("a", "b"), 60, 3600)
    assert one.fingerprint == Schema(("a", "b"), 60, 3600).fingerprint
    others = (Schema(("b", "a"), 60, 3600), Schema(("a", "b"), 30, 3600), Schema(("a", "b"), 60, 1800))
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_frame_cuts_by_time_with_both_ends() -> None:
    frame = Frame(600, 60, ("a",), np.arange(10, dtype=np.float64)[:, None])
    part = frame.between(660, 780)
    assert (part.start_s, part.n_times, part.end_s) == (660, 3, 780)
    assert frame.between(5000, 6000).n_times == 0
