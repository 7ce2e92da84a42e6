"""`together`: many small moves at once, no recoveries, no demand; and what an ensemble of many metrics leaves to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreshock.core.frame import Array, Frame
from foreshock.detectors.calibrate import Calibration
from foreshock.detectors.ensemble import Ensemble
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.model import Course, Model, dump, load, train
from foreshock.detectors.rules import Rules
from foreshock.detectors.together import Together
from foreshock.features.schema import INDEX, STATISTICS, Schema

STEP_S, N_DAYS, PER_DAY, N_METRICS = 300, 8, 288, 12
NAMES = tuple(f"m{k}" for k in range(N_METRICS))


def _history() -> Array:
    random = np.random.default_rng(5)
    noise = random.normal(0, 1, (N_DAYS * PER_DAY, N_METRICS))
    return np.asarray(100 + noise, dtype=np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def model() -> Model:
    frame = Frame(0, STEP_S, NAMES, _history())
    course = Course(Schema(NAMES, STEP_S, 3600), Rules.none(N_METRICS), "ensemble", 1 / 604_800, None, "UTC")
    return train(frame, course, np.ones(frame.n_times, np.bool_))


def _scores(model: Model, values: Array, rules: Rules | None = None) -> dict[str, float]:
    """The calibrated score of each channel for the last window."""
    vectors = model.vectors(Frame(0, STEP_S, NAMES, values), len(values) - 1)
    scores = model.ensemble.channel_scores(vectors, rules or Rules.none(N_METRICS))[:, 0]
    return {channel.name: float(score) for channel, score in zip(model.ensemble.channels, scores, strict=True)}


def _moved(by: float, *, rows: int = 1, metrics: int = N_METRICS) -> Array:
    values = _history()
    values[-rows:, :metrics] += by
    return values


def test_a_small_move_of_all_metrics_is_found_by_this_channel_alone(model: Model) -> None:
    """Two and a half spreads are ordinary for one of twelve metrics, and an incident when all make them at once."""
    scores = _scores(model, _moved(2.5))
    assert scores["together"] >= 1.0
    assert max(score for name, score in scores.items() if name != "together") < 1.0
    assert _scores(model, _moved(4.0, metrics=1))["together"] < 1.0


def test_the_throttle_hears_what_many_metrics_say_together(model: Model) -> None:
    """The cheap statistic of any window is at least that of this channel alone, in units of its own threshold."""
    vectors = model.vectors(Frame(0, STEP_S, NAMES, _moved(1.5)), PER_DAY)
    rules, screen = Rules.none(N_METRICS), model.screen
    crowd = Calibration(*screen.unit)(screen.together.score(vectors, rules))
    cheap = screen.score(vectors, rules)
    assert (cheap >= crowd).all()
    assert (crowd > np.maximum(screen.level.score(vectors, rules), 0.5)).any()
    assert load(*dump(model)).screen.score(vectors, rules).tolist() == cheap.tolist()


def test_the_way_back_is_no_incident(model: Model) -> None:
    """What returns to its expected value changes as suddenly as what leaves it, and counts for nothing."""
    values = _history()
    values[-13:-1] += 6.0
    assert _scores(model, values)["together"] < 1.0


def test_what_every_day_does_is_no_incident_and_its_absence_is_the_business_of_others() -> None:
    """A jump of all metrics at noon of every day counts neither when it comes nor when it does not; one at six does."""
    values, jump = _history()[: 7 * PER_DAY + PER_DAY // 2 + 1], 12.0
    noons = np.arange(PER_DAY // 2, len(values) - 1, PER_DAY)
    for noon in noons:
        values[noon : noon + 3] += jump
    course = Course(Schema(NAMES, STEP_S, 3600), Rules.none(N_METRICS), "ensemble", 1 / 604_800, (86_400,), "UTC")
    history = values[: 7 * PER_DAY]
    model = train(Frame(0, STEP_S, NAMES, history), course, np.ones(len(history), np.bool_))
    as_always = values.copy()
    as_always[-1:] += jump
    assert _scores(model, as_always)["together"] < 0.1
    assert _scores(model, values)["together"] < 1.0  # nothing moved but what was expected
    at_six = values[: 7 * PER_DAY + PER_DAY // 4].copy()
    at_six[-1:] += jump
    assert _scores(model, at_six)["together"] >= 1.0


def test_a_change_counts_as_at_most_twice_what_was_not_expected_of_it() -> None:
    """Metrics that are far off, and rise by 12 of which the hour explains 11, say 2; unexplained they say 12."""
    channel = Together(np.ones(N_METRICS), np.ones(N_METRICS))
    vectors = np.zeros((2, N_METRICS, len(STATISTICS)))
    vectors[..., INDEX["usual_distance"]] = 1.0
    vectors[..., INDEX["deviation_last"]] = 20.0
    vectors[..., INDEX["sample_change"]] = 12.0
    vectors[..., INDEX["deviation_change"]] = np.array([1.0, 12.0])[:, None]
    np.testing.assert_allclose(channel.score(vectors, Rules.none(N_METRICS)), [2.0, 12.0])


def test_demand_may_jump_as_it_likes(model: Model) -> None:
    """Loads have no say: the channel hears only what the service answers for."""
    loads = Rules.none(N_METRICS)
    loads.is_load[:] = True
    assert _scores(model, _moved(8.0), loads)["together"] < 1.0


def test_a_fleet_takes_the_members_that_it_is_asked_for(model: Model) -> None:
    """A stack scores each row by its own member, to the bit."""
    (own,) = (channel for channel in model.ensemble.channels if isinstance(channel, Together))
    vectors = model.vectors(Frame(0, STEP_S, NAMES, _moved(3.0)), N_DAYS * PER_DAY - 1)
    stacked = Together.stack((own, own)).take(np.array([1]))
    rules = Rules.stack([Rules.none(N_METRICS)])
    np.testing.assert_array_equal(stacked.score(vectors, rules), own.score(vectors, Rules.none(N_METRICS)))


def test_what_few_metrics_say_at_once_has_a_small_part_of_the_budget() -> None:
    """Up to five metrics this channel stands beside the others, without a reserve: 1.0 lies farther than of many."""
    names = NAMES[:3]
    frame = Frame(0, STEP_S, names, _history()[:, :3])
    course = Course(Schema(names, STEP_S, 3600), Rules.none(3), "ensemble", 1 / 604_800, None, "UTC")
    few: Ensemble = train(frame, course, np.ones(frame.n_times, np.bool_)).ensemble
    alone = train(frame, replace(course, algorithm="together"), np.ones(frame.n_times, np.bool_)).ensemble
    assert [channel.name for channel in few.channels] == ["level", "correlation", "together", "isolation_forest"]
    (own,) = (c for channel, c in zip(few.channels, few.calibrations, strict=True) if channel.name == "together")
    assert own.threshold > 1.2 * alone.calibrations[0].threshold


def test_a_metric_that_woke_up_within_the_history_is_not_news_for_weeks() -> None:
    """Constant in three blocks of the history and lively in the last: its ordinary moves lie below the threshold."""
    values = np.random.default_rng(9).normal(100, 5, (12 * PER_DAY, 1))
    values[: 8 * PER_DAY] = 0.0
    frame = Frame(0, STEP_S, ("woken",), values[: 11 * PER_DAY])
    course = Course(Schema(("woken",), STEP_S, 3600), Rules.none(1), "ensemble", 1 / 604_800, (), "UTC")
    ensemble = (model := train(frame, course, np.ones(frame.n_times, np.bool_))).ensemble
    vectors = model.vectors(Frame(0, STEP_S, ("woken",), values), 11 * PER_DAY)
    (row,) = (k for k, channel in enumerate(ensemble.channels) if isinstance(channel, Together))
    assert ensemble.channel_scores(vectors, Rules.none(1))[row].max() < 1.0


def test_a_model_from_before_few_metrics_had_this_channel_stands_beside_new_ones() -> None:
    """Its scores are what they were, a silent channel among the others, alone and in one block with a new model."""
    names = NAMES[:3]
    frame = Frame(0, STEP_S, names, _history()[:, :3])
    course = Course(Schema(names, STEP_S, 3600), Rules.none(3), "ensemble", 1 / 604_800, None, "UTC")
    new = train(frame, course, np.ones(frame.n_times, np.bool_))
    arrays, facts = dump(new)
    row = [channel.name for channel in new.ensemble.channels].index("together")
    without = {name: array for name, array in arrays.items() if ".together." not in name and name != "screen.unit"}
    without["ensemble.calibrations"] = np.delete(arrays["ensemble.calibrations"], row, axis=0)
    old = load(without, facts)
    vectors = new.vectors(frame, frame.n_times - 50)
    rules = Rules.none(3)
    expected = np.delete(new.ensemble.channel_scores(vectors, rules), row, axis=0).max(axis=0)
    np.testing.assert_array_equal(old.ensemble.channel_scores(vectors, rules).max(axis=0), expected)
    fleet = Fleet.of([old, new], [rules, rules])
    both = fleet.ensemble.take(np.array([0, 1])).channel_scores(vectors[-2:], Rules.stack([rules, rules]))
    assert both[row, 0] == 0.0
    assert load(*dump(old)).ensemble.channels[row].name == "together"
    assert fleet.screen.take(np.array([0, 1])).score(vectors[-2:], Rules.stack([rules, rules])).shape == (2,)
