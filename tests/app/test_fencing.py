"""Row 16: a leader that is stopped inside a fit, and wakes up after another one leads, commits nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tests.lifecycle.simulated import DAY_S, AtOnce, ComputedSource, SimulatedClock, detector, noise

from foreshock.app.changes import Cohorts, watch_of
from foreshock.app.operator import LedHistory
from foreshock.app.settings import Settings
from foreshock.core.errors import LeaseLost
from foreshock.lifecycle.trainer import Trainer
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore


class Interrupted(AtOnce):
    """Something happens between the end of a fit and whoever waits for it: SIGSTOP, and SIGCONT much later."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = super().submit(call, *args, **kwargs)
        self._meanwhile()
        return done


async def test_what_a_lost_leader_learnt_is_not_committed_and_the_next_one_learns_the_same(tmp_path: Path) -> None:
    """`LeaseLost`, no revision and no model that judges; the next leader's artifact is the very same file."""
    settings = Settings(database=f"sqlite:///{tmp_path / 'state.db'}")
    clock = SimulatedClock()
    source = ComputedSource(clock, {"latency": lambda times_s: 40.0 + noise(times_s)}, clock.now_s() - 4 * DAY_S)
    artifacts = ArtifactStore(tmp_path / "models")
    # as a process sees itself that has slept: its own Lease still looks good, and the database alone knows better
    loser, heir = (LedHistory(settings, lambda epoch=epoch: epoch) for epoch in (1, 2))  # type: ignore[misc]
    loser.begin_epoch(1)

    def watched() -> Any:
        return watch_of(detector(), Datasource(url="http://127.0.0.1:1"), Cohorts(), ())

    watch = watched()
    with pytest.raises(LeaseLost, match="its epoch is 2, this one's is 1"):
        await Trainer(source, artifacts, loser, Interrupted(lambda: heir.begin_epoch(2))).learn(watch, clock.now_s())
    assert heir.models(watch.subject) == ()
    assert watch.cohort.revisions[next(iter(watch.row_of_group.values()))] is None
    (left,) = (each.name for each in (tmp_path / "models").iterdir())  # nobody names it: garbage, and harmless
    learnt = await Trainer(source, artifacts, heir, AtOnce()).learn(watched(), clock.now_s())
    assert learnt.ready
    (record,) = heir.models(watch.subject)
    assert record.details["members"][0]["digest"] == left
    for each in (loser, heir):
        each.close()
