"""What becomes of an alert when its detector is judged no more: deleted, suspended, or without this group. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from foreshock.alerting.event import Evidence, cloud_event
from foreshock.alerting.outbox import Delivery, deliveries
from foreshock.alerting.state import AlertState, EndReason, Transition, end
from foreshock.core.verdicts import Subject
from foreshock.engine.groups import Group
from foreshock.store.records import Incident

_SENTENCES: Final = {
    EndReason.DETECTOR_DELETED: "The detector was deleted; nobody judges the service any more.",
    EndReason.SUSPENDED: "The detector was suspended; nobody judges the service until it is resumed.",
    EndReason.ADAPTED: "This turned out to be the new normal.",
}


@dataclass(frozen=True, slots=True)
class Farewell:
    """One detector that leaves, why, and whom to tell. `keep` are the labels of groups that stay as they are."""

    namespace: str
    name: str
    reason: EndReason
    service: str
    sinks: tuple[str, ...]
    forget: bool = False  # also its state and its models
    keep: tuple[str, ...] | None = None  # groups of exactly these labels are not meant
    only: frozenset[Group] | None = None  # these groups alone are meant

    def is_about(self, subject: Subject) -> bool:
        """Whether this subject of the detector leaves."""
        if self.only is not None:
            return subject.group in self.only
        return self.keep is None or tuple(sorted(name for name, _ in subject.group)) != tuple(sorted(self.keep))


@dataclass(slots=True)
class Said:
    """What the farewells come to, as one transaction."""

    states: dict[Subject, AlertState] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    outbox: list[Delivery] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)


def farewell(
    leaving: Farewell,
    state: AlertState,
    said: Said,
    *,
    at_s: int,
    now_s: float,
    cluster: str,
    external_labels: Mapping[str, str],
) -> None:
    """End what is open of one subject; what is only pending ends silently."""
    ended, transitions = end(state, leaving.reason, at_s)
    if ended != state or leaving.forget:
        said.states[state.subject] = ended
    for transition in transitions:
        event = cloud_event(
            transition, Evidence(summary=_SENTENCES[leaving.reason]), cluster=cluster, service=leaving.service,
            external_labels=external_labels,
        )  # fmt: skip
        said.transitions.append(transition)
        said.outbox.extend(deliveries(transition, event, sinks=leaving.sinks, created_s=now_s))
        said.incidents.append(
            Incident(
                incident_id=transition.incident_id,
                subject=transition.subject,
                service=leaving.service,
                severity=transition.severity,
                started_at_s=transition.started_at_s,
                peak_score=transition.peak.score,
                status=transition.kind,
                ended_at_s=transition.at_s,
                reason=transition.reason,
            )
        )
