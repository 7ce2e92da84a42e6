"""What is written is bounded and valid, and what is read may come from a newer version."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from foreshock.alerting.state import Kind
from foreshock.core.verdicts import Subject
from foreshock.manifests.anomaly import Anomaly
from foreshock.manifests.conditions import ConditionType
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.model import AnomalyModel
from foreshock.operator.resources import Seen, anomaly_of, event_of, model_of, seen
from foreshock.store.records import Incident, ModelRecord

NOW_S = 1_760_000_000
MANY = 5_000


def document(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "checkout", "namespace": "shop", "uid": "u", "generation": 2, "resourceVersion": "7"},
        "spec": {"target_service": "checkout", "prometheus_query": "up"},
        "status": status,
    }


OWNER: Seen = seen(document(), None)


def test_a_status_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    """Unknown fields, types and reasons are no reason to fall over while two versions run side by side."""
    known = {"type": "Ready", "status": "True", "reason": "AllWell", "lastTransitionTime": "2026-11-24T00:00:00Z"}
    now = seen(document(conditions=[known, known | {"type": "Sparkling"}, {"type": "Ready"}], sparkle=1), None)
    assert list(now.by_type) == [ConditionType.READY]
    assert now.by_type[ConditionType.READY].reason == "AllWell"


def test_a_spec_that_did_not_change_is_not_read_again() -> None:
    """Ten thousand statuses come back as changes: the spec behind them stays the same object."""
    again = seen(document(observedGeneration=2), OWNER)
    assert again.detector is OWNER.detector
    assert again.said_generation == 2


def test_equal_parts_of_two_detectors_are_one_object() -> None:
    """Ten thousand detectors hold their defaults once; they say and compare as those that were read one by one."""
    one, other = document(), document()
    other["spec"]["target_service"] = "payment"
    first, second = seen(one, None).detector, seen(other, None).detector
    assert first is not None
    assert second is not None
    assert first.spec.training is second.spec.training
    assert first.spec.__pydantic_fields_set__ is second.spec.__pydantic_fields_set__
    plain = {**one, "apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector"}
    read = AnomalyDetector.model_validate({**plain, "metadata": {"name": "checkout", "namespace": "shop"}})
    assert first.spec == read.spec
    assert first.spec.model_dump(exclude_unset=True) == read.spec.model_dump(exclude_unset=True)


def test_a_spec_that_the_api_server_could_not_check_is_a_problem_with_its_path() -> None:
    """Broken PromQL is said and not run."""
    broken = document()
    broken["spec"]["prometheus_query"] = "sum(rate("
    now = seen(broken, None)
    assert now.detector is None
    assert now.problem is not None
    assert "prometheus_query" in now.problem.message


def test_an_anomaly_stays_small_whatever_its_evidence_holds() -> None:
    """Top ten contributions, cut sentences: far below what etcd takes."""
    data = {
        "summary": "s" * 100_000,
        "peak": {"contributions": [{"metric": f"m{number}", "share": 0.5} for number in range(MANY)]},
        "model": {"revision": "v1-r1", "digest": "0" * 64},
        "training_window": {"start": "2026-11-01T00:00:00Z", "end": "2026-11-24T00:00:00Z"},
    }
    group = tuple((f"label_{number}", "v" * MANY) for number in range(40))
    incident = Incident(
        "a" * 32, Subject("shop", "checkout", group), "checkout", "critical", NOW_S, 9.5, Kind.FIRING,
        evidence={"data": data},
    )  # fmt: skip
    resource, status = anomaly_of(incident, OWNER)
    assert len(json.dumps(status)) < 32_768
    read = Anomaly.model_validate(resource | {"status": status})
    assert read.status is not None
    assert len(read.status.contributions) == 10


def test_a_model_says_what_it_was_made_of() -> None:
    """Rows used and excluded by reason, window, digest and budget, as the CRD wants them."""
    record = ModelRecord(
        Subject("shop", "checkout"), "v1", 3, "b" * 64, "ensemble", NOW_S - 86_400, NOW_S, 1_400, float(NOW_S),
        rows_excluded={"incident": 30, "maintenance": 10},
        details={"fingerprint": "c" * 64, "members": [{}, {}], "provisional": True, "budget": "1/7d"},
    )  # fmt: skip
    resource, status = model_of(record, OWNER, "file:///models")
    read = AnomalyModel.model_validate(resource | {"status": status})
    assert read.status is not None
    assert read.status.artifact is not None
    assert read.status.artifact.uri == f"file:///models/{'b' * 64}"
    assert [(each.reason, each.rows) for each in read.status.rows_excluded] == [("incident", 30), ("maintenance", 10)]
    assert resource["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_a_model_says_when_its_history_is_short_for_its_budget() -> None:
    """Two weeks hold no three intervals of 1/7d, and hold them of 1/4d."""
    record = ModelRecord(
        Subject("shop", "checkout"), "v1", 3, "b" * 64, "ensemble", NOW_S - 14 * 86_400, NOW_S, 1_400, float(NOW_S),
        stage="Active", rows_excluded={}, details={"why": "better", "budget": "1/7d"},
    )  # fmt: skip
    _, status = model_of(record, OWNER, "file:///models")
    assert status["message"] == (
        "better; CalibrationUncertain: 14d of history hold fewer than 3 intervals of the budget 1/7d"
    )
    _, status = model_of(replace(record, details={"why": "better", "budget": "1/4d"}), OWNER, "file:///models")
    assert status["message"] == "better"
    _, status = model_of(replace(record, stage="Retired"), OWNER, "file:///models")
    assert status["message"] == "better"


def test_one_event_for_a_detector_and_a_reason() -> None:
    """Equal names are what aggregation is made of; another object of the same name has other events."""
    one, other = (event_of(OWNER, "Normal", reason, "m", count=1, first_s=NOW_S, now_s=NOW_S, source="h")
                  for reason in ("A", "B"))  # fmt: skip
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert len(event_of(OWNER, "Normal", "A", "m" * MANY, count=1, first_s=0, now_s=0, source="h")["message"]) <= 1024
