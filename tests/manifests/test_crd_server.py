"""A real API server takes every valid manifest, and refuses with a sentence what a schema can tell to be invalid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.manifests.test_crd import DEFINITIONS, parts, version
from tests.manifests.test_detector import BUDGET, CRON, EVERYTHING, GIVEN, INVALID, changed, metric, spec
from tests.servers.kubernetes import ControlPlane, Refused

from foreshock.manifests.anomaly import AnomalyStatus
from foreshock.manifests.conditions import Because, Condition, ConditionStatus, ConditionType, DetectorStatus
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.model import ModelStatus

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
STRICT = "fieldManager=tests&fieldValidation=Strict"  # as kubectl asks
WHEN = "2026-11-24T06:00:00Z"
DIGEST = "a" * 64

# What no schema knows, by the path of the problem: `foreshock check` and the condition Ready say these
_ZONE = "time_zone must be a name of the time zone database, such as Europe/Berlin or UTC, not"
LEFT_TO_THE_ENGINE = {
    f"{_ZONE} 'Europe/Atlantis'.",
    f"{_ZONE} 'Europe'.",
    f"{BUDGET} '1/30m'.",
    f"{CRON} '61' is not a minute between 0 and 59.",
}
# Our sentence, or its beginning, to what the API server says in its place, where it has words of its own
OWN_WORDS = (
    (r"apiVersion must be .*", 'in version "v2" cannot be handled as a AnomalyDetector'),
    (r"kind must be .*", "must be AnomalyDetector"),
    (r"name must be a Kubernetes name: .*", "metadata.name: Invalid value"),
    (r"namespace must be a Kubernetes namespace: .*", "namespace"),
    (r"labels must be a mapping .*", "cannot unmarshal array into Go struct field ObjectMeta.labels"),
    (r"Set name; .*", "metadata.name: Required value"),
    (r"Set metadata; .*", "metadata.name: Required value"),
    (r"Set (\w+); it is required\.", r"\1: Required value"),
    (r"query must be text \(put it in quotes\), not empty\.", "query: Required value"),
    (r"Unknown field '(\w+)'.*", r'unknown field "(spec|metadata)(\.\w+)*\.\1"'),
    (
        r"(\w+) must be (text|a number|a whole number|true or false|a list|a mapping)( \(|, | of f).*",
        r"must be of type \w+",
    ),
    (
        r"(\w+) must be (an instant|a duration) .*",
        r"must be of type (date-time|duration)|in body should match|got \[\]",
    ),
    (re.escape(f"{BUDGET} 1."), "must be of type string"),
    (r"(\w+) needs a unit: .*", "must be of type duration"),
    (r"(\w+) must be shorter than a century.*", "must be of type duration"),
    (r"(\w+) must be at most (\d+) characters long\.", r"may not be more than \2 bytes"),
    (r"(\w+) must have at most (\d+) entries.*", r"must have at most \2 items"),
    (r"(\w+) must be at least 0\.", "should be greater than or equal to 0"),
    (r"(\w+) must be at least 1\.", "should be greater than or equal to 1"),
    (r"(\w+) must be greater than 0\.", "should be greater than 0"),
    (r"prometheus_query must not be empty\.", "prometheus_query is empty; write a PromQL expression."),
    (r"The metric name 'a' is taken .*", 'Duplicate value: {"name":"a"}'),
    (r"\w+ names the \w+ (\w+) twice; remove one\.", r'Duplicate value: "\1"'),
    (r"seasonality knows the periods .*", "supported values|must be of type string"),
    (r"(alert_severity|algorithm|role|direction|drift_detection) must be .*", "supported values: "),
    (r"A detection_window of \w+ (holds fewer than two steps) of \w+; (.*)", r"detection_window \1; \2"),
    (r"detection_window holds \d+ steps, more than the 11000 (.*)", r"holds more steps than the 11000 \1"),
    (r"An interval of \w+ leaves gaps between windows of \w+ (.*)", r"interval leaves gaps between windows \1"),
    (r"A warm_up of \w+ never fits into .*", "warm_up never fits into the training window; make warm_up at most"),
    (r"A warm_up of \w+ is shorter than one window of \w+; (.*)", r"warm_up is shorter than one window; \1"),
    (r"training.window holds \d+ steps .*", "training.window holds more than 20000000 values of all metrics;"),
    (r"valid_range needs min below max; .*", "valid_range needs min below max."),
    (r"schedule must be five cron fields (\(.*\)): .*", r"schedule must be five cron fields \1."),
)


def said_by_the_server(sentence: str) -> re.Pattern[str]:
    """What to look for in the API server's answer: its own words for this sentence, or ours without the value."""
    for ours, theirs in OWN_WORDS:
        if match := re.fullmatch(ours, sentence):
            escaped = re.sub(r"\\(\d)", lambda group: re.escape(match[int(group[1])]), theirs)
            return re.compile(escaped if "\\" in theirs or "|" in theirs else re.escape(escaped))
    return re.compile(re.escape(re.sub(r",? not ('.*'|\w+)$", "", sentence.rstrip("."))))


def path_of(namespace: str, plural: str = "anomalydetectors", name: str = "", subresource: str = "") -> str:
    return "/".join(filter(None, (f"/apis/devopsroles.com/v1/namespaces/{namespace}", plural, name, subresource)))


def created(
    plane: ControlPlane, namespace: str, body: dict[str, Any], plural: str = "anomalydetectors"
) -> dict[str, Any]:
    return plane.request("POST", f"{path_of(namespace, plural)}?{STRICT}", body)


def in_namespace(body: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The manifest without what only the API server writes."""
    written_by_users = {key: body["metadata"][key] for key in ("name", "labels") if key in body["metadata"]}
    return {**body, "metadata": {**written_by_users, "namespace": namespace}}


@pytest.mark.parametrize("change", [change for change, _, sentence in INVALID if sentence not in LEFT_TO_THE_ENGINE])
def test_the_api_server_refuses_what_the_engine_refuses(
    kubernetes: ControlPlane, namespace: str, change: dict[str, Any]
) -> None:
    """Each invalid example is refused where it is applied, and the answer says what is wrong with it."""
    (sentence,) = {sentence for other, _, sentence in INVALID if other is change}
    body = changed(change)
    try:
        json.dumps(body, allow_nan=False)
    except ValueError:
        return  # a NaN cannot even be sent
    with pytest.raises(Refused) as refused:
        created(kubernetes, namespace, body)
    assert refused.value.code in {400, 422}
    answer = json.loads(str(refused.value).partition(": ")[2])["message"]
    assert said_by_the_server(sentence).search(answer), answer


def test_what_is_left_to_the_engine_is_exactly_what_a_schema_cannot_know(
    kubernetes: ControlPlane, namespace: str
) -> None:
    """The list of what only `foreshock check` and the condition Ready find is no longer than it must be."""
    left = [(change, sentence) for change, _, sentence in INVALID if sentence in LEFT_TO_THE_ENGINE]
    assert {sentence for _, sentence in left} == LEFT_TO_THE_ENGINE
    for n, (change, _) in enumerate(left):
        created(kubernetes, namespace, changed({"metadata": {"name": f"left-{n}"}}, changed(change)))


SECRETS = (
    spec(prometheus_query='up{url="https://user:hunter2@example.org"}'),
    metric(query='up{url="https://user:hunter2@example.org"}'),
    spec(target_service="https://user:hunter2@example.org"),
    spec(maintenance=[{"start": WHEN, "end": "2026-11-25T06:00:00Z", "reason": "see https://u:p@wiki/x"}]),
)


@pytest.mark.parametrize("change", SECRETS)
def test_a_user_and_a_password_are_refused_everywhere(
    kubernetes: ControlPlane, namespace: str, change: dict[str, Any]
) -> None:
    """By the API server and by the engine, with one sentence."""
    expected = "holds a user and a password; a manifest never carries a secret. Put them into the settings file."
    with pytest.raises(Refused, match=re.escape(expected)):
        created(kubernetes, namespace, changed(change))
    with pytest.raises(ValueError, match=re.escape(expected)):
        AnomalyDetector.model_validate(changed(change))


@pytest.mark.parametrize(
    "change",
    [
        {},
        spec(target_service="a"),
        spec(prometheus_query='up{url="https://example.org/user:x"}'),
        spec(seasonality=[]),
        spec(detection_window="1d12h", step="1h", interval="1d"),
        spec(query_offset="0", pending_for="0s"),
        spec(false_alarm_budget="1000/365d"),
        spec(training={"warm_up": "28d", "exclude": [{"start": "2026-01-01T00:00:00+02:00", "end": WHEN}]}),
        spec(maintenance=[{"schedule": "  0 3 * * mon-fri ", "duration": "1h"}]),
        metric(role="load", direction="down", valid_range={"max": 1}),
        EVERYTHING,
    ],
)
def test_every_valid_manifest_is_accepted_and_means_the_same(
    kubernetes: ControlPlane, namespace: str, change: dict[str, Any]
) -> None:
    """What the API server stores, with its defaults, is read by the engine as the value that the manifest was."""
    body = in_namespace(changed(change), namespace)
    stored = created(kubernetes, namespace, body)
    assert AnomalyDetector.model_validate(stored).spec == AnomalyDetector.model_validate(body).spec


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_are_applied_unchanged(kubernetes: ControlPlane, namespace: str, file: Path) -> None:
    """`kubectl apply -f`, twice, and the second time changes nothing, not even the generation."""
    apply = ("apply", "--namespace", namespace, "-f", str(file))
    assert " created" in kubernetes.kubectl(*apply).stdout
    before = kubernetes.request("GET", path_of(namespace))["items"]
    kubernetes.kubectl(*apply)
    assert kubernetes.request("GET", path_of(namespace))["items"] == before


def test_the_given_manifest_gets_the_defaults_of_the_engine(kubernetes: ControlPlane, namespace: str) -> None:
    """Every default that is more than "none" is in the schema, and is the engine's own."""
    stored = created(kubernetes, namespace, GIVEN)["spec"]
    dumped = AnomalyDetector.model_validate(GIVEN).spec.model_dump(mode="json")
    assert stored == without_nothing(dumped)


def without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    inner = {key: without_nothing(each) if isinstance(each, dict) else each for key, each in value.items()}
    return {key: each for key, each in inner.items() if each not in (None, "", [])}


def test_the_target_service_never_changes(kubernetes: ControlPlane, namespace: str) -> None:
    """Its models and incidents are of that service; everything else may be patched."""
    created(kubernetes, namespace, GIVEN)
    patch = ("patch", "ad", "payment-service-monitor", "--namespace", namespace, "--type=merge")
    refused = kubernetes.kubectl(*patch, "-p", '{"spec": {"target_service": "other"}}', check=False)
    assert "target_service is immutable; create another AnomalyDetector for another service." in refused.stderr
    kubernetes.kubectl(*patch, "-p", '{"spec": {"model_version": "v2.1.0-r1", "alert_severity": "info"}}')


def test_metrics_merge_by_name_under_server_side_apply(kubernetes: ControlPlane, namespace: str) -> None:
    """Two field managers own a metric each."""
    for manager, name in (("one", "a"), ("two", "b")):
        body = in_namespace(changed(spec(prometheus_query=None, metrics=[{"name": name, "query": "up"}])), namespace)
        kubernetes.kubectl(
            "apply",
            "--server-side",
            f"--field-manager={manager}",
            "--force-conflicts",
            "-f",
            "-",
            stdin=json.dumps(body),
        )
    stored = kubernetes.request("GET", path_of(namespace, name="payment-service-monitor"))
    assert [each["name"] for each in stored["spec"]["metrics"]] == ["a", "b"]


def test_kubectl_explain_describes_every_field(kubernetes: ControlPlane) -> None:
    """At every depth of the three kinds; `kubectl explain --recursive` shows each name with its type."""
    for kind, definition in DEFINITIONS.items():
        plural = definition["spec"]["names"]["plural"]
        shown = kubernetes.kubectl("explain", plural, "--recursive").stdout
        names = [
            path.rpartition(".")[2].removesuffix("[]")
            for path, _ in parts(version(kind)["schema"]["openAPIV3Schema"])
            if not path.endswith("[]")
        ]
        assert [name for name in names if not re.search(rf"\b{name}\b", shown)] == []
    told = kubernetes.kubectl("explain", "ad.spec.metrics.role").stdout
    assert "load is demand that the service does not control" in " ".join(told.split())
    assert "ENUM: health load" in " ".join(told.split())


def now(kind: ConditionType, status: ConditionStatus, reason: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason, last_transition_time=WHEN, observed_generation=1)


def test_get_shows_what_a_person_asks_at_night(kubernetes: ControlPlane, namespace: str) -> None:
    """Service, severity, model, whether it is ready and why, whether it is anomalous, and age."""
    created(kubernetes, namespace, GIVEN)
    status = DetectorStatus(
        observed_generation=1,
        active_model="v2.1.0-r3",
        conditions=(
            now(ConditionType.READY, ConditionStatus.TRUE, Because.ALL_WELL),
            now(ConditionType.ANOMALOUS, ConditionStatus.UNKNOWN, Because.PENDING),
        ),
    )
    write_status(kubernetes, namespace, "anomalydetectors", "payment-service-monitor", status)
    assert table(kubernetes, namespace, "ad") == [
        "NAME SERVICE SEVERITY MODEL READY REASON ANOMALOUS AGE",
        "payment-service-monitor payment-api critical v2.1.0-r3 True AllWell Unknown",
    ]
    wait = ("wait", "ad", "--all", "--for=condition=Ready", "--timeout=5s", "--namespace", namespace)
    assert "condition met" in kubernetes.kubectl(*wait).stdout


MODEL = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyModel",
    "metadata": {"name": "payment-service-monitor-v2.1.0-r3"},
    "spec": {
        "detector": "payment-service-monitor",
        "version": "v2.1.0",
        "revision": 3,
        "algorithm": "ensemble",
    },
}
MODEL_STATUS = {
    "stage": "Active",
    "message": "Better than v2.1.0-r2.",
    "createdAt": WHEN,
    "featureSchema": DIGEST,
    "trainingWindow": {"start": "2026-10-27T06:00:00Z", "end": WHEN},
    "rowsUsed": 40_320,
    "rowsExcluded": [{"reason": "incident", "rows": 60}],
    "groups": 1,
    "artifact": {"uri": "file:///models/aa", "sha256": DIGEST, "sizeBytes": 57_000},
    "calibration": {"falseAlarmBudget": "1/7d", "threshold": 0.61, "heldOutIncidents": 4},
    "validation": {"result": "Passed", "message": "Four incidents in four weeks."},
}


def test_a_model_says_how_it_was_made_and_never_changes(kubernetes: ControlPlane, namespace: str) -> None:
    """All its facts fit into the status, in columns the most important; its spec is immutable."""
    created(kubernetes, namespace, MODEL, "anomalymodels")
    name = MODEL["metadata"]["name"]  # type: ignore[index]
    status = ModelStatus.model_validate(MODEL_STATUS)
    write_status(kubernetes, namespace, "anomalymodels", name, status)
    stored = kubernetes.request("GET", path_of(namespace, "anomalymodels", name))
    assert ModelStatus.model_validate(stored["status"]) == status
    assert stored["status"] == MODEL_STATUS
    assert table(kubernetes, namespace, "am") == [
        "NAME DETECTOR VERSION REVISION STAGE ROWS AGE",
        f"{name} payment-service-monitor v2.1.0 3 Active 40320",
    ]
    patch = ("patch", "am", name, "--namespace", namespace, "--type=merge", "-p", '{"spec": {"revision": 4}}')
    assert "A revision never changes; train another one." in kubernetes.kubectl(*patch, check=False).stderr
    wait = ("wait", f"am/{name}", "--for=jsonpath={.status.stage}=Active", "--timeout=5s", "--namespace", namespace)
    assert "condition met" in kubernetes.kubectl(*wait).stdout


ANOMALY = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "Anomaly",
    "metadata": {"name": "payment-service-monitor-0123456789"},
    "spec": {"detector": "payment-service-monitor", "incident": "0123456789abcdef" * 2},
}
ANOMALY_STATUS = {
    "state": "firing",
    "startedAt": WHEN,
    "service": "payment-api",
    "severity": "critical",
    "peakScore": 1.75,
    "group": [{"name": "pod", "value": "a"}],
    "contributions": [{"metric": "pool_wait", "share": 0.9}, {"metric": "latency", "share": 0.1}],
    "summary": "pool_wait is 240 and was expected at 40.",
    "model": {"revision": "v2.1.0-r3", "sha256": DIGEST},
    "trainingWindow": {"start": "2026-10-27T06:00:00Z", "end": WHEN},
    "changes": ["Deployment payment-api rolled out revision 12, 20 min before."],
    "neighbours": ["shop/orders fired 3 min earlier: pool_wait (62 %)"],
}


def test_people_say_what_an_incident_was(kubernetes: ControlPlane, namespace: str) -> None:
    """`spec.verdict` takes one of three words, and the incident's identity never changes."""
    created(kubernetes, namespace, ANOMALY, "anomalies")
    name = ANOMALY["metadata"]["name"]  # type: ignore[index]
    status = AnomalyStatus.model_validate(ANOMALY_STATUS)
    write_status(kubernetes, namespace, "anomalies", name, status)
    stored = kubernetes.request("GET", path_of(namespace, "anomalies", name))
    assert stored["status"] == ANOMALY_STATUS
    patch = ("patch", "an", name, "--namespace", namespace, "--type=merge", "-p")
    wrong = kubernetes.kubectl(*patch, '{"spec": {"verdict": "maybe"}}', check=False)
    assert 'supported values: "true_positive", "false_positive", "expected_change"' in wrong.stderr
    other = kubernetes.kubectl(*patch, json.dumps({"spec": {"incident": "f" * 32}}), check=False)
    assert "incident is immutable; it is the identity of this resource." in other.stderr
    kubernetes.kubectl(*patch, '{"spec": {"verdict": "expected_change", "note": "the sale"}}')
    (_, row) = table(kubernetes, namespace, "an")
    assert re.fullmatch(rf"{name} payment-api critical firing 1\.75 \w+ expected_change", row)


def test_objects_are_found_by_their_fields(kubernetes: ControlPlane, namespace: str) -> None:
    """`--field-selector` works on what people select by."""
    created(kubernetes, namespace, GIVEN)
    created(kubernetes, namespace, changed({"metadata": {"name": "other"}, "spec": {"alert_severity": "info"}}))
    get = ("get", "ad", "--namespace", namespace, "--output=name", "--field-selector")
    assert kubernetes.kubectl(*get, "spec.alert_severity=info").stdout.split() == [
        "anomalydetector.devopsroles.com/other"
    ]
    assert len(kubernetes.kubectl(*get, "spec.target_service=payment-api").stdout.split()) == 2


def test_only_the_status_subresource_changes_a_status(kubernetes: ControlPlane, namespace: str) -> None:
    """Whoever may write a manifest cannot claim that it is ready."""
    created(kubernetes, namespace, {**GIVEN, "status": {"activeModel": "v1-r1"}})
    stored = kubernetes.request("GET", path_of(namespace, name="payment-service-monitor"))
    assert "status" not in stored


def test_a_status_of_impossible_size_is_refused(kubernetes: ControlPlane, namespace: str) -> None:
    """Row 28: what would grow an object without bound does not fit into the schema."""
    created(kubernetes, namespace, ANOMALY, "anomalies")
    path = path_of(namespace, "anomalies", "payment-service-monitor-0123456789", "status")
    merge = "application/merge-patch+json"
    shares = [{"metric": f"m{n}", "share": 0.1} for n in range(11)]
    with pytest.raises(Refused, match="must have at most 10 items"):
        kubernetes.request("PATCH", path, {"status": {"contributions": shares}}, content_type=merge)
    with pytest.raises(Refused, match="may not be more than 1024 bytes"):
        kubernetes.request("PATCH", path, {"status": {"summary": "x" * 1025}}, content_type=merge)


def write_status(plane: ControlPlane, namespace: str, plural: str, name: str, status: Any) -> None:
    body = {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}
    path = path_of(namespace, plural, name, "status")
    plane.request("PATCH", path, body, content_type="application/merge-patch+json")


def table(plane: ControlPlane, namespace: str, what: str) -> list[str]:
    """What `kubectl get` prints, without the age, which is the last column."""
    header, *rows = plane.kubectl("get", what, "--namespace", namespace).stdout.splitlines()
    return [" ".join(header.split()), *(" ".join(row.split()[:-1]) for row in rows)]


def test_the_definitions_apply_to_what_is_there(kubernetes: ControlPlane) -> None:
    """`foreshock crd | kubectl apply --server-side -f -` a second time changes nothing."""
    text = "".join(f"---\n{yaml.safe_dump(each)}" for each in DEFINITIONS.values())
    applied = kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text).stdout
    assert applied.count("serverside-applied") == 3
