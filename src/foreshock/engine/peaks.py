"""The worst window of each open incident, kept so that it can be explained as well as the one that fired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from foreshock.alerting.state import AlertState, Kind, Phase, Transition
from foreshock.store.records import Incident

MOST_A_CYCLE: Final = 50  # when a whole fleet gets worse at once, judging on time comes first
MOST_PENDING: Final = 500


def peak_of(state: AlertState) -> Transition:
    """The worst judgement of an open incident, in the form of what was told when it fired."""
    incident = state.incident
    assert incident is not None
    return Transition(
        Kind.FIRING, state.subject, incident.incident_id, 1, incident.severity, incident.peak.at_s,
        incident.started_at_s, incident.peak.score, incident.peak.contributions, incident.peak,
    )  # fmt: skip


class Peaks:
    """Remembers the peaks of pending incidents until these fire; what fires already is kept in the database."""

    def __init__(self) -> None:
        self._pending: dict[str, Mapping[str, Any]] = {}
        self._kept = 0

    def begin_cycle(self) -> None:
        """Allow as many as a cycle may keep."""
        self._kept = 0

    def is_new(self, state: AlertState) -> bool:
        """Whether the newest judgement is the worst of an open incident, and this cycle has room to keep it."""
        incident = state.incident
        is_peak = incident is not None and incident.peak.at_s == state.judged_at_s
        return is_peak and self._kept < MOST_A_CYCLE

    def keep(self, state: AlertState, told: Incident) -> tuple[Incident, ...]:
        """What the database keeps of it: nothing while it is pending."""
        self._kept += 1
        if told.evidence is None:
            return ()
        if state.phase is Phase.FIRING:
            return (replace(told, evidence=None, peak_evidence=told.evidence),)
        while len(self._pending) >= MOST_PENDING:  # the oldest
            del self._pending[next(iter(self._pending))]
        self._pending[told.incident_id] = told.evidence
        return ()

    def with_peak(self, told: Incident) -> Incident:
        """What fires takes the peak of its time as pending along, where that was worse."""
        before = self._pending.pop(told.incident_id, None)
        if before is None or told.evidence is None or before["data"]["score"] <= told.evidence["data"]["score"]:
            return told
        return replace(told, peak_evidence=before)
