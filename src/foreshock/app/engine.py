"""The engine: every detector that it is told of is judged, taught and reported, and none that it is not.

`foreshock run` gives it a folder's manifests, the operator those of the API server. Orders never wait for I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TextIO

import structlog

from foreshock.alerting.outbox import Outbox, Report
from foreshock.alerting.sinks import build
from foreshock.alerting.sinks.kubernetes_event import EventApi
from foreshock.alerting.state import AlertState, EndReason
from foreshock.app.clock import SystemClock
from foreshock.app.lane import Lane, Leave, Parts
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.app.wiring import open_artifacts
from foreshock.app.worker import Worker
from foreshock.core import telemetry
from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, StoreUnavailable
from foreshock.core.verdicts import Subject
from foreshock.engine.cycle import Summary
from foreshock.engine.endings import Farewell
from foreshock.engine.gather import Gatherer, Gathers, MetricSource
from foreshock.engine.surroundings import NoSurroundings, Surroundings
from foreshock.extractor.client import ExtractorClient
from foreshock.extractor.remote import RemoteGatherer, most_in_flight
from foreshock.lifecycle.standing import Standing
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import Artifacts
from foreshock.store.history import History
from foreshock.store.records import CycleChanges, Stuck

GRACE_S = 86_400.0  # how long the artifacts of nobody are kept
_SWEEP_EVERY_S = 3_600.0
_BACKLOG_EVERY_S = 10.0
_FLUSH_WITHIN_S = 5.0
STUCK_S = 300.0  # how long an event may wait for a sink before its detector says so
REFUSED_S = 86_400.0  # how long it is said that a sink refused one for good
_log = structlog.get_logger("foreshock")


LaneKey = tuple[str, str | None]


def lane_key(source: Datasource, namespace: str) -> LaneKey:
    """Who is judged together: all of a datasource; where it tells namespaces apart, all of one namespace."""
    return source.name, namespace if source.namespace_label is not None else None


def _unheard(_: object) -> None:
    """Nobody listens."""


class Engine:
    """Orders may be given at any time, also before `run`; the newest one of a detector is the one that counts."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        *,
        clock: Clock | None = None,
        executor: Executor | None = None,
        metrics: Metrics | None = None,
        events: TextIO | None = None,
        event_api: EventApi | None = None,
        on_cycle: Callable[[Summary], None] = _unheard,
        on_change: Callable[[Subject], None] = _unheard,
        on_incident: Callable[[Subject], None] = _unheard,
        surroundings: Surroundings | None = None,
    ) -> None:
        """`on_change` hears of detectors of which something else is to be said, `on_incident` of what fires or ends.

        `surroundings` know what happens in the cluster around the services, where there is a cluster.
        """
        self._settings, self._history = settings, history
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._artifacts = open_artifacts(settings)
        self._executor = executor or Worker()
        self._outbox = Outbox(
            history,
            [build(each, self._clock, stream=events, event_api=event_api) for each in settings.sinks_by_name.values()],
            self._clock,
            report=self._delivered,
        )
        self._states: dict[Subject, AlertState] = {}
        self._parts = Parts(
            settings, self._clock, self._metrics, _Ledger(history, self._artifacts), history, self._artifacts,
            self._executor, self._states, self._gathers, committed=self._outbox.notify, changed=on_change,
            moved=on_incident, stored=self._stored, cycled=on_cycle, surroundings=surroundings or NoSurroundings(),
        )  # fmt: skip
        self._on_change = on_change
        url = settings.extractor.url
        self._extractor = ExtractorClient(url) if url is not None else None
        self._exchanges: dict[str, asyncio.Semaphore] = {}  # by datasource: shared by its lanes
        self._lanes: dict[LaneKey, Lane] = {}
        self._lane_of: dict[Subject, LaneKey] = {}
        self._clients: dict[str, tuple[_Metered, asyncio.Task[PrometheusClient]]] = {}  # by datasource
        self._waiting: dict[Subject, AnomalyDetector | Leave] = {}  # orders from before `run`
        self._tasks: asyncio.TaskGroup | None = None
        self._stack = contextlib.AsyncExitStack()
        self.store_is_away = False
        self.stuck: Mapping[Subject, tuple[Stuck, ...]] = {}  # of which detectors a sink does not take the events

    # --- orders ---------------------------------------------------------------------------------------------------

    def put(self, detector: AnomalyDetector) -> None:
        """Judge this detector, new or changed; it must name only what the settings know."""
        subject = detector.subject
        if self._tasks is None:
            self._waiting[subject] = detector
            return
        source = self._settings.datasource(detector.spec.datasource)
        before, key = self._lane_of.get(subject), lane_key(source, subject.namespace)
        if before is not None and before != key:
            self._lanes[before].order(subject, Leave(None))
        self._lane_of[subject] = key
        self._lane(source, subject.namespace).order(subject, detector)

    def remove(self, detector: AnomalyDetector) -> None:
        """Judge this detector no more: its open incidents expire, its state goes, its artifacts after a day."""
        subject = detector.subject
        sinks = tuple(sink.name for sink in self._settings.sinks_for(detector.spec.sinks, detector.spec.alert_severity))
        self._leave(
            Farewell(
                subject.namespace, subject.name, EndReason.DETECTOR_DELETED, detector.spec.target_service, sinks,
                forget=True,
            ),
            detector.spec.datasource,
        )  # fmt: skip

    async def remove_vanished(self, known: Collection[Subject], is_ours: Callable[[str], bool]) -> int:
        """Remove what the database remembers and nobody wrote down any more, in the namespaces that are ours."""
        gone = [
            subject
            for subject in await asyncio.to_thread(self._history.detectors)
            if subject not in known and is_ours(subject.namespace)
        ]
        for subject in gone:
            service, sinks = await asyncio.to_thread(self._history.told, subject)
            usual = tuple(sink.name for sink in self._settings.sinks_for(None))
            self._leave(
                Farewell(
                    subject.namespace, subject.name, EndReason.DETECTOR_DELETED, service, sinks or usual, forget=True
                ),
                None,
            )
        return len(gone)

    def standing(self, subject: Subject) -> Standing | None:
        """How a detector stands, or None where it was not taken up yet."""
        key = self._lane_of.get(subject)
        return self._lanes[key].standing(subject) if key is not None else None

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled; what was decided is committed, what was not sent yet waits in the outbox."""
        try:
            self._states.update(await asyncio.to_thread(self._history.load_alert_states))
            await self._forget_removed_sinks()
            async with self._stack, asyncio.TaskGroup() as tasks:
                if self._extractor is not None:
                    await self._stack.enter_async_context(self._extractor)
                self._tasks = tasks
                waiting, self._waiting = self._waiting, {}
                for wanted in waiting.values():
                    if isinstance(wanted, AnomalyDetector):
                        self.put(wanted)
                tasks.create_task(self._outbox.run())
                tasks.create_task(self._sweep())
                tasks.create_task(self._watch_backlog())
        finally:
            self._tasks = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_WITHIN_S):
                    await self._outbox.flush()
            await self._outbox.close()
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _forget_removed_sinks(self) -> None:
        removed = await asyncio.to_thread(
            self._history.end_removed, tuple(self._settings.sinks_by_name), now_s=self._clock.now_s()
        )
        for sink, n_events in removed.items():
            self._metrics.sink_removed(sink, n_events)
            _log.warning("what waited for a sink that is configured no more is dropped", sink=sink, events=n_events)

    def _leave(self, farewell: Farewell, datasource: str | None) -> None:
        subject = Subject(farewell.namespace, farewell.name)
        if self._tasks is None:
            self._waiting.pop(subject, None)  # what the database knows of it is found by `remove_vanished`
            return
        key = self._lane_of.pop(subject, None)
        if key is not None:
            lane = self._lanes[key]
        else:
            lane = self._lane(self._settings.datasource(datasource), subject.namespace)
        lane.order(subject, Leave(farewell))

    def _lane(self, source: Datasource, namespace: str) -> Lane:
        key = lane_key(source, namespace)
        lane = self._lanes.get(key)
        if lane is None:
            assert self._tasks is not None
            if source.name not in self._clients:
                charged = partial(self._metrics.charge, source.name)
                client = PrometheusClient(source, charged=charged)
                opening = self._tasks.create_task(self._stack.enter_async_context(client))
                self._clients[source.name] = _Metered(client, self._metrics), opening
            metered, opening = self._clients[source.name]
            siblings = next((each.siblings for each in self._lanes.values() if each.source is source), [])
            lane = self._lanes[key] = Lane(source, metered, self._parts, siblings)
            siblings.append(lane)
            self._tasks.create_task(self._live(lane, opening))
        return lane

    def _gathers(self, source: Datasource, client: MetricSource) -> Gathers:
        """What the cycles of a datasource gather with: an extractor where the settings name one, else the engine."""
        own = Gatherer(client)
        if self._extractor is None:
            return own
        places = self._exchanges.setdefault(source.name, asyncio.Semaphore(most_in_flight(source)))
        return RemoteGatherer(
            own, self._extractor, source,
            timeout_s=self._settings.extractor.timeout_s, places=places, monotonic_s=self._clock.monotonic_s,
        )  # fmt: skip

    async def _live(self, lane: Lane, opening: asyncio.Task[PrometheusClient]) -> None:
        await opening
        assert self._tasks is not None
        self._tasks.create_task(lane.judge())
        self._tasks.create_task(lane.learning.run())

    async def _sweep(self) -> None:
        """Remove the artifacts that no record has named for a day."""
        while True:
            await self._clock.sleep(_SWEEP_EVERY_S)
            try:
                await asyncio.to_thread(self.sweep_artifacts)
            except ForeshockError as error:
                _log.warning("artifacts were not swept", reason=error.reason, message=str(error))

    def sweep_artifacts(self, *, grace_s: float = GRACE_S) -> tuple[str, ...]:
        """Remove and return what nobody names and was put, or left by its detector, more than `grace_s` ago.

        Raises:
            StoreUnavailable: the database or the folder is away.

        """
        live = self._history.live_digests()
        return self._artifacts.garbage(live, older_than_s=self._clock.now_s() - grace_s)

    async def _watch_backlog(self) -> None:
        while True:
            now_s = self._clock.now_s()
            try:
                self._metrics.backlog(await asyncio.to_thread(self._history.backlog), now_s)
                stuck = await asyncio.to_thread(
                    self._history.stuck, pending_before_s=now_s - STUCK_S, refused_after_s=now_s - REFUSED_S
                )
            except ForeshockError:
                self._metrics.count(telemetry.STORE_UNAVAILABLE)
            else:
                before, self.stuck = self.stuck, stuck
                for subject in {*before, *stuck}:
                    if before.get(subject) != stuck.get(subject):
                        self._on_change(subject)
            await self._clock.sleep(_BACKLOG_EVERY_S)

    def _stored(self, why_not: str) -> None:
        if self.store_is_away != bool(why_not):
            self.store_is_away = bool(why_not)
            for subject in self._lane_of:
                self._on_change(subject)

    def _delivered(self, report: Report) -> None:
        self._metrics.delivery(report.sink, report.outcome.value)
        if report.message:
            _log.warning(report.message, sink=report.sink, outcome=report.outcome.value)


class _Ledger:
    """The database, with the artifacts of those that leave: their grace begins when nobody names them any more."""

    def __init__(self, history: History, artifacts: Artifacts) -> None:
        self._history, self._artifacts = history, artifacts

    def tell_standing(self, incident_ids: Collection[str], sinks: Sequence[str], *, now_s: float) -> int:
        return self._history.tell_standing(incident_ids, sinks, now_s=now_s)

    def commit_cycle(self, changes: CycleChanges) -> None:
        left = frozenset[str]().union(*(self._history.digests_of(*each) for each in changes.deleted_detectors))
        self._history.commit_cycle(changes)
        with contextlib.suppress(StoreUnavailable):  # then the grace counts from when they were put
            self._artifacts.touch(left - self._history.live_digests() if left else left)


class _Metered:
    """A datasource whose queries are timed."""

    def __init__(self, client: PrometheusClient, metrics: Metrics) -> None:
        self._client, self._metrics = client, metrics

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        with self._metrics.timed(telemetry.QUERY_SECONDS, self._client.datasource.name):
            return await self._client.range(query, deadline_s=deadline_s)

    async def now_s(self, *, deadline_s: float | None = None) -> float:
        return await self._client.now_s(deadline_s=deadline_s)
