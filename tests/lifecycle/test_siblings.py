"""A new group is judged by a sibling's model where that explains it, says so, and gets its own when it can."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, START_S, Samples, Simulation, daily, detector, noise, simulated

from foreshock.cli.main import main
from foreshock.core.verdicts import Subject
from foreshock.engine.cohort import Revision
from foreshock.lifecycle.siblings import on_loan

A, B, C = ((("pod", name),) for name in "abc")


def _pod(
    seed: int,
    *,
    middle: float = 100.0,
    since_day: float = -30.0,
    fails_from_day: float = 99.0,
    heals_on_day: float = 99.0,
) -> Samples:
    def latency(times_s: np.ndarray) -> np.ndarray:
        healthy = daily(times_s, middle, 20.0) + 2.0 * noise(times_s + 7.0 * seed)
        days = (times_s - START_S) / DAY_S
        healthy = healthy + 40.0 * ((days >= fails_from_day) & (days < heals_on_day))
        return np.where(times_s >= START_S + since_day * DAY_S, healthy, np.nan)

    return latency


def _revision(run: Simulation, group: tuple[tuple[str, str], ...]) -> Revision | None:
    (lane,) = run.engine._lanes.values()
    watch = lane.watches[Subject("default", "checkout")]
    return watch.cohort.revisions[watch.row_of_group[group]]


async def test_a_new_pod_is_judged_by_a_siblings_model_until_it_has_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two days after it came it is judged, and pages, naming the sibling; after its warm-up by its own model."""
    series = {"latency@a": _pod(1), "latency@b": _pod(2, since_day=0.2, fails_from_day=2.2, heals_on_day=2.45)}
    async with simulated(tmp_path, series) as run:
        run.engine.put(detector(group_by=["pod"], training={"window": "14d"}))
        await run.to_day(2.15)
        lent = _revision(run, B)
        assert lent is not None
        assert lent.sibling == A
        assert not lent.provisional
        standing = run.engine.standing(Subject("default", "checkout"))
        assert standing is not None
        assert standing.on_loan == ((B, A),)
        assert standing.revision is not None
        assert standing.revision.sibling is None
        assert main(["models", "list", "--database", run.settings.database]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "groups are judged by a sibling's: b by that of a" in said
        await run.to_day(2.4)
        (event,) = run.events
        assert event["summary"].endswith("The model is that of a, until this group has its own.")
        await run.to_day(5.0)
        own = _revision(run, B)
        assert own is not None
        assert own.sibling is None
        capsys.readouterr()
        assert main(["models", "list", "--output", "json", "--database", run.settings.database]) == 0
        newest = json.loads(capsys.readouterr().out)["models"][0]
        assert newest["on_loan"] == []


async def test_a_group_at_another_level_is_no_sibling(tmp_path: Path) -> None:
    """A pod with five times the latency is learnt for itself, and judged by nobody until then."""
    series = {"latency@a": _pod(1), "latency@c": _pod(3, middle=500.0, since_day=0.2)}
    async with simulated(tmp_path, series) as run:
        run.engine.put(detector(group_by=["pod"], training={"window": "14d"}))
        await run.to_day(2.5)
        assert _revision(run, C) is None
        await run.to_day(5.0)
        own = _revision(run, C)
        assert own is not None
        assert own.sibling is None


def test_who_is_judged_by_whom_is_one_clause() -> None:
    """Three are named, the others counted."""
    assert on_loan([]) == ""
    assert on_loan([(B, A), (C, A), (B, C), (A, C)]) == (
        "until they have a model of their own, groups are judged by a sibling's: b by that of a, c by that of a, "
        "b by that of c, and 1 more"
    )
