"""One cycle: gather what is due, judge it in blocks, move the alerts, commit all at once, then tell the world."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from foreshock.alerting.event import cloud_event
from foreshock.alerting.outbox import Delivery, deliveries
from foreshock.alerting.routing import EVERYTHING, Routing, expected_false_share
from foreshock.alerting.state import AlertState, Kind, Phase, Transition, advance
from foreshock.core.verdicts import Anomalous, Cause, Ignorance, Inconclusive, Judgement, Normal, Subject
from foreshock.engine.cohort import Cohort, Judged
from foreshock.engine.decide import Codes, ignorance_of, judgement, shares
from foreshock.engine.endings import Farewell, Said, farewell
from foreshock.engine.evidence import evidence_of
from foreshock.engine.facts import without_thin_metrics
from foreshock.engine.gather import Failure, Gathered, Gathers
from foreshock.engine.neighbours import Neighbours
from foreshock.engine.peaks import Peaks, peak_of
from foreshock.engine.surroundings import NoSurroundings, Surroundings
from foreshock.engine.watch import Mark, Watch
from foreshock.features.schema import GAP_STEPS
from foreshock.store.records import CycleChanges, Incident


class Ledger(Protocol):
    """The port to the database: one transaction a cycle, committed before anything is sent."""

    def commit_cycle(self, changes: CycleChanges) -> None: ...

    def tell_standing(self, incident_ids: Collection[str], sinks: Sequence[str], *, now_s: float) -> int: ...


@dataclass(slots=True)
class Summary:
    """What one cycle came to: for metrics, logs and the tests."""

    verdicts: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    let_through: int = 0
    missed: int = 0
    transitions: tuple[Transition, ...] = ()
    failures: Mapping[Watch, Failure] = field(default_factory=dict)
    scores: dict[Subject, float] = field(default_factory=dict)  # of subjects that are anomalous or were
    extractor_away: str = ""  # why the configured feature service did not take part
    changed: list[Watch] = field(default_factory=list)  # of which something else is said than a cycle ago


@dataclass(frozen=True, slots=True)
class _Row:
    watch: Watch
    block: Judged
    place: int  # within the block

    @property
    def subject(self) -> Subject:
        return self.watch.cohort.subjects[int(self.block.rows[self.place])]


class Cycle:
    """Judges the due detectors of one datasource; never two at a time.

    `states` holds the alerts' states between cycles; those of several datasources may share one mapping.
    """

    def __init__(
        self,
        gatherer: Gathers,
        ledger: Ledger,
        states: MutableMapping[Subject, AlertState],
        *,
        cluster: str,
        external_labels: Mapping[str, str],
        routing: Routing = EVERYTHING,
        false_per_day: Callable[[], float] = float,
        surroundings: Surroundings | None = None,
        neighbours_across: bool = False,
    ) -> None:
        """`false_per_day()` is what the budgets of the whole fleet allow in a day.

        `neighbours_across` namespaces: incidents of all of them may know of each other.
        """
        self._routing, self._false_per_day = routing, false_per_day
        self._gatherer, self._ledger, self.states = gatherer, ledger, states
        self._cluster, self._external_labels = cluster, external_labels
        self._surroundings, self._across = surroundings or NoSurroundings(), neighbours_across
        self._peaks = Peaks()

    async def run(self, due: Sequence[tuple[Watch, int]], now_s: float) -> Summary:
        """Judge every due detector at its instant.

        Raises:
            StoreUnavailable: the decisions could not be committed; nothing of them was published or remembered.

        """
        missed = sum(
            watch.rhythm.missed(watch.judged_at_s, at_s) for watch, at_s in due if watch.judged_at_s is not None
        )
        gathered = await self._gatherer.gather(due)
        blocks = self._judge(due, gathered)
        summary = Summary(missed=missed, failures=gathered.failures, extractor_away=gathered.extractor_away)
        changes, states = self._decide(due, blocks, gathered, now_s, summary)
        if changes.states or changes.incidents or changes.outbox:
            await asyncio.to_thread(self._ledger.commit_cycle, changes)
        self.states.update(states)
        _mark(due, blocks, gathered, summary)
        return summary

    async def end(self, farewells: Collection[Farewell], at_s: int, now_s: float) -> tuple[Transition, ...]:
        """End what is open of detectors that are judged no more, and forget those that were deleted.

        Raises:
            StoreUnavailable: it could not be committed; nothing was published or forgotten.

        """
        leaving = {(each.namespace, each.name): each for each in farewells}
        said = Said()
        for subject, state in self.states.items():
            each = leaving.get((subject.namespace, subject.name))
            if each is not None and each.is_about(subject):
                farewell(
                    each, state, said, at_s=at_s, now_s=now_s, cluster=self._cluster,
                    external_labels=self._external_labels,
                )  # fmt: skip
        deleted = tuple(key for key, each in leaving.items() if each.forget)
        gone = set(deleted)
        kept = tuple(
            state for state in said.states.values() if (state.subject.namespace, state.subject.name) not in deleted
        )
        changes = CycleChanges(
            now_s, states=kept, incidents=tuple(said.incidents), outbox=tuple(said.outbox), deleted_detectors=deleted
        )
        if changes.states or changes.incidents or changes.outbox or changes.deleted_detectors:
            await asyncio.to_thread(self._ledger.commit_cycle, changes)
        self.states.update(said.states)
        for subject in [each for each in self.states if (each.namespace, each.name) in gone]:
            del self.states[subject]
        return tuple(said.transitions)

    def _judge(self, due: Sequence[tuple[Watch, int]], gathered: Gathered) -> list[tuple[Judged, list[Watch]]]:
        """One block a cohort; windows of detectors that are suspicious already are always looked at in full."""
        by_cohort: dict[Cohort, list[tuple[Watch, int]]] = {}
        for watch, at_s in due:
            if watch not in gathered.failures and not watch.spec.suspend:
                by_cohort.setdefault(watch.cohort, []).append((watch, at_s))
        blocks = []
        for cohort, watches in by_cohort.items():
            owners, rows, forced, degraded = [], [], [], []
            for watch, at_s in watches:
                due_in_full = watch.rhythm.index(at_s) % watch.spec.throttle.force_every == 0
                for row in watch.row_of_group.values():
                    owners.append(watch)
                    rows.append(row)
                    forced.append(due_in_full or self._is_open(cohort.subjects[row]))
                    degraded.append(watch in gathered.degraded)
            if rows:
                block = cohort.judge(
                    np.array(rows), np.array(forced), np.array(degraded), gathered.described.get(cohort)
                )
                blocks.append((block, owners))
        return blocks

    def _is_open(self, subject: Subject) -> bool:
        state = self.states.get(subject)
        return state is not None and state.phase is not Phase.INACTIVE

    def _decide(
        self,
        due: Sequence[tuple[Watch, int]],
        blocks: list[tuple[Judged, list[Watch]]],
        gathered: Gathered,
        now_s: float,
        summary: Summary,
    ) -> tuple[CycleChanges, dict[Subject, AlertState]]:
        states: dict[Subject, AlertState] = {}
        moved: list[tuple[_Row, Transition]] = []
        peaks: list[Incident] = []
        self._peaks.begin_cycle()
        for block, owners in blocks:
            anomalous, inconclusive = block.decisions.anomalous, block.decisions.inconclusive
            summary.verdicts["anomalous"] += int(anomalous.sum())
            summary.verdicts["inconclusive"] += int(inconclusive.sum())
            summary.verdicts["normal"] += int((~anomalous & ~inconclusive).sum())
            summary.asked += block.asked
            summary.let_through += block.let_through
            for place, watch in enumerate(owners):
                row = _Row(watch, block, place)
                if not anomalous[place] and row.subject not in self.states:
                    continue  # most windows of most fleets: nothing to say and nothing to remember
                said = _back_in_range(row, _say(row)) if row.subject in self.states else _say(row)
                summary.scores[row.subject] = float(block.decisions.scores[place])
                state, found = self._advance(watch, said)
                states[row.subject] = state
                moved.extend((row, transition) for transition in found)
                if not found and self._peaks.is_new(state):
                    peaks.extend(self._peak(row, state))
        for watch, failure in gathered.failures.items():
            at_s = next(at_s for each, at_s in due if each is watch)
            for group in watch.row_of_group:
                subject = Subject(watch.subject.namespace, watch.subject.name, group)
                summary.verdicts["inconclusive"] += 1
                if subject in self.states:
                    unknown = Judgement(subject, at_s, Inconclusive(failure.reason, failure.message))
                    states[subject], _ = self._advance(watch, unknown)
        incidents, outbox = self._tell(moved, states, now_s, summary)
        changed = tuple(state for subject, state in states.items() if state != self.states.get(subject))
        return CycleChanges(now_s, states=changed, incidents=(*incidents, *peaks), outbox=tuple(outbox)), states

    def _tell(
        self, moved: list[tuple[_Row, Transition]], states: dict[Subject, AlertState], now_s: float, summary: Summary
    ) -> tuple[list[Incident], list[Delivery]]:
        """Put what fired or ended into events, in the order of the onsets; who fires joins its group in `states`."""
        incidents: list[Incident] = []
        outbox: list[Delivery] = []
        transitions: list[Transition] = []
        if not moved:
            return incidents, outbox
        neighbours = Neighbours(self.states, states, is_whole_cluster=self._across)
        for row, alone in sorted(moved, key=lambda each: (each[1].started_at_s, str(each[1].subject))):
            watch, spec = row.watch, row.watch.spec
            met = neighbours.meet(alone, spec.detection_window, spec.interval)
            transition = met.transition
            evidence = replace(
                evidence_of(watch, int(row.block.rows[row.place]), row.block.vectors[row.place], transition),
                neighbours=met.sentences,
                likely_origin=met.origin,
                changes=self._surroundings.changes(
                    watch.subject.namespace, spec.target_service, onset_s=transition.started_at_s
                ),
            )
            event = cloud_event(
                transition, evidence, cluster=self._cluster, service=spec.target_service,
                external_labels=self._external_labels, interval_s=watch.policy.interval_s,
            )  # fmt: skip
            transitions.append(transition)
            outbox.extend(deliveries(transition, event, sinks=watch.sinks, created_s=now_s))
            incidents.append(self._peaks.with_peak(_incident(transition, watch, event)))
        summary.transitions = tuple(transitions)
        return incidents, outbox

    def _peak(self, row: _Row, state: AlertState) -> tuple[Incident, ...]:
        """What the database keeps of a window that is the worst of its incident."""
        watch, peak = row.watch, peak_of(state)
        evidence = evidence_of(watch, int(row.block.rows[row.place]), row.block.vectors[row.place], peak)
        event = cloud_event(
            peak, evidence, cluster=self._cluster, service=watch.spec.target_service,
            external_labels=self._external_labels,
        )  # fmt: skip
        return self._peaks.keep(state, _incident(peak, watch, event))

    def _advance(self, watch: Watch, said: Judgement) -> tuple[AlertState, tuple[Transition, ...]]:
        row = watch.row_of_group[said.subject.group]
        revision = watch.cohort.revisions[row]
        learning = revision is not None and revision.provisional and not _is_outside(said)
        maintenance = watch.spec.maintenance_in_window(said.at_s)
        hold = self._routing.hold(watch.sinks, maintenance=maintenance, false_share=self._false_share(said))
        state, policy = self.states.get(said.subject), watch.policy
        if isinstance(said.verdict, Anomalous) and (state is None or state.phase is not Phase.FIRING):
            rollout_s = self._surroundings.rollout_s(watch.subject.namespace, watch.spec.target_service, at_s=said.at_s)
            policy = policy.amid_rollout(rollout_s, said.at_s)
        return advance(state, said, policy, cluster=self._cluster, quiet=learning, hold=hold)

    def _false_share(self, said: Judgement) -> float:
        """How likely false it is, seen with what else fires; a rule that was broken is no question of chance."""
        verdict = said.verdict
        if not self._routing.max_false_share or not isinstance(verdict, Anomalous) or verdict.cause is not Cause.SCORE:
            return 0.0
        peaks = {
            subject: state.incident.peak.score
            for subject, state in self.states.items()
            if state.phase is Phase.FIRING and state.incident is not None
        }
        score = max(verdict.score, peaks.pop(said.subject, 0.0))
        return expected_false_share(score, peaks.values(), self._false_per_day())


def _mark(
    due: Sequence[tuple[Watch, int]], blocks: list[tuple[Judged, list[Watch]]], gathered: Gathered, summary: Summary
) -> None:
    """Note on every watch what was said of it, and in the summary on which that changed."""
    for block, owners in blocks:
        codes, place = block.decisions.codes, 0
        while place < len(owners):
            watch = owners[place]
            n = len(watch.row_of_group)
            mark = _mark_of(codes[place : place + n])
            place += n
            watch.failed_cycles = 0
            if mark != watch.mark:
                watch.mark = mark
                summary.changed.append(watch)
    for watch, _ in due:
        if (failure := gathered.failures.get(watch)) is not None:
            watch.failed_cycles += 1
            mark = Mark(max(1, len(watch.row_of_group)), 0, len(watch.row_of_group), failure.reason, failure.message)
        elif not watch.row_of_group:
            mark = _NOTHING_YET
        else:
            continue
        if mark != watch.mark or 0 < watch.failed_cycles <= FAILED_CYCLES:
            watch.mark = mark
            summary.changed.append(watch)


FAILED_CYCLES = 3  # in a row, before a datasource that is away is said to be away
_NOTHING_YET = Mark(0, 0, 0, Ignorance.NO_DATA, "the queries have returned no series so far")
_ALL_NORMAL = {n: Mark(n, 0, 0) for n in (1, 2)}


def _mark_of(codes: Codes) -> Mark:
    n = len(codes)
    if n in _ALL_NORMAL and not codes.any():
        return _ALL_NORMAL[n]
    reasons = [reason for code in codes.tolist() if (reason := ignorance_of(code)) is not None]
    anomalous = int((codes != 0).sum()) - len(reasons)
    return Mark(n, anomalous, len(reasons), reasons[0] if reasons else None)


def _is_outside(said: Judgement) -> bool:
    """Whether the manifest's own range was left: that needs no model and waits for none."""
    return isinstance(said.verdict, Anomalous) and said.verdict.cause is Cause.OUT_OF_RANGE


def _back_in_range(row: _Row, said: Judgement) -> Judgement:
    """What its range alone raised is normal again inside of it; without a model nothing else could say so."""
    if not isinstance(said.verdict, Inconclusive) or said.verdict.reason is not Ignorance.WARMING_UP:
        return said
    limited = np.isfinite(row.watch.rules.valid_low) | np.isfinite(row.watch.rules.valid_high)
    is_measured = bool((row.block.facts.gap_steps[row.place][limited] <= GAP_STEPS).all())
    return replace(said, verdict=Normal(0.0)) if limited.any() and is_measured else said


def _say(row: _Row) -> Judgement:
    block, place, cohort = row.block, row.place, row.watch.cohort
    verdict = block.decisions.verdict(place)
    model = cohort.models[int(block.rows[place])]
    row_shares = None
    if block.decisions.anomalous[place]:
        one = slice(place, place + 1)
        contributions = np.zeros((1, len(row.watch.metrics)))  # without a model its range alone says who is to blame
        if model is not None:
            contributions = model.ensemble.contributions(without_thin_metrics(block.vectors[one]), row.watch.rules)
        row_shares = shares(block.decisions.take(one), block.facts.take(one), contributions)[0]
    if isinstance(verdict, Inconclusive) and verdict.reason is Ignorance.WARMING_UP:
        verdict = Inconclusive(Ignorance.WARMING_UP, "there is not enough history for a model yet")
    names = tuple(metric.name for metric in row.watch.metrics)
    return judgement(row.subject, int(block.ends_s[place]), verdict, names, row_shares)


def _incident(transition: Transition, watch: Watch, event: Mapping[str, object]) -> Incident:
    ended = transition.kind is not Kind.FIRING
    return Incident(
        incident_id=transition.incident_id,
        subject=transition.subject,
        service=watch.spec.target_service,
        severity=transition.severity,
        started_at_s=transition.started_at_s,
        peak_score=transition.peak.score,
        status=transition.kind,
        ended_at_s=transition.at_s if ended else None,
        reason=transition.reason,
        evidence=None if ended else event,
    )
