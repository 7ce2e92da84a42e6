"""What is to be said about a detector: manifest and facts in, conditions and events out. Pure.

Each condition is a chain read from top to bottom: the first line that applies is the answer. `None` means that nothing
is known that would change what was said before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from foreshock.alerting.state import OpenIncident
from foreshock.core.clock import rfc3339
from foreshock.core.verdicts import Cause, Ignorance
from foreshock.engine.cycle import FAILED_CYCLES
from foreshock.lifecycle.siblings import on_loan
from foreshock.lifecycle.standing import Standing
from foreshock.manifests.conditions import MAX_MESSAGE_CHARS, Because, ConditionStatus, ConditionType
from foreshock.store.records import Stuck

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
ANOMALOUS = "Anomalous"  # the reason of the event; the condition's own reason says what kind
STATUS_EVERY_S = 30.0  # of one object, transitions of Ready aside
_NAMED = 3  # metrics and groups that a message names

# What is wrong with the data, as opposed to the model or the wish of somebody
_AT_ONCE = frozenset({Ignorance.QUERY_REJECTED, Ignorance.TOO_MANY_SERIES})
_PATIENTLY = frozenset({Ignorance.DATASOURCE_UNAVAILABLE, Ignorance.PARTIAL_RESPONSE, Ignorance.QUERY_BUDGET_SPENT})
_MISSING = frozenset({Ignorance.NO_DATA, Ignorance.TOO_FEW_SAMPLES})
_UNUSABLE = frozenset({"ArtifactDamaged", "ArtifactMissing", "Damaged"})


class Told(NamedTuple):
    """One condition as it stands in a status; compact, since there are six of each of ten thousand."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    since_s: float  # when `status` last changed
    generation: int

    def as_document(self) -> dict[str, object]:
        """As the API server takes it."""
        return {
            "type": self.type.value,
            "status": self.status.value,
            "reason": str(self.reason),
            "message": self.message,
            "lastTransitionTime": rfc3339(int(self.since_s)),
            "observedGeneration": self.generation,
        }


class Fact(NamedTuple):
    """What is the case, before anybody compares it with what was said."""

    status: ConditionStatus
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is known about one detector now."""

    generation: int
    standing: Standing | None = None  # None: the engine was not told of it, or not yet
    problem: Fact | None = None  # why this manifest cannot be run: InvalidManifest or NotConfigured
    sinks: tuple[Stuck, ...] = ()
    store_is_away: bool = False


class Said(NamedTuple):
    """An event: what a person would ask about, once for each change."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written; `is_urgent` does not wait its turn."""

    conditions: tuple[Told, ...]
    active_model: str | None
    groups: int | None
    firing: int | None
    is_urgent: bool
    events: tuple[Said, ...]

    def as_status(self, generation: int) -> dict[str, object]:
        """The status as the API server takes it; what is None is removed."""
        return {
            "observedGeneration": generation,
            "activeModel": self.active_model,
            "groups": self.groups,
            "firing": self.firing,
            "conditions": [each.as_document() for each in self.conditions],
        }


def reconcile(told: Mapping[ConditionType, Told], observed: Observed, now_s: float) -> Plan:
    """What a detector's status should say now, given what it says."""
    facts = conditions(observed)
    new = []
    for kind in ConditionType:
        before, fact = told.get(kind), facts[kind]
        if fact is None:
            fact = Fact(before.status, before.reason, before.message) if before else _PENDING
        since_s = before.since_s if before is not None and before.status == fact.status else now_s
        new.append(Told(kind, fact.status, str(fact.reason), _cut(fact.message), since_s, observed.generation))
    ready = next(each for each in new if each.type is ConditionType.READY)
    was = told.get(ConditionType.READY)
    standing = observed.standing
    revision = standing.revision if standing is not None else None
    return Plan(
        conditions=tuple(new),
        active_model=revision.name if revision is not None else None,
        groups=standing.mark.groups if standing is not None and standing.mark is not None else None,
        firing=len(standing.firing) if standing is not None else None,
        is_urgent=was is None or (was.status, was.reason) != (ready.status, ready.reason),
        events=_events(told, new),
    )


def conditions(observed: Observed) -> dict[ConditionType, Fact | None]:
    """The facts of every condition; `Ready` has the reason of the first of the others that is not True."""
    facts: dict[ConditionType, Fact | None] = {
        ConditionType.DATA_AVAILABLE: _data(observed),
        ConditionType.MODEL_READY: _model(observed),
        ConditionType.SINKS_HEALTHY: _sinks(observed),
        ConditionType.WARMED_UP: _warmed_up(observed),
        ConditionType.ANOMALOUS: _anomalous(observed),
    }
    return {ConditionType.READY: _ready(observed, facts), **facts}


_PENDING = Fact(UNKNOWN, Because.PENDING)
_SUSPENDED = Fact(FALSE, Ignorance.SUSPENDED, "spec.suspend is true; set it to false to go on.")
_SUMMED_UP = (ConditionType.DATA_AVAILABLE, ConditionType.MODEL_READY, ConditionType.SINKS_HEALTHY)


def _ready(observed: Observed, facts: Mapping[ConditionType, Fact | None]) -> Fact | None:
    if observed.problem is not None:
        return observed.problem
    if observed.standing is not None and observed.standing.is_suspended:
        return _SUSPENDED
    if observed.store_is_away:
        return Fact(FALSE, Because.STORE_UNAVAILABLE, "The database cannot be written; nothing is judged meanwhile.")
    for kind in _SUMMED_UP:
        fact = facts[kind]
        if fact is None:
            return None
        if fact.status is not TRUE:
            return fact
    return Fact(TRUE, Because.ALL_WELL, "Data flows, a model judges it, and alerts are delivered.")


def _data(observed: Observed) -> Fact | None:
    standing = observed.standing
    if observed.problem is not None and observed.problem.reason == Because.NOT_CONFIGURED and standing is None:
        return observed.problem
    if standing is None:
        return _PENDING
    if standing.is_suspended:
        return Fact(UNKNOWN, Ignorance.SUSPENDED, "Nothing is asked of the datasource.")
    mark = standing.mark
    if mark is None:
        return _PENDING
    ignorance = mark.ignorance if mark.inconclusive >= mark.groups else None
    if ignorance in _AT_ONCE:
        return Fact(FALSE, ignorance, mark.message)
    if ignorance in _PATIENTLY:
        return Fact(FALSE, ignorance, mark.message) if standing.failed_cycles >= FAILED_CYCLES else None
    if ignorance in _MISSING or _never_returned_anything(standing):
        return Fact(FALSE, ignorance if ignorance in _MISSING else Ignorance.NO_DATA, mark.message or _NOTHING)
    if ignorance is Ignorance.STALE:
        return Fact(UNKNOWN, ignorance, "The newest samples are missing.")
    if standing.extractor_away:
        return Fact(TRUE, Because.EXTRACTOR_UNAVAILABLE, f"{standing.extractor_away}; the operator extracts meanwhile.")
    some = f"{mark.inconclusive} of {mark.groups} groups are inconclusive." if _partly(standing) else ""
    return Fact(TRUE, Because.DATA_FLOWS, some)


_NOTHING = "The query has returned nothing so far."


def _never_returned_anything(standing: Standing) -> bool:
    learnt = standing.learnt
    return standing.revision is None and learnt is not None and not learnt.ready and learnt.share == 0.0


def _partly(standing: Standing) -> bool:
    mark = standing.mark
    return (
        mark is not None
        and 0 < mark.inconclusive < mark.groups
        and mark.ignorance not in {Ignorance.WARMING_UP, Ignorance.MODEL_UNUSABLE}
    )


def _model(observed: Observed) -> Fact:
    standing = observed.standing
    if standing is None:
        return _PENDING
    if standing.is_suspended:
        return Fact(UNKNOWN, Ignorance.SUSPENDED, "Nothing is judged.")
    revision, trouble, learnt = standing.revision, standing.trouble, standing.learnt
    if trouble is not None and trouble.reason in _UNUSABLE:  # an earlier revision may judge: it is not the one wanted
        return Fact(FALSE, Ignorance.MODEL_UNUSABLE, trouble.message)
    if revision is not None and not revision.provisional:
        learnt_from = f"{rfc3339(revision.trained_from_s)} to {rfc3339(revision.trained_to_s)}"
        also = f" The last training failed: {trouble.message}" if trouble is not None else ""
        if standing.drift is not None:
            return Fact(TRUE, Because.DRIFTED, f"{_capital(str(standing.drift))}; its successor is being learnt.{also}")
        return Fact(TRUE, Because.MODEL_ACTIVE, f"{revision.name} judges; it learnt from {learnt_from}.{also}")
    if trouble is not None:
        if trouble.reason == Because.NO_SUCH_REVISION:
            return Fact(FALSE, Because.NO_SUCH_REVISION, trouble.message)
        if trouble.reason != "NotEnoughHistory":
            return Fact(FALSE, Because.TRAINING_FAILED, trouble.message)
        return Fact(FALSE, Ignorance.WARMING_UP, trouble.message)
    if learnt is not None:
        return Fact(FALSE, Ignorance.WARMING_UP, f"{_capital(learnt.message)}.")
    return _PENDING


def _sinks(observed: Observed) -> Fact:
    problem = observed.problem
    if problem is not None and problem.reason == Because.NOT_CONFIGURED and observed.standing is None:
        return problem
    if observed.standing is None:
        return _PENDING
    waiting = [each for each in observed.sinks if not each.is_refused]
    if waiting:
        named = ", ".join(f"{each.sink} since {rfc3339(int(each.since_s))}" for each in waiting[:_NAMED])
        return Fact(FALSE, Because.SINK_UNAVAILABLE, f"Not taking events: {named}; they are sent again for 7 days.")
    if observed.sinks:
        named = ", ".join(each.sink for each in observed.sinks[:_NAMED])
        return Fact(FALSE, Because.SINK_REJECTED, f"Refused an event for good: {named}; its log says why.")
    return Fact(TRUE, Because.DELIVERING)


def _warmed_up(observed: Observed) -> Fact:
    standing = observed.standing
    if standing is None:
        return _PENDING
    if standing.is_suspended:
        return Fact(UNKNOWN, Ignorance.SUSPENDED)
    revision, learnt = standing.revision, standing.learnt
    if (revision is not None and not revision.provisional) or (learnt is not None and learnt.ready):
        lent = on_loan(standing.on_loan)
        return Fact(TRUE, Because.WARM_UP_COMPLETE, f"{_capital(lent)}." if lent else "")
    if learnt is not None:
        return Fact(FALSE, Ignorance.WARMING_UP, f"{_capital(learnt.message)}.")
    return _PENDING


def _anomalous(observed: Observed) -> Fact | None:
    standing = observed.standing
    if standing is None:
        return _PENDING
    if standing.is_suspended:
        return Fact(UNKNOWN, Ignorance.SUSPENDED, "Nothing is judged.")
    mark = standing.mark
    if standing.firing:  # also while data is missing: what nobody can see has not ended
        return _firing(standing)
    if mark is None:
        return _PENDING
    if mark.anomalous:
        learning = standing.revision is not None and standing.revision.provisional
        why = "it fires once it has stayed so for pending_for"
        if learning:
            why = "before the warm-up is over it fires only outside its valid_range"
        return Fact(FALSE, Because.PENDING_FOR, f"The last window is anomalous; {why}.")
    if mark.inconclusive >= mark.groups and mark.ignorance is not None:
        return Fact(UNKNOWN, mark.ignorance, mark.message)
    return Fact(FALSE, Because.NORMAL)


def _firing(standing: Standing) -> Fact:
    worst: OpenIncident = max((incident for _, incident in standing.firing), key=lambda each: each.peak.score)
    is_outside = worst.peak.cause is Cause.OUT_OF_RANGE
    named = [each.metric for each in worst.peak.contributions[:_NAMED] if each.share > 0.0 or not is_outside]
    blamed = ", ".join(named) or "a metric"
    n_groups = standing.mark.groups if standing.mark is not None else 1
    where = f" in {len(standing.firing)} of {n_groups} groups" if n_groups > 1 else ""
    left = "left its valid range" if is_outside else "left the envelope"
    message = f"{_capital(blamed)} {left}{where}; since {rfc3339(worst.started_at_s)}."
    return Fact(TRUE, worst.peak.cause, message)


_QUIET = frozenset({Ignorance.WARMING_UP, Ignorance.SUSPENDED, Because.PENDING_FOR, Because.NORMAL})
_OF_READY_ALONE = frozenset(
    {Because.INVALID_MANIFEST, Because.NOT_CONFIGURED, Because.STORE_UNAVAILABLE, Ignorance.SUSPENDED}
)


def _events(told: Mapping[ConditionType, Told], new: list[Told]) -> tuple[Said, ...]:
    """One for each reason, however many conditions have it."""
    found: dict[str, Said] = {}
    for now in new:
        said = _event(told.get(now.type), now)
        if said is not None:
            found.setdefault(said.reason, said)
    return tuple(found.values())


def _event(before: Told | None, now: Told) -> Said | None:
    """Once for each change of status or reason; what is only pending is no news."""
    if before is not None and (before.status, before.reason) == (now.status, now.reason):
        return None
    if now.reason == Because.PENDING or (now.type is ConditionType.READY and now.reason not in _OF_READY_ALONE):
        return None
    if now.type is ConditionType.ANOMALOUS:
        if now.status is TRUE:
            return Said("Warning", ANOMALOUS, f"{now.message} ({now.reason})")
        if before is None or before.status is not TRUE:
            return None
        return Said("Normal", now.reason, now.message or "The last window lies inside the envelope again.")
    is_first = before is None or before.reason == Because.PENDING
    if now.status is TRUE and is_first and now.type is not ConditionType.MODEL_READY:
        return None  # that all is well from the beginning on is no news
    quiet = now.status is TRUE or now.reason in _QUIET
    return Said("Normal" if quiet else "Warning", now.reason, now.message or str(now.type))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 1]}…"
