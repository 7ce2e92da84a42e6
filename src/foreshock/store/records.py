"""The plain values that go into the database and come out of it; the engine speaks in these and never in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foreshock.alerting.outbox import Delivery
from foreshock.alerting.state import AlertState, EndReason, Kind
from foreshock.core.verdicts import Subject


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody says that an incident was; `by` is the door that it came through."""

    verdict: str  # true_positive, false_positive, expected_change
    at_s: float
    by: Literal["cli", "anomaly"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something of a detector was changed by hand: `what` is models or verdict."""

    namespace: str
    name: str
    what: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Incident:
    """What people see: one row from firing to its end. `evidence` None leaves what is stored as it is.

    `feedback` is read with the incident and written by `History.give_verdict` alone.
    """

    incident_id: str
    subject: Subject
    service: str
    severity: str
    started_at_s: int
    peak_score: float
    status: Kind = Kind.FIRING
    ended_at_s: int | None = None
    reason: EndReason | None = None
    evidence: Mapping[str, Any] | None = None
    peak_evidence: Mapping[str, Any] | None = None  # likewise, of the worst window; None while the first was the worst
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a subject was judged, and the engine's small memory of it as plain JSON values."""

    subject: Subject
    judged_at_s: int
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CycleChanges:
    """All that one cycle decided; `History.commit_cycle` writes the whole of it or nothing."""

    at_s: float  # UTC
    states: tuple[AlertState, ...] = ()
    incidents: tuple[Incident, ...] = ()
    outbox: tuple[Delivery, ...] = ()
    progress: tuple[Progress, ...] = ()
    deleted_detectors: tuple[tuple[str, str], ...] = ()  # (namespace, name)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One trained revision of a detector's line of models; `subject.group` is empty where one artifact serves all."""

    subject: Subject
    version: str  # the line, `v2.1.0`
    revision: int  # 3 in `v2.1.0-r3`
    digest: str  # address in the artifact store
    algorithm: str
    trained_from_s: int
    trained_to_s: int
    rows_used: int
    created_s: float
    stage: str = "Active"  # Candidate, Shadow, Active, Retired, Rejected
    rows_excluded: Mapping[str, int] = field(default_factory=dict)  # reason to rows
    details: Mapping[str, Any] = field(default_factory=dict)  # calibration, validation: whatever the trainer reports

    @property
    def name(self) -> str:
        """`v2.1.0-r3`, as users see it."""
        return f"{self.version}-r{self.revision}"


ModelChange = Callable[[tuple[ModelRecord, ...]], Iterable[ModelRecord]]
"""From the records of a line, newest first, to some of them: those that change, or those to forget."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one sink has not taken yet; `oldest_s` is when its oldest row was committed."""

    sink: str
    rows: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Stuck:
    """A sink that does not take the events of one detector; `since_s` is when the oldest of them was committed."""

    sink: str
    is_refused: bool  # for good; else it is tried again
    since_s: float
