"""Turns records into rows of the tables and back; what goes in comes out equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from foreshock.alerting.outbox import Attempt, Delivery, Outcome
from foreshock.alerting.state import AlertState, EndReason, Kind
from foreshock.core.verdicts import Subject
from foreshock.store.records import Feedback, Incident, ModelRecord, Progress

PENDING = "pending"
MAX_MESSAGE_CHARS = 1_024


def from_state(state: AlertState, updated_s: float) -> dict[str, Any]:
    return {
        **_subject_columns(state.subject),
        "phase": state.phase.value,
        "state": state.to_dict(),
        "updated_s": updated_s,
    }


def from_progress(progress: Progress) -> dict[str, Any]:
    return {
        **_subject_columns(progress.subject),
        "judged_at_s": progress.judged_at_s,
        "memory": dict(progress.memory),
    }


def to_progress(row: Mapping[Any, Any]) -> Progress:
    return Progress(_subject(row), row["judged_at_s"], row["memory"])


def subject_key(subject: Subject) -> str:
    parts = [subject.namespace, subject.name, sorted(subject.group)]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def _subject_columns(subject: Subject) -> dict[str, Any]:
    return {
        "subject_key": subject_key(subject),
        "namespace": subject.namespace,
        "name": subject.name,
        "label_group": [list(pair) for pair in subject.group],
    }


def _subject(row: Mapping[Any, Any]) -> Subject:
    return Subject(row["namespace"], row["name"], tuple((name, value) for name, value in row["label_group"]))


def from_incident(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.incident_id,
        **_subject_columns(incident.subject),
        "service": incident.service,
        "severity": incident.severity,
        "started_at_s": incident.started_at_s,
        "ended_at_s": incident.ended_at_s,
        "status": incident.status.value,
        "reason": incident.reason.value if incident.reason else None,
        "peak_score": incident.peak_score,
        "evidence": None if incident.evidence is None else dict(incident.evidence),
        "peak_evidence": None if incident.peak_evidence is None else dict(incident.peak_evidence),
    }


def to_incident(row: Mapping[Any, Any]) -> Incident:
    return Incident(
        incident_id=row["id"],
        subject=_subject(row),
        service=row["service"],
        severity=row["severity"],
        started_at_s=row["started_at_s"],
        peak_score=row["peak_score"],
        status=Kind(row["status"]),
        ended_at_s=row["ended_at_s"],
        reason=EndReason(row["reason"]) if row["reason"] else None,
        evidence=row["evidence"],
        peak_evidence=row["peak_evidence"],
        feedback=None if row["feedback"] is None else _to_feedback(row["feedback"]),
    )


def from_feedback(feedback: Feedback) -> dict[str, Any]:
    return asdict(feedback)


def _to_feedback(value: Mapping[str, Any]) -> Feedback:
    """What a later version adds is ignored: both run side by side in a rollout."""
    return Feedback(**{name: value[name] for name in Feedback.__dataclass_fields__ if name in value})


def from_delivery(row: Delivery) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "sink": row.sink,
        "incident_id": row.incident_id,
        "kind": row.kind.value,
        "sequence": row.sequence,
        "event": row.event,
        "created_s": row.created_s,
        "attempts": row.attempts,
        "next_attempt_s": row.next_attempt_s,
        "status": PENDING,
    }


def to_delivery(row: Mapping[Any, Any]) -> Delivery:
    return Delivery(
        event_id=row["event_id"],
        incident_id=row["incident_id"],
        sink=row["sink"],
        kind=Kind(row["kind"]),
        sequence=row["sequence"],
        event=row["event"],
        created_s=row["created_s"],
        attempts=row["attempts"],
        next_attempt_s=row["next_attempt_s"],
    )


def from_attempt(attempt: Attempt, now_s: float) -> dict[str, Any]:
    """What an attempt changes in its row; `of_event` and `of_sink` say which row that is."""
    delivery, postponed = attempt.delivery, attempt.outcome is Outcome.POSTPONED
    return {
        "of_event": delivery.event_id,
        "of_sink": delivery.sink,
        "attempts": delivery.attempts + 1,
        "next_attempt_s": attempt.next_attempt_s if postponed else delivery.next_attempt_s,
        "status": PENDING if postponed else attempt.outcome.value,
        "settled_s": None if postponed else now_s,
        "message": attempt.message.replace("\0", "")[:MAX_MESSAGE_CHARS] or None,  # PostgreSQL's text has no NUL
    }


def from_model(record: ModelRecord) -> dict[str, Any]:
    return {
        **_subject_columns(record.subject),
        "version": record.version,
        "revision": record.revision,
        "digest": record.digest,
        "algorithm": record.algorithm,
        "trained_from_s": record.trained_from_s,
        "trained_to_s": record.trained_to_s,
        "rows_used": record.rows_used,
        "rows_excluded": dict(record.rows_excluded),
        "details": dict(record.details),
        "created_s": record.created_s,
        "stage": record.stage,
    }


def to_model(row: Mapping[Any, Any]) -> ModelRecord:
    return ModelRecord(
        subject=_subject(row),
        **{name: row[name] for name in _MODEL_FIELDS},
    )


_MODEL_FIELDS = tuple(name for name in ModelRecord.__dataclass_fields__ if name != "subject")
