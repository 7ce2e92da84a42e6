"""Writes what `reconcile` decided: on change only, one write of an object at a time, and never in a hurry.

A write is based on the version that was read: where somebody wrote in between it is read and decided again. While the
Lease is not confirmed nothing begins; what was to be written is decided anew when it is.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, KubernetesRefused, Unavailable
from foreshock.core.verdicts import Subject
from foreshock.operator.children import Children
from foreshock.operator.events import Events
from foreshock.operator.reconcile import STATUS_EVERY_S, Observed, Plan, reconcile
from foreshock.operator.resources import DETECTORS, Seen, seen
from foreshock.operator.watch import Key, Reflector, Requests

WORKERS = 8
FIRST_WRITE_AFTER_S = 1.5  # most of what there is to say about a new detector is known by then
NOT_YET_S = 0.5
_BACK_OFF_S = (1.0, 60.0)
_REFUSED_FOR_S = 60.0
_CONFLICT, _NOT_FOUND = 409, 404


@dataclass(slots=True)
class _Pace:
    """When an object was written last, and how often in a row that failed."""

    wrote_s: float = float("-inf")
    failures: int = 0


@dataclass(slots=True)
class Reporter:
    """`changed` says that a detector may need other words; `run` finds them and writes them."""

    api: Requests
    clock: Clock
    detectors: Reflector[Seen]
    observe: Callable[[Seen], Observed | None]  # None: what was written a moment ago has not taken effect yet
    may_write: Callable[[], bool]
    events: Events
    children: Children
    counted: Callable[[str, str], None]
    every_s: float = STATUS_EVERY_S
    jitter: random.Random = field(default_factory=random.Random)
    _due: dict[Subject, float] = field(default_factory=dict)
    _heap: list[tuple[float, str, str]] = field(default_factory=list)
    _paces: dict[Subject, _Pace] = field(default_factory=dict)
    _busy: set[Subject] = field(default_factory=set)
    _work: asyncio.Queue[Subject] = field(default_factory=lambda: asyncio.Queue(2 * WORKERS))
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, subject: Subject) -> None:
        """Look at this detector soon; a new one is given a moment, so that its first words mean something."""
        first = subject not in self._paces
        self._at(Subject(subject.namespace, subject.name), FIRST_WRITE_AFTER_S if first else 0.0)

    def forget(self, subject: Subject) -> None:
        """The object is gone: there is nothing to write to any more."""
        self._due.pop(subject, None)
        self._paces.pop(subject, None)
        self.children.forget(subject)

    @property
    def waiting(self) -> int:
        """How many detectors are to be looked at."""
        return len(self._due) + len(self._busy)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.events.run())
            for _ in range(WORKERS):
                tasks.create_task(self._worker())
            while True:
                await self._hand_out()

    async def _hand_out(self) -> None:
        now_s = self.clock.monotonic_s()
        while self._heap and self._heap[0][0] <= now_s:
            due_s, namespace, name = heapq.heappop(self._heap)
            subject = Subject(namespace, name)
            if self._due.get(subject) != due_s:
                continue  # another time was said since
            del self._due[subject]
            if subject in self._busy:
                self._at(subject, 0.2)
                continue
            self._busy.add(subject)
            await self._work.put(subject)
            now_s = self.clock.monotonic_s()
        self._news.clear()
        pause_s = min(1.0, self._heap[0][0] - now_s) if self._heap else 1.0
        try:
            async with asyncio.timeout(max(0.02, pause_s)):
                await self._news.wait()
        except TimeoutError:
            pass

    def _at(self, subject: Subject, in_s: float) -> None:
        """Look at a subject in so many seconds, or sooner where that was said already."""
        due_s = self.clock.monotonic_s() + in_s
        if subject in self._due and self._due[subject] <= due_s:
            return
        self._due[subject] = due_s
        heapq.heappush(self._heap, (due_s, subject.namespace, subject.name))
        self._news.set()

    async def _worker(self) -> None:
        while True:
            subject = await self._work.get()
            try:
                await self._look_at(subject)
            except Unavailable as error:
                pace = self._pace(subject)
                pace.failures += 1
                low, high = _BACK_OFF_S
                pause_s = self.jitter.uniform(low / 2, min(high, low * 2.0 ** min(pace.failures, 10)))
                self._at(subject, max(pause_s, min(error.retry_after_s or 0.0, 3_600.0)))
                self.counted(DETECTORS.name, "unavailable")
            except ForeshockError:
                self._at(subject, _REFUSED_FOR_S)
                self.counted(DETECTORS.name, "refused")
            finally:
                self._busy.discard(subject)

    async def _look_at(self, subject: Subject) -> None:
        key = (subject.namespace, subject.name)
        now = self.detectors.objects.get(key)
        if now is None:
            return
        if not self.may_write():
            self._at(subject, 1.0 + self.jitter.uniform(0.0, 1.0))
            return
        observed = self.observe(now)
        if observed is None:
            self._at(subject, NOT_YET_S)
            return
        plan = reconcile(now.by_type, observed, self.clock.now_s())
        pace = self._pace(subject)
        if _differs(now, plan):
            wait_s = pace.wrote_s + self.every_s - self.clock.monotonic_s()
            if wait_s > 0 and not plan.is_urgent:
                self._at(subject, wait_s)
                return
            if not await self._write(key, now, plan):
                return
        pace.failures = 0
        if observed.standing is not None and not await self.children.sync(now, observed.standing, self.events.say):
            self._at(subject, self.every_s)

    async def _write(self, key: Key, now: Seen, plan: Plan) -> bool:
        """Whether it was written; where somebody else wrote meanwhile it is decided again."""
        body = {"metadata": {"resourceVersion": now.version}, "status": plan.as_status(now.generation)}
        pace = self._pace(now.subject)
        try:
            answer = await self.api.request("PATCH", f"{DETECTORS.path(*key)}/status", body)
        except KubernetesRefused as error:
            if error.status == _NOT_FOUND:
                return False
            if error.status != _CONFLICT:
                raise
            self.counted(DETECTORS.name, "conflict")
            self._take(key, await self.api.request("GET", DETECTORS.path(*key)))
            self._at(now.subject, self.jitter.uniform(0.05, 0.5))
            return False
        pace.wrote_s = self.clock.monotonic_s()
        self.counted(DETECTORS.name, "written")
        self._take(key, answer)
        for event in plan.events:
            self.events.say(now, event)
        return True

    def _take(self, key: Key, document: dict[str, Any]) -> None:
        """What the API server answered is newer than what was watched, or equal to it."""
        if key in self.detectors.objects:
            self.detectors.put(key, seen(document, self.detectors.objects.get(key)))

    def _pace(self, subject: Subject) -> _Pace:
        return self._paces.setdefault(subject, _Pace())


def _differs(now: Seen, plan: Plan) -> bool:
    """Whether a write would change anything that people read."""
    before = tuple((each.type, each.status, each.reason, each.message, each.generation) for each in now.told)
    after = tuple((each.type, each.status, each.reason, each.message, each.generation) for each in plan.conditions)
    return (
        before != after
        or (now.active_model, now.groups, now.firing) != (plan.active_model, plan.groups, plan.firing)
        or now.said_generation != now.generation
    )
