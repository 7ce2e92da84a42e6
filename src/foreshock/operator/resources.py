"""The objects of the API that Foreshock reads and writes: trimmed on the way in, bounded on the way out. Pure."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from foreshock.core.clock import parse_instant, rfc3339
from foreshock.core.errors import Problem
from foreshock.core.verdicts import Subject
from foreshock.lifecycle import lines
from foreshock.lifecycle.siblings import on_loan
from foreshock.manifests.anomaly import MAX_CONTRIBUTIONS, MAX_SENTENCES, anomaly_name
from foreshock.manifests.conditions import MAX_MESSAGE_CHARS, Because, ConditionStatus, ConditionType
from foreshock.manifests.detector import API_VERSION, AnomalyDetector
from foreshock.manifests.model import model_name
from foreshock.manifests.problems import problems_of
from foreshock.operator.reconcile import Fact, Told
from foreshock.operator.watch import Kind
from foreshock.store.records import Incident, ModelRecord

_BASE = f"/apis/{API_VERSION}"
DETECTORS = Kind("AnomalyDetector", _BASE, "anomalydetectors")
MODELS = Kind("AnomalyModel", _BASE, "anomalymodels")
ANOMALIES = Kind("Anomaly", _BASE, "anomalies")
EVENTS = Kind("Event", "/api/v1", "events")
_MAX_LABEL_CHARS = 1_024
_MAX_EXCLUDED = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """An AnomalyDetector as it was read last: its sound spec or its problem, and what its status says."""

    subject: Subject
    uid: str
    version: str  # resourceVersion: what a write is based on
    generation: int
    detector: AnomalyDetector | None
    problem: Fact | None
    told: tuple[Told, ...] = ()
    active_model: str | None = None
    groups: int | None = None
    firing: int | None = None
    said_generation: int | None = None

    @property
    def by_type(self) -> dict[ConditionType, Told]:
        return {each.type: each for each in self.told}


@dataclass(frozen=True, slots=True)
class Child:
    """An AnomalyModel or an Anomaly: whose it is, and where it stands."""

    namespace: str
    name: str
    detector: str
    uid: str
    state: str  # stage or state; empty while its status was not written
    why: int  # the digest of its status' message: that of a model says why it is in its stage
    ended_s: float | None = None
    incident: str = ""  # of an Anomaly
    verdict: str = ""  # what somebody wrote into its spec
    note: str = ""


def seen(document: Mapping[str, Any], before: Seen | None) -> Seen:
    """Keep of a detector what is needed; a spec that did not change is not read again."""
    metadata, status = document["metadata"], document.get("status") or {}
    subject = Subject(str(metadata.get("namespace", "")), str(metadata["name"]))
    uid, generation = str(metadata.get("uid", "")), int(metadata.get("generation") or 0)
    if before is not None and (before.uid, before.generation) == (uid, generation):
        detector, problem = before.detector, before.problem
    else:
        detector, problem = _sound(document, subject, generation)
    return Seen(
        subject, uid, str(metadata.get("resourceVersion", "")), generation, detector, problem, _told(status),
        status.get("activeModel"), status.get("groups"), status.get("firing"), status.get("observedGeneration"),
    )  # fmt: skip


def _sound(
    document: Mapping[str, Any], subject: Subject, generation: int
) -> tuple[AnomalyDetector | None, Fact | None]:
    """The detector, or what is wrong with it: rules that the API server cannot check."""
    plain = {
        "apiVersion": API_VERSION,
        "kind": DETECTORS.name,
        "metadata": {"name": subject.name, "namespace": subject.namespace, "generation": generation},
        "spec": document.get("spec"),
    }
    try:
        return _lean(AnomalyDetector.model_validate(plain)), None
    except ValidationError as error:
        problems: list[Problem] = list(problems_of(error, AnomalyDetector, plain, file=""))
        said = " ".join(str(problem) for problem in problems[:5])
        return None, Fact(ConditionStatus.FALSE, Because.INVALID_MANIFEST, said[:MAX_MESSAGE_CHARS])


_SHARED_PARTS: Final = ("training", "throttle", "false_alarm_budget")
_MOST_SHARED = 10_000
_shelf: dict[object, object] = {}


def _lean(detector: AnomalyDetector) -> AnomalyDetector:
    """The same detector in half of the memory: equal parts are one object, and so is the set of names that were given.

    The API server fills in every default, so that pydantic remembers for each of ten thousand that all were given.
    """
    if len(_shelf) > _MOST_SHARED:
        _shelf.clear()
    spec = detector.spec
    for name in _SHARED_PARTS:
        part = spec.__dict__[name]
        spec.__dict__[name] = _shelf.setdefault(part, part)
    for model in (detector, spec, detector.metadata):
        given = model.__pydantic_fields_set__
        object.__setattr__(model, "__pydantic_fields_set__", _shelf.setdefault(frozenset(given), given))
    return detector


def _told(status: Mapping[str, Any]) -> tuple[Told, ...]:
    """The conditions of a status; what a newer version wrote and this one does not know is written anew."""
    told = []
    for each in status.get("conditions") or ():
        try:
            told.append(
                Told(
                    ConditionType(each["type"]), ConditionStatus(each["status"]), sys.intern(str(each["reason"])),
                    sys.intern(str(each.get("message", ""))), parse_instant(each["lastTransitionTime"]),
                    int(each.get("observedGeneration") or 0),
                )
            )  # fmt: skip
        except (KeyError, ValueError, TypeError):
            continue
    return tuple(told)


def child(document: Mapping[str, Any]) -> Child:
    """Keep of a model or an anomaly what is needed."""
    metadata, status = document["metadata"], document.get("status") or {}
    ended, spec = status.get("endedAt"), document.get("spec") or {}
    return Child(
        str(metadata.get("namespace", "")), str(metadata["name"]),
        str(spec.get("detector", "")), str(metadata.get("uid", "")),
        str(status.get("stage") or status.get("state") or ""), hash(status.get("message", "")),
        parse_instant(ended) if ended else None,
        str(spec.get("incident") or ""), str(spec.get("verdict") or ""), str(spec.get("note") or ""),
    )  # fmt: skip


def owned(kind: Kind, name: str, owner: Seen, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A new object that goes when its detector goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind.name,
        "metadata": {
            "name": name,
            "namespace": owner.subject.namespace,
            "labels": {"app.kubernetes.io/managed-by": "foreshock"},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION, "kind": DETECTORS.name, "name": owner.subject.name, "uid": owner.uid,
                    "controller": True, "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": dict(spec),
    }  # fmt: skip


def model_of(record: ModelRecord, owner: Seen, artifacts: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A revision as a resource and its status; `artifacts` is where the store is."""
    name = model_name(record.subject.name, record.version, record.revision)
    spec = {
        "detector": record.subject.name, "version": record.version, "revision": record.revision,
        "algorithm": record.algorithm,
    }  # fmt: skip
    details = record.details
    excluded = [
        {"reason": reason[:256], "rows": rows} for reason, rows in list(record.rows_excluded.items())[:_MAX_EXCLUDED]
    ]
    status: dict[str, Any] = {
        "stage": record.stage,
        "createdAt": rfc3339(int(record.created_s)),
        "featureSchema": details.get("fingerprint"),
        "trainingWindow": _span(record.trained_from_s, record.trained_to_s),
        "rowsUsed": record.rows_used,
        "rowsExcluded": excluded,
        "groups": len(details.get("members", ())),
        "artifact": {"uri": f"{artifacts.rstrip('/')}/{record.digest}"[:2048], "sha256": record.digest},
    }
    said = (str(details.get("why") or ""), on_loan(lines.on_loan(record)), lines.calibration_doubt(record))
    if message := "; ".join(each for each in said if each):
        status["message"] = message[:MAX_MESSAGE_CHARS]
    if (validation := details.get("validation")) is not None:
        status["validation"] = {"result": validation["result"], "message": _examined(validation)}
    if details.get("provisional"):
        status["message"] = "It has not seen the whole warm-up: it judges, and pages only outside valid_range."
    if "budget" in details:
        status["calibration"] = {
            "falseAlarmBudget": details["budget"],
            "threshold": float(details.get("threshold_factor", 1.0)),
        }
    return owned(MODELS, name, owner, spec), status


def _examined(validation: Mapping[str, Any]) -> str:
    """What a candidate was examined on, in a sentence; empty where it was not."""
    if "injected" not in validation:
        return ""
    beside = f", the active one {validation['champion_found']}" if validation.get("has_champion") else ""
    return (
        f"{validation['alarms']} alarms on held-out history where {validation['expected_alarms']:.2g} are allowed; "
        f"{validation['found']} of {validation['injected']} injected faults found{beside}; "
        f"{validation['known'] - validation['known_lost']} of {validation['known']} known incidents found."
    )


def anomaly_of(incident: Incident, owner: Seen) -> tuple[dict[str, Any], dict[str, Any]]:
    """An incident as a resource and its status: a view, bounded, of what the database holds."""
    name = anomaly_name(incident.subject.name, incident.incident_id)
    spec = {"detector": incident.subject.name, "incident": incident.incident_id}
    evidence = (incident.evidence or {}).get("data", {})
    peak = evidence.get("peak", {})
    status: dict[str, Any] = {
        "state": incident.status.value,
        "endedBy": incident.reason.value if incident.reason else None,
        "startedAt": rfc3339(incident.started_at_s),
        "endedAt": rfc3339(incident.ended_at_s) if incident.ended_at_s is not None else None,
        "service": incident.service or None,
        "severity": incident.severity,
        "peakScore": round(max(0.0, float(incident.peak_score)), 3),
        "group": [{"name": label, "value": value[:_MAX_LABEL_CHARS]} for label, value in incident.subject.group[:10]],
        "contributions": [
            {"metric": each["metric"], "share": round(min(1.0, max(0.0, float(each["share"]))), 3)}
            for each in peak.get("contributions", ())[:MAX_CONTRIBUTIONS]
        ],
        "summary": str(evidence.get("summary", ""))[:MAX_MESSAGE_CHARS],
        "changes": [str(each) for each in evidence.get("changes", ())[:MAX_SENTENCES]],
        "neighbours": [str(each) for each in evidence.get("neighbours", ())[:MAX_SENTENCES]],
        "likelyOrigin": evidence.get("likely_origin"),
        "incidentGroup": evidence.get("incident_group"),
    }
    if (model := evidence.get("model")) is not None:
        status["model"] = {"revision": model["revision"][:80], "sha256": model["digest"]}
    if (window := evidence.get("training_window")) is not None:
        status["trainingWindow"] = dict(window)
    said = {key: value for key, value in status.items() if value not in (None, [])}
    return owned(ANOMALIES, name, owner, spec), said


def event_of(
    owner: Seen, type_: str, reason: str, message: str, *, count: int, first_s: float, now_s: float, source: str
) -> dict[str, Any]:
    """The one Event of a detector and a reason: repeats raise its count."""
    subject = owner.subject
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(owner, reason), "namespace": subject.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION, "kind": DETECTORS.name, "name": subject.name, "namespace": subject.namespace,
            "uid": owner.uid,
        },
        "type": type_,
        "reason": reason,
        "message": message[:MAX_MESSAGE_CHARS],
        "firstTimestamp": rfc3339(int(first_s)),
        "lastTimestamp": rfc3339(int(now_s)),
        "count": count,
        "source": {"component": "foreshock", "host": source},
        "reportingComponent": "devopsroles.com/foreshock",
        "reportingInstance": source[:128],
    }  # fmt: skip


def event_name(owner: Seen, reason: str) -> str:
    """Equal for all events of one detector object with one reason, so that they are one Event with a count."""
    digest = hashlib.sha256(f"{owner.uid}/{reason}".encode()).hexdigest()[:10]
    return f"{owner.subject.name[:240].rstrip('.-')}.{digest}"


def _span(from_s: float, to_s: float) -> dict[str, str]:
    return {"start": rfc3339(int(from_s)), "end": rfc3339(int(to_s))}
