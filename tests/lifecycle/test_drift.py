"""What has moved for hours is learnt before it is due; what a history explains is not, day after day."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, daily, detector, noise, simulated

from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.lifecycle.drift import Drift, Reference, drift_of, needed_s, reference_of
from foreshock.lifecycle.train import rules_of, train_revision

SUBJECT = Subject("default", "checkout")
STEP_S, LASTS_S = 600, 12 * HOUR_S
SPEC = detector().spec
RULES = rules_of(SPEC.named_metrics)


def _history(n_days: float, values: np.ndarray | None = None) -> Frame:
    times_s = np.arange(START_S, START_S + n_days * DAY_S, STEP_S)
    healthy = daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s)
    return Frame(START_S, STEP_S, ("latency",), (healthy if values is None else healthy + values)[:, None])


def _looks(frame: Frame, *, first_day: int) -> list[Drift]:
    """What is found every three hours by models that are learnt daily."""
    found = []
    for day in range(first_day, frame.n_times * STEP_S // DAY_S):
        rows = day * DAY_S // STEP_S
        learnt_from = frame.rows(0, rows)
        model = train_revision(SPEC, learnt_from, np.zeros(rows, np.bool_))
        reference = reference_of(model, RULES, learnt_from, LASTS_S)
        assert reference is not None
        context = needed_s(model, reference) // STEP_S
        for end in range(rows + 18, rows + DAY_S // STEP_S + 1, 18):
            drift = drift_of(model, reference, RULES, frame.rows(end - context, end))
            assert drift is not None
            found.append(drift)
    return found


@pytest.mark.parametrize("kind", ["steady", "growing", "wandering"])
def test_a_normal_week_has_no_drift(kind: str) -> None:
    """Neither steady days, nor growth at one slope, nor noise whose hours hang together ask for a training."""
    n = 16 * DAY_S // STEP_S
    random = np.random.default_rng(3)
    wander = np.zeros(n)
    for row in range(1, n):
        wander[row] = 0.98 * wander[row - 1] + 0.6 * random.standard_normal()
    added = {"steady": None, "growing": np.linspace(0.0, 40.0, n), "wandering": wander}[kind]
    assert [one for one in _looks(_history(16, added), first_day=11) if one.ratio > 1.0] == []


def test_a_level_and_a_spread_that_moved_are_found_when_they_have_lasted() -> None:
    """12 hours after the change, with its instant; after six hours nothing is said yet, and three never matter."""
    n = 12 * DAY_S // STEP_S
    changed = 10 * DAY_S // STEP_S
    learnt_from = _history(10)
    model = train_revision(SPEC, learnt_from, np.zeros(changed, np.bool_))
    reference = reference_of(model, RULES, learnt_from, LASTS_S)
    assert reference is not None
    context = needed_s(model, reference) // STEP_S

    def found(added: np.ndarray, hours: float) -> Drift:
        end = changed + int(hours * HOUR_S / STEP_S)
        drift = drift_of(model, reference, RULES, _history(12, added).rows(end - context, end))
        assert drift is not None
        return drift

    rows = np.arange(n)
    moved = np.where(rows >= changed, 12.0, 0.0)
    assert found(moved, 6).ratio < 1.0
    level = found(moved, 14)
    assert level.ratio > 1.0
    assert (level.metric, level.kind) == ("latency", "level")
    assert level.effect == pytest.approx(6.0, abs=1.0)
    assert abs(level.since_s - (START_S + 10 * DAY_S)) <= 3.0 * HOUR_S
    assert found(np.where((rows >= changed) & (rows < changed + 18), 60.0, 0.0), 14).ratio < 1.0
    shaken = np.where(rows >= changed, 14.0 * np.random.default_rng(1).standard_normal(n), 0.0)
    assert found(shaken, 14).kind == "spread"
    assert found(shaken, 14).ratio > 1.0
    small = np.where(rows >= changed, 4.0, 0.0)  # less than 5 % of a hundred
    assert found(small, 14).ratio < 1.0


def test_a_reference_comes_back_from_its_arrays_and_a_garbled_one_is_none() -> None:
    """What was trained by an earlier version has none, and neither has what does not fit."""
    reference = Reference(np.zeros(3), np.ones(3), 14)
    again = Reference.load(reference.dump(), 1)
    assert again is not None
    assert again.hours == 14
    assert Reference.load({}, 1) is None
    assert Reference.load(reference.dump(), 2) is None


async def test_a_service_that_moved_without_an_alert_is_learnt_within_a_day(tmp_path: Path) -> None:
    """It is retrained every week and judged downwards only: an upward move is learnt the same day, once, and said."""

    def latency(times_s: np.ndarray) -> np.ndarray:
        moved = times_s >= START_S + 2.0 * DAY_S
        return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s) + 12.0 * moved

    metric = {"name": "latency", "query": "latency", "direction": "down"}
    training = {"retrain_interval": "7d", "window": "14d"}
    async with simulated(tmp_path, {"latency": latency}, since_s=START_S - 20 * DAY_S) as run:
        run.engine.put(detector(prometheus_query=None, metrics=[metric], training=training))
        await run.to_day(2.0)
        assert len(run.history.models(SUBJECT)) == 1
        await run.to_day(4.5)
        early = [one for one in run.history.models(SUBJECT) if one.details.get("drift")]
        assert early
        assert run.day(min(one.created_s for one in early)) < 3.0
        created = sorted(one.created_s for one in early)
        assert all(later - earlier >= DAY_S for earlier, later in itertools.pairwise(created))
        assert early[-1].stage in {"Active", "Retired"}
        assert any(
            line.startswith("the level of latency has moved by") and line.endswith("its successor is learnt now")
            for line in run.said
        )
        shown = run.engine._metrics.registry.get_sample_value
        assert shown("foreshock_drift_trainings_total") == len(early)
        assert not run.history.incidents()
