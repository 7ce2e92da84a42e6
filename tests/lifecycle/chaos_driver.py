"""Trains, promotes and rolls back one detector in processes that are killed at random points.

Run as a process of its own with a plan in JSON. It forks, so that a life begins in milliseconds. A life restores what
was kept and goes on with the first step that nobody has heard the end of, at the instant that the step is for.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.lifecycle.simulated import DAY_S, HOUR_S, START_S, AtOnce, daily, detector, noise

from foreshock.app.changes import Cohorts, watch_of
from foreshock.lifecycle import lines
from foreshock.lifecycle.trainer import Trainer
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History
from foreshock.store.records import ModelRecord

PODS = ("a", "b")  # each with a model, so that a revision is more than one artifact
MANIFEST = detector(
    prometheus_query='latency{job="checkout"}', group_by=["pod"], interval="1h", step="30m", detection_window="2h",
    training={"window": "7d", "warm_up": "3d", "retrain_interval": "12h"},
)  # fmt: skip
FIT, WRITE, COMMIT, DONE, NEVER = b"f", b"w", b"c", b"d", b"-"  # what a life says that it does, or has done
PAUSE_S = {b"": 0.05, FIT: 0.3, WRITE: 0.02, COMMIT: 0.02}  # how long after which of them the kill may fall
WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """What is done at an instant: the engine looks whether it is time to learn, or a person changes the line."""

    at_s: float
    what: str


def steps(days: int) -> list[Step]:
    """Each day a candidate, the end of its shadow, a rollback, and the newest revision promoted all the same."""
    whats = ("look", "look", "roll back", "promote")
    return [
        Step(START_S + day * DAY_S + 2 * number * HOUR_S, what)
        for day in range(1, days + 1)
        for number, what in enumerate(whats)
    ]


class Source:
    """The series of two pods, which grow noisier each day so that no two revisions are alike."""

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        del deadline_s
        times_s = np.arange(query.start_s, query.end_s + 1, query.step_s).astype(np.float64)
        spread = 2.0 + 0.02 * (times_s - START_S) / DAY_S
        values = np.stack([daily(times_s, 100.0, 20.0) + spread * noise(times_s, seed) for seed in range(len(PODS))])
        labels = [json.dumps({"pod": pod}).encode() for pod in PODS]
        return Matrix(
            query.start_s, query.step_s, values, np.arange(len(PODS), dtype=np.uint64), b"".join(labels),
            np.cumsum([len(each) for each in labels]),
        )  # fmt: skip

    async def now_s(self, *, deadline_s: float | None = None) -> float:
        raise NotImplementedError


class Life:
    """The real trainer on the real stores; `say` hears where it is."""

    def __init__(self, folder: Path, say: Callable[[bytes], object]) -> None:
        self.history, self.artifacts = History(f"sqlite:///{folder}/state.db"), ArtifactStore(folder / "models")
        self.source, self.cohorts, self.say = Datasource(url="http://127.0.0.1:9"), Cohorts(), say
        self.watch = watch_of(MANIFEST, self.source, self.cohorts, ())
        told: Any = self  # each port is this object, which tells and passes on
        self.trainer = Trainer(Source(), told, told, told)
        self.next_s = 0.0

    def submit(self, *call: Any) -> Any:
        self.say(FIT)
        return AtOnce().submit(*call)

    def put(self, *artifact: Any) -> str:
        self.say(WRITE)
        return self.artifacts.put(*artifact)

    def change_models(self, *args: Any, **kwargs: Any) -> tuple[ModelRecord, ...]:
        self.say(COMMIT)
        return self.history.change_models(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.artifacts if name == "get" else self.history, name)

    async def live(self, todo: list[Step]) -> None:
        await self.restore(todo[0].at_s)
        for step in todo:
            if step.what == "look":
                if self.next_s <= step.at_s:
                    self.next_s = (await self.trainer.learn(self.watch, step.at_s)).next_s
            else:
                self.by_hand(step)
                await self.restore(step.at_s)  # as the engine does before its next cycle
            self.say(DONE)

    async def restore(self, now_s: float) -> None:
        learnt = await self.trainer.restore(self.watch, now_s)
        self.next_s = now_s if learnt is None else learnt.next_s

    def by_hand(self, step: Step) -> None:
        """What a person does who looks first whether it was done already."""

        def change(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            judging = lines.active(records)
            if judging is not None and judging.details["active_from_s"] == step.at_s:
                return ()
            if step.what == "roll back":
                return lines.rolled_back(records, step.at_s) if lines.last_good(records) is not None else ()
            newest = max(record.revision for record in records)
            return lines.promoted(records, newest, step.at_s, "promoted by hand", confirmed=True, by_hand=True)

        self.change_models(self.watch.subject, MANIFEST.spec.model_line, change, noticed_s=step.at_s)


def fork(folder: Path, todo: list[Step]) -> tuple[int, int]:
    """Start a life: its process, and the pipe in which it says where it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            asyncio.run(Life(folder, partial(os.write, writer)).live(todo))
            code = 0
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    return child, reader


def hear(reader: int, wanted: bytes, within_s: float) -> bytes:
    """What is said until the mark that is wanted, the end, or the end of patience."""
    text, ends_s = b"", time.monotonic() + within_s
    while wanted not in text and (left_s := ends_s - time.monotonic()) > 0:
        if select.select([reader], [], [], left_s)[0]:
            got = os.read(reader, 1)
            if not got:
                break
            text += got
    return text


def main(plan: dict[str, Any]) -> None:
    """As many lives that are killed, and one that comes to the end."""
    chance, folder, todo = random.Random(plan["seed"]), Path(plan["folder"]), steps(plan["days"])
    asyncio.run(Life(folder / "warm", lambda _: None).live(todo[:1]))  # whatever is compiled is, before the first fork
    for number in range(1, plan["kills"] + 1):
        child, reader = fork(folder, todo)
        after = chance.choice(tuple(PAUSE_S))
        text = hear(reader, after, WITHIN_S)
        text += hear(reader, NEVER, chance.uniform(0.0, PAUSE_S[after]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        text += hear(reader, NEVER, WITHIN_S)
        os.close(reader)
        done = text.count(DONE)
        if not os.WIFSIGNALED(status) and (status or done < len(todo)):
            sys.exit(f"life {number} ended by itself with {status}")
        todo = todo[done:]
        if not todo:
            sys.exit(f"the story was over after {number} kills")
        print(f"seed={plan['seed']} life={number} steps={done} said={text.rpartition(DONE)[2].decode() or 'nothing'}")
    child, reader = fork(folder, todo)
    hear(reader, NEVER, WITHIN_S + len(todo))
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the last life ended with {status}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
