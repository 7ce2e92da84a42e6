"""Learning: what is said while the baseline grows, what alerts all the same, and when it is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, Simulation, daily, detector, noise, simulated

from foreshock.cli.main import main
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.lifecycle.warm_up import WarmUp, warm_up_of

SUBJECT = Subject("default", "checkout")


def _healthy(times_s: np.ndarray) -> np.ndarray:
    return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s)


def _between(times_s: np.ndarray, first_day: float, last_day: float) -> np.ndarray:
    return (times_s >= START_S + first_day * DAY_S) & (times_s < START_S + last_day * DAY_S)


def _has_model(run: Simulation) -> bool:
    standing = run.engine.standing(SUBJECT)
    assert standing is not None
    return standing.revision is not None


async def test_what_leaves_its_valid_range_alerts_before_there_is_a_model(tmp_path: Path) -> None:
    """It fires within the hour, says so and that nothing is learnt yet, and resolves inside of it again."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        return _healthy(times_s) + 400.0 * _between(times_s, 0.3, 0.45)

    metric = {"name": "latency", "query": "latency", "valid_range": {"max": 300}}
    async with simulated(tmp_path, {"latency": latency}, since_s=START_S) as run:
        run.engine.put(detector(prometheus_query=None, metrics=[metric]))
        await run.to_day(0.6)
        assert not _has_model(run)
        assert [each["status"] for each in run.events] == ["firing", "resolved"]
        fired = run.events[0]
        assert fired["model"] is None
        assert fired["summary"] == (
            "latency is 520, which is outside its valid range. Nothing is learnt of it yet: its range alone says so."
        )
        (incident,) = run.history.incidents()
        assert 0.3 <= run.day(incident.started_at_s) < 0.35
        assert incident.ended_at_s is not None
        assert run.day(incident.ended_at_s) < 0.55


async def test_a_model_that_still_learns_pages_for_the_valid_range_alone(tmp_path: Path) -> None:
    """A deviation of twenty usual distances pages nobody in the warm-up; one beyond the range does, by its cause."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        return _healthy(times_s) + 60.0 * _between(times_s, 1.5, 1.6) + 400.0 * _between(times_s, 2.0, 2.1)

    metric = {"name": "latency", "query": "latency", "valid_range": {"max": 300}}
    async with simulated(tmp_path, {"latency": latency}, since_s=START_S) as run:
        run.engine.put(detector(prometheus_query=None, metrics=[metric]))
        await run.to_day(1.95)
        assert _has_model(run)
        assert not run.events
        await run.to_day(2.1)
        (event,) = run.events
        assert event["status"] == "firing"
        standing = run.engine.standing(SUBJECT)
        assert standing is not None
        (_, open_incident) = standing.firing[0]
        assert open_incident.peak.cause == "OutOfRange"


def _learnt_from(n_days: float, *, without: tuple[tuple[float, float], ...] = (), nights: bool = True) -> WarmUp:
    """A week's warm-up after so many days from a Wednesday on, of which some were not measured."""
    times_s = np.arange(START_S, START_S + n_days * DAY_S, 600)
    days = (times_s - START_S) / DAY_S
    gone = np.zeros(len(times_s), np.bool_) if nights else (days % 1 < 0.25) | (days % 1 >= 0.75)
    for first_day, last_day in without:
        gone |= (days >= first_day) & (days < last_day)
    seen = np.flatnonzero(~gone)
    frame = Frame(int(times_s[seen[0]]), 600, ("a",), np.where(gone, np.nan, 1.0)[seen[0] : seen[-1] + 1, None])
    spec = detector(training={"warm_up": "7d", "window": "28d"}).spec
    return warm_up_of(spec, {(): frame}, ())


@pytest.mark.parametrize("n_days", [0.5, 1.0, 2.9, 6.6, 6.66, 7.0, 9.0])
def test_a_history_without_gaps_is_as_far_as_its_rows(n_days: float) -> None:
    """Coverage asks nothing more of what was measured all the time."""
    warm_up = _learnt_from(n_days)
    assert warm_up.share == pytest.approx(min(1.0, n_days / (0.95 * 7)), rel=0.01)
    assert warm_up.is_over == (n_days > 6.65)
    assert not warm_up.lacking


def test_a_week_of_days_does_not_know_the_nights_until_nights_are_not_to_be_expected() -> None:
    """Rows alone would call 13.4 days of office hours a week; after two weeks the service has no nights."""
    early = _learnt_from(13.7, nights=False)
    assert early.measured_s > 0.95 * 7 * DAY_S * 0.98
    assert not early.is_over
    assert _learnt_from(14.3, nights=False).is_over


def test_a_weekday_that_was_lost_is_waited_for() -> None:
    """Seven days of rows from Wednesday on, without Saturday and Sunday: it says so, and until when."""
    warm_up = _learnt_from(9.0, without=((3.0, 5.0),))
    assert not warm_up.is_over
    assert warm_up.lacking == "Saturday and Sunday"
    assert 2 * DAY_S < warm_up.left_s < 4 * DAY_S
    assert _learnt_from(11.7, without=((3.0, 5.0),)).is_over


async def test_what_prometheus_holds_is_enough_where_it_holds_less_than_the_warm_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a retention of two days a warm-up of three is over when the first samples go, and stays over."""
    async with simulated(tmp_path, {"latency": _healthy}, since_s=START_S) as run:
        run.engine.put(detector())
        await run.to_day(1.9)
        capsys.readouterr()
        assert main(["models", "list", "--database", run.settings.database]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "of the warm-up; judges, and pages only outside valid_range until about 2023-11-17" in said
        ends_s = run.engine._metrics.registry.get_sample_value(
            "foreshock_warm_up_end_timestamp_seconds", {"detector": SUBJECT.detector}
        )
        assert ends_s == pytest.approx(START_S + 2.85 * DAY_S, abs=3 * HOUR_S)
        for quarter in range(8, 18):
            run.source.since_s = START_S + (quarter / 4 - 2) * DAY_S
            await run.to_day(quarter / 4)
        assert _pages(run)
        first = [one for one in run.history.models(SUBJECT) if not one.details["provisional"]][-1]
        assert run.day(first.created_s) < 2.6


async def test_a_history_that_was_lost_takes_no_model_away(tmp_path: Path) -> None:
    """Prometheus starts empty on day 5: what judged then judges and pages on, until there are three days again."""
    async with simulated(tmp_path, {"latency": _healthy}, since_s=START_S) as run:
        run.engine.put(detector())
        await run.to_day(5.0)
        run.source.since_s = START_S + 5.0 * DAY_S
        for half in range(11, 15):
            await run.to_day(half / 2)
            assert _pages(run)
        assert any("judges on" in line for line in run.said)
        await run.to_day(9.5)
        newest = run.history.models(SUBJECT)[0]
        assert newest.trained_from_s >= START_S + 5.0 * DAY_S
        assert not newest.details["provisional"]


def _pages(run: Simulation) -> bool:
    standing = run.engine.standing(SUBJECT)
    assert standing is not None
    return standing.revision is not None and not standing.revision.provisional
