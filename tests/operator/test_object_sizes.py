"""Row 28: whatever an incident or a model is made of, what is written fits into an object of the API server."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.kubernetes import ControlPlane
from tests.servers.processes import until

from foreshock.alerting.event import Evidence, ModelIdentity, RangeQuery, cloud_event
from foreshock.alerting.state import AlertPolicy, EndReason, Kind, advance, end
from foreshock.core.verdicts import Anomalous, Contribution, Judgement, Subject
from foreshock.operator.resources import (
    ANOMALIES,
    DETECTORS,
    MODELS,
    anomaly_of,
    child,
    event_of,
    model_of,
    owned,
    seen,
)
from foreshock.operator.watch import Kind as Resource
from foreshock.store.records import Incident, ModelRecord

MUCH = 100_000
NOW_S = 1_764_000_000
LONG_NAME = f"{'d' * 240}.{'e' * 12}"
BOUND_BYTES = 64 * 1024  # etcd takes 1.5 MiB; a thousand of these still list in a few pages


def created(plane: ControlPlane, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
    """What the API server holds, with every field checked as kubectl asks."""
    return plane.request("POST", f"{kind.path(body['metadata']['namespace'])}?fieldValidation=Strict", body)


def with_status(plane: ControlPlane, kind: Resource, body: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """What it holds after the status was written, likewise."""
    path = kind.path(body["metadata"]["namespace"], body["metadata"]["name"])
    merge = "application/merge-patch+json"
    return plane.request("PATCH", f"{path}/status?fieldValidation=Strict", {"status": status}, content_type=merge)


def size_bytes(document: dict[str, Any]) -> int:
    return len(json.dumps(document, ensure_ascii=False).encode())


def detector(plane: ControlPlane, namespace: str) -> dict[str, Any]:
    """A detector with the longest name there can be."""
    spec = {"target_service": "s" * 253, "prometheus_query": "up", "group_by": [f"label_{n}" for n in range(10)]}
    body = {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": LONG_NAME, "namespace": namespace},
        "spec": spec,
    }
    return created(plane, DETECTORS, body)


def monstrous(namespace: str, *, ended: bool) -> Incident:
    """An incident of a hundred metrics, long labels and evidence without end, as the engine writes it."""
    group = tuple((f"label_{n}", "ü" * MUCH) for n in range(10))
    subject = Subject(namespace, LONG_NAME, group)
    blamed = tuple(Contribution(f"metric_{n}_{'x' * 80}", 0.01) for n in range(100))
    judgement = Judgement(subject, NOW_S, Anomalous(1e300), blamed)
    state, (firing,) = advance(None, judgement, AlertPolicy("critical"), cluster="c")
    if ended:
        _, (firing,) = end(state, EndReason.ADAPTED, NOW_S + 60)
    evidence = Evidence(
        features={f"metric_{n}.mean": 1e300 for n in range(MUCH)},
        model=ModelIdentity("v" * 63, f"{'v' * 63}-r999999999", "a" * 64),
        training_window=(NOW_S - 86_400.0, NOW_S),
        queries=tuple(RangeQuery(f"metric_{n}", "q" * MUCH, NOW_S, NOW_S, 60) for n in range(100)),
        summary="ü" * MUCH,
        relations=("r" * MUCH,) * 100,
        changes=("c" * MUCH,) * 100,
        neighbours=("n" * MUCH,) * 100,
    )
    return Incident(
        firing.incident_id, subject, "s" * 253, "critical", NOW_S, 1e300, firing.kind,
        NOW_S + 60 if ended else None, firing.reason, cloud_event(firing, evidence, cluster="c", service="s" * 253),
    )  # fmt: skip


def test_an_incident_of_any_size_is_an_object_of_bounded_size(kubernetes: ControlPlane, namespace: str) -> None:
    """Ten contributions and a dozen changes, each text cut: the rest is in the database."""
    owner = seen(detector(kubernetes, namespace), None)
    for ended in (False, True):
        incident = monstrous(namespace, ended=ended)
        body, status = anomaly_of(incident, owner)
        if not ended:
            created(kubernetes, ANOMALIES, body)
        stored = with_status(kubernetes, ANOMALIES, body, status)
        assert size_bytes(stored) < BOUND_BYTES
        assert len(stored["status"]["contributions"]) == 10
        assert len(stored["status"]["changes"]) == len(stored["status"]["neighbours"]) == 12
        assert stored["status"]["peakScore"] == 1e300
        assert child(stored).state == (Kind.RESOLVED if ended else Kind.FIRING)


def test_a_model_of_any_size_is_an_object_of_bounded_size(kubernetes: ControlPlane, namespace: str) -> None:
    """Ten thousand groups and as many reasons for leaving rows out."""
    owner = seen(detector(kubernetes, namespace), None)
    members = [{"group": [["pod", "p" * 1000]], "digest": "b" * 64} for _ in range(10_000)]
    record = ModelRecord(
        Subject(namespace, LONG_NAME), "V" * 60, 999_999_999, "a" * 64, "ensemble", NOW_S - 86_400, NOW_S, 10**12,
        NOW_S,
        rows_excluded={f"{n} {'r' * MUCH}": 10**9 for n in range(100)},
        details={"members": members, "fingerprint": "c" * 64, "budget": "1/7d", "provisional": True},
    )  # fmt: skip
    body, status = model_of(record, owner, f"file:///{'m' * MUCH}")
    created(kubernetes, MODELS, body)
    stored = with_status(kubernetes, MODELS, body, status)
    assert size_bytes(stored) < BOUND_BYTES
    assert stored["status"]["groups"] == 10_000
    assert len(stored["status"]["rowsExcluded"]) == 20


def test_an_event_of_any_size_is_taken(kubernetes: ControlPlane, namespace: str) -> None:
    """The message is cut, and the name of the longest detector still fits."""
    owner = seen(detector(kubernetes, namespace), None)
    body = event_of(
        owner, "Warning", "DataUnavailable", "ü" * MUCH, count=1, first_s=NOW_S, now_s=NOW_S, source="h" * 300
    )
    stored = kubernetes.request("POST", f"/api/v1/namespaces/{namespace}/events", body)
    assert len(stored["message"]) == 1024


def test_what_is_owned_goes_with_its_detector(kubernetes: ControlPlane, namespace: str) -> None:
    """The garbage collector removes models and anomalies; no finalizer holds the detector."""
    stored = detector(kubernetes, namespace)
    assert "finalizers" not in stored["metadata"]
    spec = {"detector": LONG_NAME, "incident": "0" * 32}
    created(kubernetes, ANOMALIES, owned(ANOMALIES, "orphan", seen(stored, None), spec))
    kubernetes.request("DELETE", DETECTORS.path(namespace, LONG_NAME))
    until(
        lambda: kubernetes.request("GET", ANOMALIES.path(namespace))["items"] == [],
        within_s=30,
        what="the anomaly is gone with its detector",
    )
