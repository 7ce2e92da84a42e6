"""The alert of one subject: pending, firing, resolved, with Prometheus' `for` and `keep_firing_for`. Pure.

Two rules hold everything together. Missing data never ends an incident: while only `Inconclusive` is judged, every
timer stands still. And judging again changes nothing: a judgement that is not newer than the last one is ignored, so
a restart, a second replica or a replay gives the same transitions with the same identities.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

from pydantic import TypeAdapter, ValidationError

from foreshock.core.errors import Damaged
from foreshock.core.verdicts import Anomalous, Cause, Contribution, Inconclusive, Judgement, Normal, Subject

OUTAGE_TOLERANCE_S = 3_600  # Prometheus' --rules.alert.for-outage-tolerance
ROLLOUT_SETTLES_S = 600  # how long after a rollout what is unusual may still be its start-up
ROLLOUT_INTERVALS, ROLLOUT_PATIENCE_S = 5, 900  # how often in a row it must be seen then, and how long that may take
EXPIRE_AFTER_S = 86_400  # a day of nothing but Inconclusive ends an incident, as `expired`
MAX_CONTRIBUTIONS = 20  # what is kept of a peak; shares are sorted, the rest is noise
STATE_VERSION = 1  # raised only when an older Foreshock could not read the JSON any more


class Phase(StrEnum):
    """Where the alert of a subject stands."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class Kind(StrEnum):
    """What a transition says to the world."""

    FIRING = "firing"
    RESOLVED = "resolved"
    EXPIRED = "expired"  # nobody knows how it ended: a day without a verdict, or its detector is gone or suspended


class EndReason(StrEnum):
    """Who ended an incident where it was not the service."""

    ADAPTED = "adapted"  # it turned out to be the new normal
    DETECTOR_DELETED = "detector_deleted"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """How patient one detector is, all in seconds; `interval_s` is how often it judges."""

    severity: str
    pending_for_s: int = 0
    keep_firing_for_s: int = 600
    interval_s: int = 60

    @property
    def outage_tolerance_s(self) -> int:
        """The longest gap between two judgements that a pending alert survives."""
        return max(OUTAGE_TOLERANCE_S, 2 * self.interval_s)

    def amid_rollout(self, rollout_s: float | None, at_s: int) -> AlertPolicy:
        """The policy at an instant: more patient while a rollout is under way, and shortly after, and never mute.

        `rollout_s` is the newest instant at which one was. `pending_for` becomes at least five intervals, and no more
        than a quarter of an hour where the detector itself did not ask for more.
        """
        if rollout_s is None or at_s - rollout_s > ROLLOUT_SETTLES_S:
            return self
        patience_s = min(ROLLOUT_INTERVALS * self.interval_s, max(ROLLOUT_PATIENCE_S, self.interval_s))
        return replace(self, pending_for_s=max(self.pending_for_s, patience_s))


@dataclass(frozen=True, slots=True)
class Peak:
    """The worst judgement of an incident so far."""

    at_s: int
    score: float
    cause: Cause
    contributions: tuple[Contribution, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident that is pending (`fired_at_s` is None) or firing.

    `timer_since_s` is the start of the one timer that runs: `pending_for` while pending, `keep_firing_for` since the
    first normal judgement while firing, None otherwise. `timer_stood_still_s` is the time it does not count.
    """

    incident_id: str
    started_at_s: int  # end of the first anomalous window
    score: float  # of the last conclusive judgement
    contributions: tuple[Contribution, ...]  # of the last anomalous judgement
    peak: Peak
    severity: str
    fired_at_s: int | None = None
    timer_since_s: int | None = None
    timer_stood_still_s: int = 0
    maintenance: str | None = None  # why it began quietly
    only: tuple[str, ...] | None = None  # the sinks that know of it; None is all: those that it was held back from too
    group_id: str = ""  # the incident that fired first of those that belong together, given as it fires
    group_since_s: int = 0  # that one's onset

    def timer_s(self, at_s: int) -> int:
        """How long the running timer has counted at `at_s`; 0 where none runs."""
        return 0 if self.timer_since_s is None else at_s - self.timer_since_s - self.timer_stood_still_s


@dataclass(frozen=True, slots=True)
class Hold:
    """Which sinks alone are told now, and the reason of a maintenance where that is why."""

    maintenance: str | None
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertState:
    """All that is remembered about the alert of one subject; it survives restarts as JSON."""

    subject: Subject
    judged_at_s: int
    incident: OpenIncident | None = None
    inconclusive_since_s: int | None = None  # since when nothing but Inconclusive was judged

    @property
    def phase(self) -> Phase:
        if self.incident is None:
            return Phase.INACTIVE
        return Phase.PENDING if self.incident.fired_at_s is None else Phase.FIRING

    def to_dict(self) -> dict[str, Any]:
        """Write the state as plain JSON values that `from_dict` reads back equal."""
        return {"version": STATE_VERSION, **_STATE.dump_python(self, mode="json")}

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> AlertState:
        """Read what `to_dict` wrote, of this version; keys that a later version added are ignored.

        Raises:
            Damaged: the document is no alert state, or one of another version.

        """
        if document.get("version") != STATE_VERSION:
            raise Damaged(
                f"An alert state has version {document.get('version')!r} and this Foreshock reads {STATE_VERSION}: "
                "start the version that wrote it."
            )
        try:
            return _STATE.validate_python({key: value for key, value in document.items() if key != "version"})
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Damaged(f"An alert state in the database is damaged at {where!r}: restore a backup.") from error


_STATE = TypeAdapter(AlertState)


@dataclass(frozen=True, slots=True)
class Transition:
    """What happened to an incident: every sink hears of it at least once, and always under one identity."""

    kind: Kind
    subject: Subject
    incident_id: str
    sequence: int  # 1 for firing, 2 for the end
    severity: str  # as it was when the incident fired, so that both ends carry equal labels
    at_s: int
    started_at_s: int
    score: float  # of the last conclusive judgement
    contributions: tuple[Contribution, ...]  # of the last anomalous judgement, largest first
    peak: Peak
    reason: EndReason | None = None
    maintenance: str | None = None  # the incident began in it
    only: tuple[str, ...] | None = None  # the sinks that hear of it; None is all
    group_id: str = ""  # equal for incidents that belong together, and for all events of one of them

    @property
    def event_id(self) -> str:
        """The identity that every delivery of this transition carries: receivers drop what they have seen."""
        return f"{self.incident_id}/{self.kind}/{self.sequence}"


def incident_id(cluster: str, subject: Subject, first_window_end_s: int) -> str:
    """Equal data give equal identities: 32 hex digits of cluster, detector, group, end of the first anomalous window.

    >>> incident_id("default", Subject("shop", "checkout"), 1700000000)
    '1f325062338cf0cd0933a8bf383272a3'
    """
    parts = [cluster, subject.detector, sorted(subject.group), first_window_end_s * 1_000]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:32]


def advance(
    state: AlertState | None,
    judgement: Judgement,
    policy: AlertPolicy,
    *,
    cluster: str,
    quiet: bool = False,
    hold: Hold | None = None,
) -> tuple[AlertState, tuple[Transition, ...]]:
    """Move the alert by one judgement; the same or an older instant moves nothing.

    `quiet` (warming up) never fires: the alert stays pending, and fires at the first judgement that is not quiet if it
    is due by then. What fires already goes on, and may resolve. An alert that fires under a `hold` (maintenance, or too
    likely false) fires for some sinks only; the others hear of it, under the same identity, at the first anomalous
    judgement whose hold names them, or that has none, or never.

    Raises:
        ValueError: the judgement is about another subject, or its score is not finite.

    """
    at_s = judgement.at_s
    if state is None:
        state = AlertState(judgement.subject, at_s)
    elif state.subject != judgement.subject:
        raise ValueError(f"the state is of {state.subject}, the judgement of {judgement.subject}")
    elif at_s <= state.judged_at_s:
        return state, ()
    state = replace(_since_last_time(state, judgement, policy), judged_at_s=at_s)

    match judgement.verdict:
        case Anomalous():
            return _anomalous(state, judgement, judgement.verdict, policy, cluster=cluster, quiet=quiet, hold=hold)
        case Normal(score):
            return _normal(state, _finite(score), policy)
        case Inconclusive():
            return _inconclusive(state)
        case _:
            assert_never(judgement.verdict)


def grouped(state: AlertState, transition: Transition, group_id: str, since_s: int) -> tuple[AlertState, Transition]:
    """The same, with the group that an incident joins as it fires: it keeps it to its end."""
    if state.incident is None:
        return state, transition
    incident = replace(state.incident, group_id=group_id, group_since_s=since_s)
    return replace(state, incident=incident), replace(transition, group_id=group_id)


def end(state: AlertState, reason: EndReason, at_s: int) -> tuple[AlertState, tuple[Transition, ...]]:
    """End what is open for a reason that is not the service's; what is pending ends silently, inactive stays so.

    Only what turned out to be the new normal is resolved: of a deleted or suspended detector nobody knows how it ended.
    """
    kind = Kind.RESOLVED if reason is EndReason.ADAPTED else Kind.EXPIRED
    return _ended(state, kind, max(at_s, state.judged_at_s), reason)


def _anomalous(
    state: AlertState,
    judgement: Judgement,
    verdict: Anomalous,
    policy: AlertPolicy,
    *,
    cluster: str,
    quiet: bool,
    hold: Hold | None,
) -> tuple[AlertState, tuple[Transition, ...]]:
    at_s = judgement.at_s
    now = Peak(at_s, _finite(verdict.score), verdict.cause, judgement.contributions[:MAX_CONTRIBUTIONS])
    incident = state.incident
    if incident is None:
        incident = OpenIncident(
            incident_id(cluster, state.subject, at_s), at_s, now.score, now.contributions, now, policy.severity,
            timer_since_s=at_s,
        )  # fmt: skip
    else:
        peak = now if now.score > incident.peak.score else incident.peak
        incident = replace(incident, score=now.score, contributions=now.contributions, peak=peak)

    if incident.fired_at_s is not None:
        only = _told(incident.only, hold)
        is_due = only != incident.only  # the maintenance is over, or the alert is more certain now
        incident = replace(incident, timer_since_s=None, timer_stood_still_s=0, only=only)
        state = replace(state, incident=incident, inconclusive_since_s=None)
        return state, (_transition(state.subject, incident, Kind.FIRING, at_s, None),) if is_due else ()
    if quiet or incident.timer_s(at_s) < policy.pending_for_s:
        return replace(state, incident=incident, inconclusive_since_s=None), ()
    incident = replace(incident, severity=policy.severity, fired_at_s=at_s, timer_since_s=None, timer_stood_still_s=0)
    if verdict.cause is Cause.OUT_OF_RANGE:  # the rule that people wrote says why, not a score that paged nobody
        incident = replace(incident, peak=now)
    if hold is not None:
        incident = replace(incident, maintenance=hold.maintenance, only=hold.only)
    state = replace(state, incident=incident, inconclusive_since_s=None)
    return state, (_transition(state.subject, incident, Kind.FIRING, at_s, None),)


def _told(before: tuple[str, ...] | None, hold: Hold | None) -> tuple[str, ...] | None:
    """Who knows of it after this judgement: never fewer than before, and None is all."""
    if before is None or hold is None:
        return None
    return before + tuple(sink for sink in hold.only if sink not in before)


def _normal(state: AlertState, score: float, policy: AlertPolicy) -> tuple[AlertState, tuple[Transition, ...]]:
    state = replace(state, inconclusive_since_s=None)
    if state.incident is None or state.incident.fired_at_s is None:
        return replace(state, incident=None), ()
    incident = replace(state.incident, score=score)
    if incident.timer_since_s is None:
        incident = replace(incident, timer_since_s=state.judged_at_s, timer_stood_still_s=0)
    state = replace(state, incident=incident)
    if incident.timer_s(state.judged_at_s) < policy.keep_firing_for_s:
        return state, ()
    return _ended(state, Kind.RESOLVED, state.judged_at_s, None)


def _inconclusive(state: AlertState) -> tuple[AlertState, tuple[Transition, ...]]:
    since_s = state.judged_at_s if state.inconclusive_since_s is None else state.inconclusive_since_s
    state = replace(state, inconclusive_since_s=since_s)
    if state.judged_at_s - since_s >= EXPIRE_AFTER_S:
        return _ended(state, Kind.EXPIRED, state.judged_at_s, None)
    return state, ()


def _since_last_time(state: AlertState, judgement: Judgement, policy: AlertPolicy) -> AlertState:
    """Settle what the time since the last judgement means for the timer, before the new verdict is looked at.

    The stretch up to a judgement counts if that judgement is conclusive and somebody was there to look: a gap that
    nobody judged speaks neither for nor against the service.
    """
    incident, gap_s = state.incident, judgement.at_s - state.judged_at_s
    if incident is None:
        return state
    outage = gap_s > policy.outage_tolerance_s
    if outage and incident.fired_at_s is None:
        return replace(state, incident=None, inconclusive_since_s=None)
    if incident.timer_since_s is not None and (outage or isinstance(judgement.verdict, Inconclusive)):
        incident = replace(incident, timer_stood_still_s=incident.timer_stood_still_s + gap_s)
    return replace(state, incident=incident)


def _ended(
    state: AlertState, kind: Kind, at_s: int, reason: EndReason | None
) -> tuple[AlertState, tuple[Transition, ...]]:
    incident = state.incident
    state = replace(state, incident=None)
    if incident is None or incident.fired_at_s is None:
        return state, ()
    return state, (_transition(state.subject, incident, kind, at_s, reason),)


def _transition(
    subject: Subject, incident: OpenIncident, kind: Kind, at_s: int, reason: EndReason | None
) -> Transition:
    return Transition(
        kind=kind,
        subject=subject,
        incident_id=incident.incident_id,
        sequence=1 if kind is Kind.FIRING else 2,
        severity=incident.severity,
        at_s=at_s,
        started_at_s=incident.started_at_s,
        score=incident.score,
        contributions=incident.contributions,
        peak=incident.peak,
        reason=reason,
        maintenance=incident.maintenance,
        only=incident.only,
        group_id=incident.group_id,
    )


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a score of {score} compares with nothing; a detector must return a finite one")
    return float(score)
