"""`foreshock operator`: what the API server holds is what the engine judges, and one replica at a time does it.

Every replica watches, so that the next leader knows everything already; the leader alone judges, writes and reports.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO, TypeVar

import structlog
from sqlalchemy import Connection

from foreshock.alerting.outbox import Delivery
from foreshock.app.clock import SystemClock
from foreshock.app.engine import Engine
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.core import telemetry
from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, LeaseLost, StoreUnavailable
from foreshock.core.verdicts import Subject
from foreshock.engine.cycle import Summary
from foreshock.manifests.conditions import Because, ConditionStatus
from foreshock.manifests.detector import AnomalyDetector
from foreshock.operator.api import ApiServer
from foreshock.operator.children import Children
from foreshock.operator.events import Events, IncidentEvents
from foreshock.operator.lease import LEASES, TIMING, Lease, Timing
from foreshock.operator.reconcile import STATUS_EVERY_S, Fact, Observed
from foreshock.operator.resources import ANOMALIES, DETECTORS, MODELS, Child, Seen, child, seen
from foreshock.operator.status import Reporter
from foreshock.operator.surroundings import ClusterSurroundings
from foreshock.operator.watch import Heard, Key, Kind, Reflector
from foreshock.store.history import History

LEASE = "foreshock"
_GUARD_WITHIN_S = 6.0  # how long a write waits for the Lease to be confirmed again
_GUARD_EVERY_S = 0.05
_CHECK_STORE_EVERY_S = 5.0
_log = structlog.get_logger("foreshock")
_T = TypeVar("_T")


class LedHistory(History):
    """The database of a replica: nothing begins while it is unclear whether this one leads.

    After that the database itself compares the epoch, since a process may be paused between this look and the write.
    """

    def __init__(self, settings: Settings, guard: Callable[[], int]) -> None:
        super().__init__(settings.database, password_file=settings.database_password_file)
        self._guard = guard

    @contextmanager
    def _fenced(self, epoch: int | None) -> Iterator[Connection]:
        """As that of the database alone, under the epoch of this leadership where none was given."""
        leads = self._guard()
        with super()._fenced(leads if epoch is None else epoch) as connection:
            yield connection

    def pending(self, sink: str, *, limit: int, now_s: float) -> tuple[Delivery, ...]:
        self._guard()  # what is handed out is sent
        return super().pending(sink, limit=limit, now_s=now_s)

    def standing(self, sink: str, *, ended_after_s: float, after: str, limit: int) -> tuple[Delivery, ...]:
        self._guard()
        return super().standing(sink, ended_after_s=ended_after_s, after=after, limit=limit)


class Operator:
    """Runs until cancelled; every answer of the API server, and every lost Lease, is something to go on after."""

    def __init__(
        self,
        settings: Settings,
        api: ApiServer,
        *,
        namespaces: tuple[str, ...] = (),
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        executor: Callable[[], Executor] | None = None,
        events: TextIO | None = None,
        timing: Timing = TIMING,
        status_every_s: float = STATUS_EVERY_S,
        on_cycle: Callable[[Summary], None] = lambda _: None,
    ) -> None:
        self._settings, self._api, self._namespaces = settings, api, namespaces
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._executor, self._stream, self._on_cycle = executor, events, on_cycle
        self._status_every_s = status_every_s
        self._history = LedHistory(settings, self._wait_for_the_lease)
        self.identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        place = os.environ.get("POD_NAMESPACE") or api.namespace
        self.lease = Lease(
            api, place, LEASE, self.identity, self._clock,
            newest_epoch=lambda: asyncio.to_thread(self._history.lease_epoch), timing=timing,
            trouble=partial(self._trouble, LEASES.name),
        )  # fmt: skip
        count = partial(self._metrics.count, telemetry.STATUS_WRITES)
        self._children = Children(api, self._clock, self._history, settings.artifacts, count)
        self.detectors: Reflector[Seen] = self._reflector(DETECTORS, self._trim, self._put, self._gone)
        self.models = self._child_reflector(MODELS)
        self.anomalies = self._child_reflector(ANOMALIES)
        self._children.follow(self.models, self.anomalies)
        self._count = count
        self.engine: Engine | None = None
        self.reporter: Reporter | None = None
        self.surroundings: ClusterSurroundings | None = None
        self._given: dict[Subject, tuple[str, AnomalyDetector]] = {}  # what the engine was given last, and of which uid
        self._problems: dict[Subject, Fact] = {}
        self._troubled: set[str] = set()
        self._store_problem = ""

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch, and lead whenever this replica can."""
        self._metrics.show(telemetry.LEADER, 0)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.detectors.run())
                tasks.create_task(self.models.run())
                tasks.create_task(self.anomalies.run())
                tasks.create_task(self._check_store())
                tasks.create_task(self._lead_whenever_possible())
        finally:
            self._history.close()

    async def why_not_ready(self) -> str:
        """Why this replica could not take over now, or nothing. A lost Lease is no reason."""
        if not self.detectors.is_complete:
            return "the detectors were not listed yet"
        return self._store_problem

    async def _check_store(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._history.check_writable)
                self._store_problem = ""
            except ForeshockError as error:
                self._store_problem = str(error)
            await self._clock.sleep(_CHECK_STORE_EVERY_S)

    async def _lead_whenever_possible(self) -> None:
        while True:
            epoch = await self.lease.acquire()
            _log.info("this replica leads", identity=self.identity, epoch=epoch)
            try:
                await asyncio.to_thread(self._history.begin_epoch, epoch)
                self._metrics.show(telemetry.LEADER, 1)
                await self._lead()
            except* LeaseLost as lost:
                _log.warning("this replica leads no more", message=str(_first(lost)))
            except* StoreUnavailable as away:
                _log.error("this replica cannot lead", message=str(_first(away)))
            finally:
                self._metrics.show(telemetry.LEADER, 0)
                await self.lease.release()
            await self._clock.sleep(1.0)

    async def _lead(self) -> None:
        surroundings = self.surroundings = self._look_around()
        engine = self.engine = Engine(
            self._settings, self._history, clock=self._clock, metrics=self._metrics, events=self._stream,
            executor=self._executor() if self._executor is not None else None, on_cycle=self._on_cycle,
            event_api=IncidentEvents(self._api, self._uid_of),
            on_change=self._changed, on_incident=self._moved, surroundings=surroundings,
        )  # fmt: skip
        reporter = self.reporter = Reporter(
            self._api, self._clock, self.detectors, self._observe, lambda: self.lease.is_confirmed,
            Events(self._api, self._clock, self._count), self._children, self._count, every_s=self._status_every_s,
        )  # fmt: skip
        self._given.clear()
        self._problems.clear()
        for known in list(self.detectors.objects.values()):
            self._order(known)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.lease.hold())
                tasks.create_task(engine.run())
                tasks.create_task(reporter.run())
                tasks.create_task(self._end_what_vanished(engine))
                if surroundings is not None:
                    tasks.create_task(surroundings.run())
        finally:
            self.engine = self.reporter = self.surroundings = None

    def _look_around(self) -> ClusterSurroundings | None:
        settings = self._settings.changes
        if not settings.enabled:
            return None
        return ClusterSurroundings(
            self._api, self._clock, lambda: {subject.namespace for subject in self._given}, settings,
            is_restricted=bool(self._namespaces),
            dropped=partial(self._metrics.count, telemetry.DROPPED),
            shown=lambda kind, count: self._metrics.show(telemetry.WATCH_OBJECTS, count, kind),
            relisted=partial(self._metrics.count, telemetry.WATCH_RELISTS),
            counted=self._count_changes,
        )  # fmt: skip

    async def _end_what_vanished(self, engine: Engine) -> None:
        """What the database remembers and a complete list lacks was deleted while nobody led."""
        while not self.detectors.is_complete:
            await self._clock.sleep(0.5)
        known = {Subject(*key) for key in self.detectors.objects}
        while True:
            try:
                gone = await engine.remove_vanished(known, self._is_ours)
            except StoreUnavailable:
                await self._clock.sleep(_CHECK_STORE_EVERY_S)
                continue
            if gone:
                _log.info("detectors were deleted while nobody led", count=gone)
            return

    def _is_ours(self, namespace: str) -> bool:
        return not self._namespaces or namespace in self._namespaces

    def _wait_for_the_lease(self) -> int:
        """In a thread: return the epoch under which a fenced write may begin, once it may.

        It is the epoch of when this was called: a thread outlives the leadership that began it.

        Raises:
            LeaseLost: it was not confirmed in time, or another replica leads.

        """
        epoch, ends_s = self.lease.epoch, self._clock.monotonic_s() + _GUARD_WITHIN_S
        while epoch == self.lease.epoch > 0 and not self.lease.may_decide and self._clock.monotonic_s() < ends_s:
            time.sleep(_GUARD_EVERY_S)
        self.lease.guard(epoch)
        return epoch

    # --- what the API server says ---------------------------------------------------------------------------------

    def _reflector(
        self,
        kind: Kind,
        trim: Callable[[dict[str, Any]], _T],
        put: Callable[[Key, _T], None],
        gone: Callable[[Key, _T], None],
    ) -> Reflector[_T]:
        heard = Heard(
            put, gone,
            relisted=partial(self._metrics.count, telemetry.WATCH_RELISTS),
            changed=self._count_changes,
            trouble=self._trouble,
        )  # fmt: skip
        return Reflector(self._api, kind, trim, heard, self._clock, namespaces=self._namespaces)

    def _child_reflector(self, kind: Kind) -> Reflector[Child]:
        def put(_: Key, now: Child) -> None:
            if self._children.put(kind, now):
                self._changed(Subject(now.namespace, now.detector))

        return self._reflector(kind, child, put, lambda _, last: self._children.gone(kind, last))

    def _trim(self, document: dict[str, Any]) -> Seen:
        metadata = document["metadata"]
        key = (str(metadata.get("namespace", "")), str(metadata["name"]))
        return seen(document, self.detectors.objects.get(key))

    def _count_changes(self, kind: str, count: int) -> None:
        self._metrics.count(telemetry.WATCH_EVENTS, kind, by=count)

    def _trouble(self, kind: str, error: ForeshockError) -> None:
        key = f"{kind} {str(error)[:80]}"
        if key not in self._troubled:
            self._troubled = {key} if len(self._troubled) > 100 else self._troubled | {key}
            _log.warning("the API server is asked again", kind=kind, message=str(error))

    def _put(self, _: Key, now: Seen) -> None:
        self._metrics.show(telemetry.WATCH_OBJECTS, len(self.detectors.objects), DETECTORS.name)
        if self.engine is not None:
            self._order(now)

    def _gone(self, key: Key, _: Seen) -> None:
        subject = Subject(*key)
        self._metrics.show(telemetry.WATCH_OBJECTS, len(self.detectors.objects), DETECTORS.name)
        self._problems.pop(subject, None)
        given = self._given.pop(subject, None)
        if self.reporter is not None:
            self.reporter.forget(subject)
        if self.engine is not None and given is not None:
            _log.info("the detector was deleted", detector=subject.detector)
            self.engine.remove(given[1])

    # --- what the engine is told ----------------------------------------------------------------------------------

    def _order(self, now: Seen) -> None:
        """Give the engine what it has not been given yet; what it cannot run is a problem of that detector."""
        assert self.engine is not None
        uid, given = self._given.get(now.subject, (now.uid, None))
        if given is not None and uid != now.uid:  # deleted and made anew before anybody looked
            del self._given[now.subject]
            self.engine.remove(given)
            given = None
        if given is not None and given is now.detector:
            return
        problem = now.problem
        if now.detector is not None:
            objections = tuple(self._settings.objections(now.detector))
            if objections:
                said = " ".join(f"{each.path}: {each.sentence}" for each in objections[:3])
                problem = Fact(ConditionStatus.FALSE, Because.NOT_CONFIGURED, said)
        if problem is not None:
            still = " What was judged before goes on." if given is not None else ""
            self._problems[now.subject] = problem._replace(message=f"{problem.message}{still}")
        elif now.detector is not None:
            self._problems.pop(now.subject, None)
            self._given[now.subject] = now.uid, now.detector
            self.engine.put(now.detector)
        self._changed(now.subject)

    def _observe(self, now: Seen) -> Observed | None:
        engine = self.engine
        if engine is None:
            return None
        subject, problem = now.subject, self._problems.get(now.subject)
        standing = engine.standing(subject)
        if problem is None and standing is not None and standing.generation != now.generation:
            return None  # the order is on its way
        has_looked = standing is not None and (standing.mark is not None or standing.is_suspended)
        if problem is None and not has_looked and not engine.store_is_away and now.said_generation == now.generation:
            return None  # a new leader leaves what was said until it has looked for itself
        return Observed(
            now.generation, standing, problem, tuple(engine.stuck.get(subject, ())), store_is_away=engine.store_is_away
        )

    def _uid_of(self, namespace: str, name: str) -> str:
        known = self.detectors.objects.get((namespace, name))
        return known.uid if known is not None else ""

    def _changed(self, subject: Subject) -> None:
        if self.reporter is not None:
            self.reporter.changed(Subject(subject.namespace, subject.name))

    def _moved(self, subject: Subject) -> None:
        self._children.moved(subject)
        self._changed(subject)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
