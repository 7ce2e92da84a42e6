"""1.0 spends the budget: counted on noise that the calibration has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.detectors.calibrate import calibrate, crowd_threshold, hourly_maxima, tail_threshold

STEP_S = 300


def _incidents(anomalous: np.ndarray) -> int:
    rows = np.flatnonzero(anomalous)
    return 0 if not len(rows) else 1 + int((np.diff(rows) > 3600 // STEP_S).sum())


@pytest.mark.parametrize("tail", ["gaussian", "exponential"])
def test_the_budget_is_kept_on_later_noise(tail: str) -> None:
    """Over twenty histories of four weeks and twenty later ones, at most the budget of one a week is spent."""
    random = np.random.default_rng(5)
    draw = random.normal if tail == "gaussian" else lambda _a, _b, size: random.exponential(1.0, size)
    per_week, found = 7 * 86_400 // STEP_S, 0
    for _ in range(20):
        scores = draw(0.0, 1.0, 8 * per_week)
        calibration = calibrate(scores[: 4 * per_week], STEP_S, 1 / 604_800)
        found += _incidents(calibration(scores[4 * per_week :]) >= 1.0)
    assert found <= 20 * 4


def test_a_day_of_trouble_in_the_history_hardly_moves_the_threshold() -> None:
    random = np.random.default_rng(6)
    scores = random.normal(0, 1, 28 * 288)
    troubled = scores.copy()
    troubled[2000:2288] += 50.0
    quiet, loud = (calibrate(each, STEP_S, 1 / 604_800).threshold for each in (scores, troubled))
    assert float(loud) < 1.25 * float(quiet)


def test_hours_without_any_score_are_left_out() -> None:
    scores = np.full(36, np.nan)
    scores[12:24] = 3.0
    np.testing.assert_array_equal(hourly_maxima(scores, STEP_S), [3.0])


def test_no_more_incidents_of_a_crowd_lie_above_than_chance_explains() -> None:
    """Ten outbursts in two weeks are foretold by no quiet hour: three and the two of the budget stay above."""
    maxima = np.random.default_rng(3).gumbel(1.0, 0.2, 336)
    maxima[10:330:32] = np.linspace(20.0, 29.0, 10)
    assert (maxima > crowd_threshold(maxima, 1 / 604_800, aim=3.0)).sum() <= 5


def test_a_history_of_hours_does_not_ask_for_a_tail_that_it_cannot_know() -> None:
    """Six hours with one spike of a hundred leave the threshold at the ordinary one; four weeks may say otherwise."""
    scores = np.abs(np.random.default_rng(8).normal(0, 1, 28 * 288))
    scores[::72] = 100.0
    short, long = (float(calibrate(scores[:n], STEP_S, 1 / 604_800, ordinary=8.0).threshold) for n in (72, len(scores)))
    assert short < 1.1 * 8.0
    assert long > 100.0


def test_what_a_history_holds_often_is_no_news() -> None:
    """Two spikes a day for a week lie below the threshold; two in the week lie above."""
    noise = np.random.default_rng(5).exponential(1.0, 7 * 24)
    often, rarely = noise.copy(), noise.copy()
    often[::12] = 500.0
    rarely[[50, 100]] = 500.0
    budget = 1.0 / 604_800
    assert tail_threshold(often, budget, most=20.0) > 500.0
    assert tail_threshold(rarely, budget, most=20.0) <= 20.0


def test_what_a_fifth_of_the_hours_hold_is_no_news() -> None:
    """Hours of a history without any noise lie below the threshold, whatever is the most that it may be."""
    maxima = np.where(np.arange(14 * 24) % 4 == 0, 9.0, 0.0)
    budget = 1.0 / 604_800
    assert tail_threshold(maxima, budget, ordinary=1.0, most=2.0) > 9.0


def test_no_tail_asks_for_more_than_thrice_the_worst_that_was_seen() -> None:
    """Hours that are all alike but for a few foretell no tail without end, however small the budget is."""
    maxima = 1.0 + np.random.default_rng(2).uniform(0.0, 1.0, 28 * 24)
    threshold = float(tail_threshold(maxima, 1.0 / (365 * 86_400)))
    assert 2.0 < threshold < 1.0 + 0.8 + 3.0 * 0.2 + 0.1


def test_a_budget_that_no_history_can_tell_asks_for_more_than_its_tail_says() -> None:
    """Of ten days: the distance from the middle hour doubles from 1/7d to 1/28d; 1/30d is the end."""
    maxima = np.random.default_rng(4).gumbel(1.0, 0.2, 240)
    middle = float(np.median(maxima))
    day, week, four_weeks, month, year = (
        crowd_threshold(maxima, 1.0 / (days * 86_400), aim=1.5) - middle for days in (1, 7, 28, 30, 365)
    )
    assert day < week
    np.testing.assert_allclose([four_weeks, year], [2.0 * week, month])


def test_what_a_twentieth_of_the_hours_of_a_crowd_hold_is_no_news() -> None:
    """Silent for weeks and lively for the last two days: one incident by its hours, and yet how it is now."""
    maxima = np.where(np.arange(28 * 24) < 26 * 24, 0.0, 9.0)
    assert crowd_threshold(maxima, 1.0 / 604_800, aim=1.5) > 9.0


def test_noise_with_an_end_foretells_nothing_far_beyond_its_worst() -> None:
    """Hours between 1 and 2, all alike, for four weeks: once a week lies within a tenth of 2, not two fifths beyond."""
    maxima = 1.0 + np.random.default_rng(2).uniform(0.0, 1.0, 28 * 24)
    assert 1.8 < float(tail_threshold(maxima, 1.0 / 604_800)) < 2.1
