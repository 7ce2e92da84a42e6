"""Learning: what is said while the baseline grows, what alerts all the same, and when it is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.lifecycle.simulated import DAY_S, START_S, Simulation, daily, detector, noise, simulated

from foreshock.core.verdicts import Subject

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
