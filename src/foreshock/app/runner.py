"""`foreshock run`: the engine without Kubernetes. Builds every part, and keeps cycles, training and delivery going."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TextIO

import structlog

from foreshock.alerting.outbox import Outbox, Report
from foreshock.alerting.sinks import build
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.core.errors import ForeshockError, StoreUnavailable
from foreshock.core.verdicts import Subject
from foreshock.engine.cohort import Cohort
from foreshock.engine.cycle import Cycle, Summary
from foreshock.engine.gather import Gatherer
from foreshock.engine.schedule import Rhythm, phase_s
from foreshock.engine.watch import Watch
from foreshock.features.schema import Schema
from foreshock.lifecycle.train import rules_of
from foreshock.lifecycle.trainer import Trainer
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History

_RESYNC_S = 3_600  # how often a ring is read anew, for samples that came late
_STORE_PAUSE_S = 5.0
_log = structlog.get_logger("foreshock")


class SystemClock:
    """The real clock; only `app` builds it."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


@dataclass(slots=True)
class _Lane:
    """Everything of one datasource: a slow one delays nobody else."""

    source: Datasource
    client: PrometheusClient
    gatherer: Gatherer
    cycle: Cycle
    trainer: Trainer
    watches: list[Watch] = field(default_factory=list)
    train_at_s: dict[Subject, float] = field(default_factory=dict)
    said: dict[Subject, str] = field(default_factory=dict)


class Runner:
    """Judges the detectors of a set of manifests until it is cancelled."""

    def __init__(
        self,
        settings: Settings,
        detectors: Sequence[AnomalyDetector],
        *,
        clock: SystemClock | None = None,
        executor: Executor | None = None,
        on_cycle: Callable[[Summary], None] = lambda _: None,
        metrics: Metrics | None = None,
        events: TextIO | None = None,
    ) -> None:
        self._settings, self._detectors, self._on_cycle = settings, detectors, on_cycle
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._history = History(settings.database, password_file=settings.database_password_file)
        self._artifacts = ArtifactStore(settings.artifacts_folder)
        # never in the loop's process: a fit takes a second of a core, and a cycle must not wait for it
        self._executor = executor or ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._outbox = Outbox(
            self._history,
            [build(each, stream=events) for each in settings.sinks_by_name.values()],
            self._clock,
            report=self._delivered,
        )

    async def run(self) -> None:
        """Run until cancelled; what was decided is committed, what was not sent yet waits in the outbox."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                lanes = [lane async for lane in self._lanes(stack)]
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._outbox.run())
                    for lane in lanes:
                        tasks.create_task(self._judge(lane))
                        tasks.create_task(self._train(lane))
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._outbox.flush()
            await self._outbox.close()
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._history.close()

    async def _lanes(self, stack: contextlib.AsyncExitStack) -> AsyncIterator[_Lane]:
        states = await asyncio.to_thread(self._history.load_alert_states)
        by_source: dict[str, list[AnomalyDetector]] = {}
        for detector in self._detectors:
            by_source.setdefault(self._settings.datasource(detector.spec.datasource).name, []).append(detector)
        for name, detectors in by_source.items():
            source = self._settings.datasource(name)
            client = await stack.enter_async_context(PrometheusClient(source))
            gatherer = Gatherer(client)
            cycle = Cycle(
                gatherer, self._history, states,
                cluster=self._settings.cluster, external_labels=self._settings.external_labels,
            )  # fmt: skip
            lane = _Lane(
                source, client, gatherer, cycle, Trainer(client, self._artifacts, self._history, self._executor)
            )
            cohorts: dict[object, Cohort] = {}
            for detector in detectors:
                lane.watches.append(watch_of(detector, source, cohorts, self._sinks(detector)))
            yield lane

    def _sinks(self, detector: AnomalyDetector) -> tuple[str, ...]:
        return tuple(sink.name for sink in self._settings.sinks_for(detector.spec.sinks))

    async def _judge(self, lane: _Lane) -> None:
        """Cycles one after another, each over every detector that is due."""
        offset_s = await self._skew_s(lane)
        resynced_s = self._clock.monotonic_s()
        while True:
            now_s = self._clock.now_s() + offset_s
            due = [
                (watch, at_s)
                for watch in lane.watches
                if not watch.spec.suspend and ((at_s := watch.rhythm.latest_s(now_s)) > (watch.judged_at_s or 0))
            ]
            if due:
                await self._cycle(lane, due, now_s)
                if self._clock.monotonic_s() - resynced_s > _RESYNC_S:
                    resynced_s = self._clock.monotonic_s()
                    for watch in lane.watches:
                        watch.forget_samples()
                    offset_s = await self._skew_s(lane)
            waits = [watch.rhythm.next_due_s(watch.rhythm.latest_s(now_s)) - now_s for watch in lane.watches]
            passed_s = self._clock.now_s() + offset_s - now_s
            await self._clock.sleep(max(0.05, min(waits, default=1.0) - passed_s))

    async def _cycle(self, lane: _Lane, due: list[tuple[Watch, int]], now_s: float) -> None:
        began_s = self._clock.monotonic_s()
        try:
            summary = await lane.cycle.run(due, now_s)
        except StoreUnavailable as error:
            self._metrics.store_unavailable()
            _log.error("nothing was published", reason=error.reason, message=str(error))
            await self._clock.sleep(_STORE_PAUSE_S)
            return
        self._metrics.cycle(lane.source.name, summary, self._clock.monotonic_s() - began_s)
        for watch, failure in summary.failures.items():
            self._say(lane, watch.subject, failure.message, reason=failure.reason)
        for watch, _ in due:
            if watch not in summary.failures and lane.said.get(watch.subject, "").startswith("!"):
                self._say(lane, watch.subject, "its data is there again")
        for transition in summary.transitions:
            _log.info(
                "alert", status=transition.kind.value, subject=str(transition.subject), incident=transition.incident_id,
                score=round(transition.score, 3), top=[each.metric for each in transition.contributions[:3]],
            )  # fmt: skip
        if summary.transitions:
            self._outbox.notify()
        self._on_cycle(summary)

    async def _train(self, lane: _Lane) -> None:
        """Restore what was learnt, then train whoever is due, for ever."""
        for watch in lane.watches:
            now_s = self._clock.now_s()
            lane.train_at_s[watch.subject] = now_s
            try:
                learnt = await lane.trainer.restore(watch, now_s)
            except ForeshockError as error:
                self._say(lane, watch.subject, f"{error} A new model is trained.", reason=error.reason)
                continue
            if learnt is not None:
                self._say(lane, watch.subject, learnt.message)
                lane.train_at_s[watch.subject] = learnt.next_s
        while True:
            for watch in lane.watches:
                now_s = self._clock.now_s()
                if lane.train_at_s[watch.subject] <= now_s:
                    await self._learn(lane, watch, now_s)
            await self._clock.sleep(1.0)

    async def _learn(self, lane: _Lane, watch: Watch, now_s: float) -> None:
        began_s = self._clock.monotonic_s()
        try:
            learnt = await lane.trainer.learn(watch, now_s)
        except ForeshockError as error:
            pause_s = 60.0 if error.retryable else 600.0
            lane.train_at_s[watch.subject] = now_s + pause_s
            self._say(lane, watch.subject, str(error), reason=error.reason)
            return
        self._metrics.training(self._clock.monotonic_s() - began_s)
        lane.train_at_s[watch.subject] = learnt.next_s
        self._say(lane, watch.subject, learnt.message)

    async def _skew_s(self, lane: _Lane) -> float:
        """How far the datasource's clock is ahead of ours: windows end where its data does."""
        try:
            return await lane.client.now_s(deadline_s=5.0) - self._clock.now_s()
        except ForeshockError:
            return 0.0

    def _say(self, lane: _Lane, subject: Subject, message: str, *, reason: str | None = None) -> None:
        """Log what changed about a detector, once."""
        key = f"!{reason}" if reason else message
        if lane.said.get(subject) == key:
            return
        lane.said[subject] = key
        if reason:
            _log.warning(message, detector=str(subject), reason=str(reason))
        else:
            _log.info(message, detector=str(subject))

    def _delivered(self, report: Report) -> None:
        self._metrics.delivery(report.sink, report.outcome.value)
        if report.message:
            _log.warning(report.message, sink=report.sink, outcome=report.outcome.value)


def watch_of(
    detector: AnomalyDetector, source: Datasource, cohorts: dict[object, Cohort], sinks: tuple[str, ...]
) -> Watch:
    """One detector as the engine runs it, in the cohort of those that are shaped alike."""
    spec = detector.spec
    schema = Schema(tuple(metric.name for metric in spec.named_metrics), spec.step, spec.detection_window)
    interval_s = -(-spec.interval // spec.step) * spec.step  # windows end on the step
    queries = tuple(metric.query for metric in spec.named_metrics)
    offset_s = spec.query_offset if spec.query_offset is not None else int(source.query_offset_s)
    rhythm = Rhythm(interval_s, phase_s(source.name, queries, interval_s, spec.step), offset_s)
    loads = tuple(k for k, metric in enumerate(spec.named_metrics) if metric.role == "load")
    key = (len(schema.metrics), schema.step_s, schema.window_s, loads, spec.algorithm)
    cohort = cohorts.setdefault(key, Cohort(schema))
    return Watch(detector, schema, rules_of(spec.named_metrics), rhythm, cohort, sinks)
