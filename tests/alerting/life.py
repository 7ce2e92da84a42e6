"""One life of a process that decides and delivers, for the chaos test: it is meant to be killed anywhere.

It commits as the engine does, one transaction with incident, state and outbox rows, and delivers with the real outbox
and sinks. Which incident comes next is read from the database, so that the lives together write one story.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from pydantic import TypeAdapter
from tests.alerting.sinks.events import event, transitions

from foreshock.alerting.outbox import Outbox, deliveries
from foreshock.alerting.sinks import SinkSettings, build
from foreshock.alerting.state import Kind, Transition
from foreshock.app.clock import SystemClock
from foreshock.store.history import History
from foreshock.store.records import CycleChanges, Incident

OPEN_FOR = 5  # an incident ends when the fifth one after it begins
EVERY_S = 0.03
SINKS = ("bus", "oncall", "hook")


@dataclass(frozen=True)
class FastClock:
    """Time that runs `factor` times as fast since `since_s`, in every life alike."""

    factor: float
    since_s: float

    def now_s(self) -> float:
        return self.since_s + (time.time() - self.since_s) * self.factor

    def monotonic_s(self) -> float:
        return self.now_s()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s / self.factor)


@dataclass(frozen=True)
class Orders:
    """What a life needs to know; plain values, since they travel to a new process."""

    url: str
    sinks: tuple[dict[str, Any], ...]
    clock: FastClock
    most: int  # incidents, after which it only delivers


def live(orders: Orders, committed: Synchronized[int], begun: Synchronized[int]) -> None:
    """Decide and deliver until killed; `committed` counts after each commit, and never before."""
    asyncio.run(_live(orders, committed, begun))


async def _live(orders: Orders, committed: Synchronized[int], begun: Synchronized[int]) -> None:
    history = History(orders.url)
    adapter: TypeAdapter[Any] = TypeAdapter(SinkSettings)
    sinks = [build(adapter.validate_python(one), SystemClock()) for one in orders.sinks]
    outbox = Outbox(history, sinks, orders.clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outbox.run())
        begun.value += 1
        number = len(await asyncio.to_thread(history.incidents, limit=1_000_000))
        while number < orders.most:
            changes = cycle(number, orders.clock.now_s())
            await asyncio.to_thread(history.commit_cycle, changes)
            number += 1
            committed.value = number
            outbox.notify()
            await asyncio.sleep(EVERY_S)


def cycle(number: int, now_s: float) -> CycleChanges:
    """The beginning of one incident and the end of an earlier one."""
    told = [transitions(number)[0], *([transitions(number - OPEN_FOR)[1]] if number >= OPEN_FOR else [])]
    rows = [row for one in told for row in deliveries(one, event(one), sinks=SINKS, created_s=now_s)]
    return CycleChanges(now_s, incidents=tuple(map(_incident, told)), outbox=tuple(rows))


def _incident(one: Transition) -> Incident:
    ended_at_s = None if one.kind is Kind.FIRING else one.at_s
    return Incident(
        one.incident_id,
        one.subject,
        "payment-api",
        one.severity,
        one.started_at_s,
        one.peak.score,
        one.kind,
        ended_at_s,
    )
