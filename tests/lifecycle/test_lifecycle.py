"""Weeks of a life through the real engine in simulated time: what is learnt, what is not, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, daily, detector, noise, simulated

from foreshock.alerting.state import EndReason
from foreshock.core.verdicts import Subject
from foreshock.lifecycle import lines
from foreshock.lifecycle.validate import MOST_CREEP

SUBJECT = Subject("default", "checkout")


def _healthy(times_s: np.ndarray) -> np.ndarray:
    return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s)


def _between(times_s: np.ndarray, first_day: float, last_day: float) -> np.ndarray:
    return (times_s >= START_S + first_day * DAY_S) & (times_s < START_S + last_day * DAY_S)


async def test_a_campaign_that_stays_is_the_new_normal_within_a_day(tmp_path: Path) -> None:
    """It fires, ends as `adapted` after 14 hours without anybody's help, and never fires again."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        return _healthy(times_s) + 40.0 * _between(times_s, 5.3, 99.0)

    async with simulated(tmp_path, {"latency": latency}) as run:
        run.engine.put(detector())
        await run.to_day(9)
        incidents = run.history.incidents()
        (incident,) = incidents
        assert incident.reason is EndReason.ADAPTED
        assert incident.ended_at_s is not None
        assert incident.ended_at_s - incident.started_at_s < DAY_S
        assert [each["status"] for each in run.events] == ["firing", "resolved"]
        assert run.events[1]["reason"] == "adapted"


async def test_an_incident_of_six_hours_is_not_learned(tmp_path: Path) -> None:
    """The same incident two days later is found again, after two trainings that had the first in their history."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        return _healthy(times_s) + 40.0 * (_between(times_s, 5.3, 5.55) | _between(times_s, 7.3, 7.55))

    async with simulated(tmp_path, {"latency": latency}) as run:
        run.engine.put(detector())
        await run.to_day(9)
        incidents = sorted(run.history.incidents(), key=lambda one: one.started_at_s)
        starts = [round(run.day(one.started_at_s), 1) for one in incidents]
        assert starts == [5.3, 7.3]
        assert all(one.reason is None and one.ended_at_s for one in incidents)
        assert run.history.models(SUBJECT)[0].rows_excluded["incident"] >= 2 * 6 * HOUR_S / 600


@pytest.mark.parametrize(("deviations_a_day", "until_day"), [(1.0, 20.0), (0.5, 26.0)])
async def test_a_creep_becomes_an_incident_despite_daily_retraining(
    tmp_path: Path, deviations_a_day: float, until_day: float
) -> None:
    """At one training deviation a day within ten days; at half of one, no candidate follows it further than five."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        days = np.maximum((times_s - START_S) / DAY_S - 10.0, 0.0)
        return _healthy(times_s) + 2.0 * deviations_a_day * np.floor(days)

    async with simulated(tmp_path, {"latency": latency}, since_s=START_S - 20 * DAY_S) as run:
        run.engine.put(detector(training={"window": "14d"}))
        await run.to_day(until_day)
        assert run.history.incidents()
        models = [each for each in run.history.models(SUBJECT) if each.stage != lines.REJECTED]
        followed = [each.details["validation"] for each in models]
        assert all(each["crept"] <= MOST_CREEP or each["adapting"] or each["shaken"] for each in followed)
        if deviations_a_day < 1.0:
            assert any("crept" in str(each.details.get("why")) for each in run.history.models(SUBJECT))
