"""Trainings of a lane: the failure of one is a condition of one."""

from __future__ import annotations

import asyncio
from concurrent.futures import BrokenExecutor
from typing import cast

import pytest
from prometheus_client import generate_latest
from tests.app.hurried import HurriedClock, until

from foreshock.app.learning import Learning
from foreshock.app.metrics import Metrics
from foreshock.core.errors import LeaseLost
from foreshock.core.verdicts import Subject
from foreshock.engine.watch import Watch
from foreshock.lifecycle.learnt import NEVER_S, Learnt
from foreshock.lifecycle.trainer import Trainer


class Pupil:
    """What `Learning` asks of a watch."""

    def __init__(self, name: str) -> None:
        self.subject = Subject("default", name)


class Teacher:
    """Restores nothing; what it comes to in training is written beside each name."""

    def __init__(self, outcomes: dict[str, Exception | None]) -> None:
        self.outcomes, self.asked = outcomes, list[str]()

    async def restore(self, _watch: Watch, _now_s: float) -> None:
        return None

    async def learn(self, watch: Watch, _now_s: float, *, anew: bool = False, drift: object = None) -> Learnt:
        assert not anew
        assert drift is None
        self.asked.append(watch.subject.name)
        outcome = self.outcomes[watch.subject.name]
        if outcome is not None:
            raise outcome
        return Learnt(watch.subject, "learnt", NEVER_S, ready=True)


def _learning(teacher: Teacher, clock: HurriedClock, metrics: Metrics) -> Learning:
    watches = {(pupil := cast("Watch", Pupil(name))).subject: pupil for name in teacher.outcomes}
    learning = Learning(cast("Trainer", teacher), clock, metrics, watches, lambda _: None)
    for subject in watches:
        learning.take_up(subject)
    return learning


async def test_a_training_that_breaks_is_the_trouble_of_one_detector() -> None:
    """A bug and a killed process: both are said, tried again after ten minutes, and the others learn."""
    metrics, clock = Metrics(), HurriedClock()
    teacher = Teacher({"bug": ZeroDivisionError("no"), "killed": BrokenExecutor("gone"), "good": None})
    learning = _learning(teacher, clock, metrics)
    task = asyncio.create_task(learning.run())
    try:
        await until(lambda: len(teacher.asked) == 3)
        await until(lambda: learning.known(Subject("default", "good")).learnt is not None)
        for name, words in (("bug", "ZeroDivisionError"), ("killed", "memory limit")):
            trouble = learning.known(Subject("default", name)).trouble
            assert trouble is not None
            assert trouble.reason == "TrainingFailed"
            assert words in trouble.message
        assert "foreshock_trainings_running 0.0" in generate_latest(metrics.registry).decode()
        clock.skip(599)
        assert len(teacher.asked) == 3
        clock.skip(2)
        await until(lambda: len(teacher.asked) == 5)
        assert not task.done()
    finally:
        task.cancel()


async def test_a_lost_lease_ends_the_learning() -> None:
    """Whoever leads now trains it: the loser passes the loss on, and notes no trouble of a detector."""
    learning = _learning(Teacher({"one": LeaseLost("held by another")}), HurriedClock(), Metrics())
    with pytest.RaisesGroup(LeaseLost):
        await asyncio.wait_for(learning.run(), 30)
    assert learning.known(Subject("default", "one")).trouble is None
