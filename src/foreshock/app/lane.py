"""One datasource with the detectors that it serves: they come, change and go while it judges (learning.py teaches)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from foreshock.alerting.state import AlertState, EndReason, Phase, Transition
from foreshock.app.changes import Cohorts, successor, watch_of
from foreshock.app.learning import Learning
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.core import telemetry
from foreshock.core.clock import Clock
from foreshock.core.errors import ExtractorUnavailable, ForeshockError, StoreUnavailable
from foreshock.core.verdicts import Subject
from foreshock.engine.cycle import Cycle, Ledger, Summary
from foreshock.engine.endings import Farewell
from foreshock.engine.gather import Gathers, MetricSource
from foreshock.engine.groups import Group
from foreshock.engine.surroundings import Surroundings
from foreshock.engine.watch import Watch
from foreshock.lifecycle.shelf import Artifacts, Revisions
from foreshock.lifecycle.standing import Standing
from foreshock.lifecycle.train import SETTLED
from foreshock.lifecycle.trainer import Trainer
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.settings import Datasource
from foreshock.store.by_hand import MODELS

_DAY_S, _WEEK_S = 86_400, 604_800
_RESYNC_S = 3_600  # how often a ring is read anew, for samples that came late
_STORE_PAUSE_S = 5.0
_RESTORE_WITHIN_S = 5.0  # how long judging waits for the models of those that came
_GATHER_CHANGES_S = 0.25  # those that arrive together are applied together: each set of detectors is planned once
_log = structlog.get_logger("foreshock")


class Source(MetricSource, Protocol):
    """The port to a datasource: ranges, and its own time."""

    async def now_s(self, *, deadline_s: float | None = None) -> float: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What all lanes share. `states` are the alerts of all of them: a detector may change its datasource."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    ledger: Ledger
    revisions: Revisions
    artifacts: Artifacts
    executor: Executor
    states: MutableMapping[Subject, AlertState]
    gathers: Callable[[Datasource, MetricSource], Gathers]
    committed: Callable[[], None]  # rows wait in the outbox
    changed: Callable[[Subject], None]  # something else is to be said of this detector
    moved: Callable[[Subject], None]  # an incident of this detector began or ended
    stored: Callable[[str], None]  # why the database did not take what was decided, or nothing
    cycled: Callable[[Summary], None]
    surroundings: Surroundings
    false_per_s: dict[str, float] = field(default_factory=dict)  # by datasource, what the budgets allow


@dataclass(frozen=True, slots=True)
class Leave:
    """An order to judge a detector no more; without a farewell another lane goes on with it."""

    farewell: Farewell | None


@dataclass(slots=True)
class Lane:
    """A slow datasource delays nobody else: each has its cycles, its trainer and its clock.

    Where a datasource tells namespaces apart, each namespace has a lane of its own: no query serves two of them, and
    the slow queries of one delay no cycle of another. `siblings` are all lanes of the datasource, itself among them.
    """

    source: Datasource
    client: Source
    parts: Parts
    siblings: list[Lane] = field(default_factory=list)
    lag_s: float = 0.0
    watches: dict[Subject, Watch] = field(default_factory=dict)
    suspended: dict[Subject, int | None] = field(default_factory=dict)  # with the generation that says so
    _leaving: dict[Subject, Leave] = field(default_factory=dict)
    _coming: dict[Subject, AnomalyDetector] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _adapted: list[Subject] = field(default_factory=list)  # whose incidents are the new normal
    _extractor_away: str = ""
    _cohorts: Cohorts = field(default_factory=Cohorts)
    _gatherer: Gathers = field(init=False)
    _cycle: Cycle = field(init=False)
    learning: Learning = field(init=False)

    def __post_init__(self) -> None:
        parts, settings = self.parts, self.parts.settings
        self._gatherer = parts.gathers(self.source, self.client)
        self._cycle = Cycle(
            self._gatherer, parts.ledger, parts.states,
            cluster=settings.cluster, external_labels=settings.external_labels,
            routing=settings.routing, false_per_day=lambda: sum(parts.false_per_s.values()) * _DAY_S,
            surroundings=parts.surroundings, neighbours_across=settings.neighbours == "cluster",
        )  # fmt: skip
        trainer = Trainer(self.client, parts.artifacts, parts.revisions, parts.executor)
        self.learning = Learning(
            trainer, parts.clock, parts.metrics, self.watches, parts.changed, self._adapted.extend, self._is_open
        )

    def _is_open(self, detector: Subject) -> bool:
        """Whether anything of a detector is anomalous: then its incident decides what is learnt, and when."""
        return any(
            state.incident is not None and (each.namespace, each.name) == (detector.namespace, detector.name)
            for each, state in self.parts.states.items()
        )

    def order(self, subject: Subject, wanted: AnomalyDetector | Leave) -> None:
        """Take effect between two cycles; the newest order counts, and who left and came back does both."""
        if isinstance(wanted, Leave):
            self._leaving[subject] = wanted
            self._coming.pop(subject, None)
        else:
            self._coming[subject] = wanted
        self._news.set()

    def standing(self, subject: Subject) -> Standing | None:
        """How a detector stands, or None where this lane does not know it."""
        watch, known = self.watches.get(subject), self.learning.known(subject)
        if watch is None:
            if subject in self.suspended:
                return Standing(generation=self.suspended[subject], is_suspended=True)
            return None
        revisions = {group: watch.cohort.revisions[row] for group, row in watch.row_of_group.items()}
        judging = sorted((each for each in revisions.values() if each is not None), key=lambda each: bool(each.sibling))
        firing = []
        if watch.mark is not None and self.parts.states:
            for group in watch.row_of_group:
                each = Subject(subject.namespace, subject.name, group)
                state = self.parts.states.get(each)
                if state is not None and state.phase is Phase.FIRING and state.incident is not None:
                    firing.append((each, state.incident))
        return Standing(
            generation=watch.manifest.metadata.generation,
            mark=watch.mark,
            failed_cycles=watch.failed_cycles,
            learnt=known.learnt,
            trouble=known.trouble,
            drift=known.drift,
            revision=judging[0] if judging else None,
            on_loan=tuple(
                (group, each.sibling) for group, each in revisions.items() if each is not None and each.sibling
            ),
            firing=tuple(firing),
            extractor_away=self._extractor_away,
        )

    async def judge(self) -> None:
        """Cycles one after another, each over every detector that is due; orders are carried out in between."""
        clock = self.parts.clock
        offset_s = await self._skew_s()
        resynced_s = clock.monotonic_s()
        while True:
            await self._carry_out()
            await self._end_adapted()
            now_s = clock.now_s() + offset_s
            due = [
                (watch, at_s)
                for watch in self.watches.values()
                if (at_s := watch.rhythm.latest_s(now_s)) > (watch.judged_at_s or 0)
            ]
            if due:
                if not (await self._heed() and await self._run_cycle(due, now_s)):
                    await clock.sleep(_STORE_PAUSE_S)
                    continue
                if clock.monotonic_s() - resynced_s > _RESYNC_S:
                    resynced_s = clock.monotonic_s()
                    for watch in self.watches.values():
                        watch.forget_samples()
                    offset_s = await self._skew_s()
                continue  # a cycle takes its time: the next window may be due already
            rhythms = {watch.rhythm for watch in self.watches.values()}
            waits = [rhythm.next_due_s(rhythm.latest_s(now_s)) - now_s for rhythm in rhythms]
            await self._rest(max(0.05, min(waits, default=60.0)))

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _rest(self, duration_s: float) -> None:
        """Sleep until something is due or an order arrives, and a moment longer for those that arrive with it."""
        sleeper = asyncio.ensure_future(self.parts.clock.sleep(duration_s))
        waiter = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait((sleeper, waiter), return_when=asyncio.FIRST_COMPLETED)
            if not sleeper.done():
                await self.parts.clock.sleep(min(_GATHER_CHANGES_S, duration_s))
        finally:
            sleeper.cancel()
            waiter.cancel()

    async def _carry_out(self) -> None:
        self._news.clear()
        leaving, self._leaving = self._leaving, {}
        coming, self._coming = self._coming, {}
        if not leaving and not coming:
            return
        for subject in leaving:
            await self._drop(subject)
            self.suspended.pop(subject, None)
            self.parts.changed(subject)
        await self._end([order.farewell for order in leaving.values() if order.farewell is not None])
        farewells = []
        known: dict[Subject, list[Subject]] = {}
        for each in self.parts.states:
            known.setdefault(Subject(each.namespace, each.name), []).append(each)
        for number, (subject, wanted) in enumerate(coming.items()):
            if number % 100 == 99:
                await asyncio.sleep(0)  # ten thousand at once must not hold up deliveries and probes
            try:
                if wanted.spec.suspend:
                    await self._drop(subject)
                    self.suspended[subject] = wanted.metadata.generation
                    farewells.append(self._farewell(wanted, EndReason.SUSPENDED))
                else:
                    self.suspended.pop(subject, None)
                    farewells += await self._put(wanted, known.get(subject, []))
            except ForeshockError as error:
                self.learning.say(subject, str(error), reason=error.reason)
            self.parts.changed(subject)
        self._gatherer.forget()
        self._cohorts.forget_empty()
        watches = [watch for lane in self.siblings or [self] for watch in lane.watches.values()]
        self.parts.metrics.show(telemetry.DETECTORS, len(watches), self.source.name)
        false_per_s = self.parts.false_per_s[self.source.name] = sum(
            watch.spec.false_alarm_budget.per_s for watch in watches
        )
        self.parts.metrics.show(telemetry.EXPECTED_FALSE, false_per_s * _WEEK_S, self.source.name)
        await self._end(farewells)
        await self.learning.caught_up(within_s=_RESTORE_WITHIN_S)  # else the first window would lack its model

    async def _end_adapted(self) -> None:
        """What has lasted and is learnt is no incident any more."""
        groups: dict[Subject, set[Group]] = {}
        for subject in self._adapted:
            groups.setdefault(Subject(subject.namespace, subject.name), set()).add(subject.group)
        self._adapted.clear()
        farewells = [
            replace(self._farewell(self.watches[subject].manifest, EndReason.ADAPTED), only=frozenset(these))
            for subject, these in groups.items()
            if subject in self.watches
        ]
        await self._end(farewells)

    def _settle_changes(self, now_s: float) -> None:
        """Let what has lasted be learnt early, where the manifest allows it."""
        for subject, state in self.parts.states.items():
            watch = self.watches.get(Subject(subject.namespace, subject.name))
            if watch is None or state.incident is None or watch.spec.training.drift_detection != "enabled":
                continue
            if now_s - state.incident.started_at_s >= SETTLED * watch.spec.training.persistence:
                self.learning.settle_change(watch.subject, now_s)

    async def _heed(self) -> bool:
        """Take up what was changed by hand: another revision judges from this cycle on. False without a database."""
        revisions = self.parts.revisions
        try:
            notices = await asyncio.to_thread(revisions.notices)
            mine = [one for one in notices if Subject(one.namespace, one.name) in self.watches]
            for notice in mine:
                watch = self.watches[Subject(notice.namespace, notice.name)]
                if notice.what == MODELS:
                    await self.learning.restore_now(watch)
                else:
                    self.learning.look_again(watch.subject)
            if mine:
                await asyncio.to_thread(revisions.settle_notices, mine)
        except StoreUnavailable as error:
            self._store_is_away(error)
            return False
        return True

    async def _put(self, detector: AnomalyDetector, known: list[Subject]) -> list[Farewell]:
        subject, pins = detector.subject, False
        old = self.watches.get(subject)
        sinks = tuple(
            sink.name for sink in self.parts.settings.sinks_for(detector.spec.sinks, detector.spec.alert_severity)
        )
        if old is None:
            new = watch_of(detector, self.source, self._cohorts, sinks)
            self.learning.take_up(subject)
        else:
            async with old.settling:
                new, is_trained = successor(old, detector, self.source, self._cohorts, sinks)
                old.retire()
            if not is_trained and old.spec.model_version != new.spec.model_version:
                pins = True
            elif not is_trained:
                self.learning.take_up(subject)
        for each in known:  # a group that fires is judged also before its series is back
            if tuple(name for name, _ in each.group) == tuple(sorted(detector.spec.group_by)):
                new.row_of(dict(each.group))
        self.watches[subject] = new
        if old is None or old.sinks != new.sinks:
            await self._tell_standing(known, sinks)
        if pins:
            await self.learning.restore_now(new)
        if old is not None and set(old.spec.group_by) != set(detector.spec.group_by):
            return [self._farewell(detector, EndReason.DETECTOR_DELETED, keep=detector.spec.group_by)]
        return []

    async def _tell_standing(self, known: Iterable[Subject], sinks: tuple[str, ...]) -> None:
        """What fires is told to a sink that was named after it began; what is held back from some waits as before."""
        incidents = (self.parts.states[each].incident for each in known)
        standing = [
            one.incident_id for one in incidents if one is not None and one.fired_at_s is not None and one.only is None
        ]
        if standing and sinks:
            now_s = self.parts.clock.now_s()
            if await asyncio.to_thread(self.parts.ledger.tell_standing, standing, sinks, now_s=now_s):
                self.parts.committed()

    def _farewell(
        self, detector: AnomalyDetector, reason: EndReason, *, keep: tuple[str, ...] | None = None
    ) -> Farewell:
        sinks = tuple(
            sink.name for sink in self.parts.settings.sinks_for(detector.spec.sinks, detector.spec.alert_severity)
        )
        subject = detector.subject
        return Farewell(subject.namespace, subject.name, reason, detector.spec.target_service, sinks, keep=keep)

    async def _drop(self, subject: Subject) -> None:
        watch = self.watches.pop(subject, None)
        self.learning.forget(subject)
        if watch is not None:
            groups = [",".join(f"{name}={value}" for name, value in group) for group in watch.row_of_group]
            self.parts.metrics.forget((subject.detector, group) for group in groups)
            async with watch.settling:
                watch.retire()

    async def _end(self, farewells: list[Farewell]) -> None:
        """Commit the farewells; while the database is away nothing else is decided either."""
        while farewells:
            now_s = self.parts.clock.now_s()
            try:
                transitions = await self._cycle.end(farewells, int(now_s), now_s)
            except StoreUnavailable as error:
                self._store_is_away(error)
                await self.parts.clock.sleep(_STORE_PAUSE_S)
                continue
            self._announce(transitions)
            return

    # --- cycles ---------------------------------------------------------------------------------------------------

    async def _run_cycle(self, due: list[tuple[Watch, int]], now_s: float) -> bool:
        """Judge, and tell; what could not be committed is as if it had not been judged, and False."""
        parts = self.parts
        began_s = parts.clock.monotonic_s()
        before = [(watch, watch.judged_at_s) for watch, _ in due]
        known = [watch for watch, judged_at_s in before if judged_at_s is not None]
        try:
            summary = await self._cycle.run(due, now_s)
        except StoreUnavailable as error:
            self._store_is_away(error)
            for watch, judged_at_s in before:
                watch.judged_at_s = judged_at_s
            return False
        parts.stored("")
        took_s = parts.clock.monotonic_s() - began_s
        parts.metrics.cycle(self.source.name, summary, took_s)
        self._note_extractor(summary.extractor_away)
        # of who was judged before: what has just come is late by its nature. Without data it grows
        newest_s = [watch.filled_to_s + watch.rhythm.offset_s for watch in known if watch.filled_to_s is not None]
        if newest_s:
            self.lag_s = max(0.0, now_s + took_s - min(newest_s))
            longest_s = max(lane.lag_s for lane in self.siblings or [self])
            parts.metrics.show(telemetry.CYCLE_LAG, longest_s, self.source.name)
        for watch, failure in summary.failures.items():
            self.learning.say(watch.subject, failure.message, reason=failure.reason)
        for watch, _ in due:
            if watch not in summary.failures:
                self.learning.say_well_again(watch.subject)
        self._announce(summary.transitions)
        self._settle_changes(now_s)
        for watch in summary.changed:
            parts.changed(watch.subject)
        parts.cycled(summary)
        return True

    def _note_extractor(self, why: str) -> None:
        """Say once that the extractor is away, and once that it is back."""
        if self.parts.settings.extractor.url is None:
            return
        self.parts.metrics.show(telemetry.EXTRACTOR_UP, 0.0 if why else 1.0, self.source.name)
        if why:
            self.parts.metrics.count(telemetry.EXTRACTOR_FALLBACKS, self.source.name)
        was_away, self._extractor_away = bool(self._extractor_away), why
        if bool(why) == was_away:
            return
        if why:
            words = f"{why}; the engine extracts by itself"
            _log.warning(words, datasource=self.source.name, reason=ExtractorUnavailable.reason)
        else:
            _log.info("the extractor is used again", datasource=self.source.name)
        for subject in self.watches:
            self.parts.changed(subject)

    def _announce(self, transitions: tuple[Transition, ...]) -> None:
        for transition in transitions:
            _log.info(
                "alert", status=transition.kind.value, subject=str(transition.subject), incident=transition.incident_id,
                score=round(transition.score, 3), top=[each.metric for each in transition.contributions[:3]],
                reason=transition.reason.value if transition.reason else None,
            )  # fmt: skip
            self.parts.moved(Subject(transition.subject.namespace, transition.subject.name))
        if transitions:
            self.parts.committed()

    def _store_is_away(self, error: StoreUnavailable) -> None:
        self.parts.metrics.count(telemetry.STORE_UNAVAILABLE)
        self.parts.stored(str(error))
        _log.error("nothing was published", reason=error.reason, message=str(error))

    async def _skew_s(self) -> float:
        """How far the datasource's clock is ahead of ours: windows end where its data does."""
        try:
            return await self.client.now_s(deadline_s=5.0) - self.parts.clock.now_s()
        except ForeshockError:
            return 0.0
