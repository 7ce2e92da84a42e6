"""The CloudEvent: what receivers may rely on, and its bounds."""

from __future__ import annotations

import json

import pytest

from foreshock.alerting import bundle
from foreshock.alerting.event import (
    MAX_CONTRIBUTIONS,
    MAX_FEATURES,
    AnomalyEvent,
    Evidence,
    ModelIdentity,
    RangeQuery,
    alert_labels,
    cloud_event,
    json_schema,
)
from foreshock.alerting.state import AlertPolicy, Transition, advance
from foreshock.core.verdicts import Anomalous, Contribution, Judgement, Normal, Subject

POLICY = AlertPolicy("critical", 0, 0, 60)
EVIDENCE = Evidence(
    features={"pool_wait.mean": 240.0, "errors.mean": None},
    model=ModelIdentity("v2.1.0", "v2.1.0-r3", "a" * 64),
    training_window=(1_699_000_000, 1_699_999_980),
    queries=(RangeQuery("pool_wait", "avg(pool_wait)", 1_699_996_400, 1_700_000_000, 60),),
    summary="pool_wait is 6 times its usual value",
    relations=("latency no longer follows queue depth",),
)


def firing_and_resolved(subject: Subject, n_contributions: int = 2) -> tuple[Transition, Transition]:
    contributions = tuple(Contribution(f"metric_{i}", 1 / n_contributions) for i in range(n_contributions))
    state, (firing,) = advance(
        None, Judgement(subject, 1_700_000_000, Anomalous(3.5), contributions), POLICY, cluster="eu 1"
    )
    _, (resolved,) = advance(state, Judgement(subject, 1_700_000_060, Normal(0.25)), POLICY, cluster="eu 1")
    return firing, resolved


def test_the_event_says_everything_the_contract_names() -> None:
    """Every attribute and every field of `data` that design.md promises is there, with its value."""
    firing, _ = firing_and_resolved(Subject("shop", "checkout"))
    event = cloud_event(firing, EVIDENCE, cluster="eu 1", service="payment-api")
    assert {key: event[key] for key in event if key != "data"} == {
        "specversion": "1.0",
        "id": f"{firing.incident_id}/firing/1",
        "source": "/foreshock/eu%201",
        "type": "com.devopsroles.anomaly.v1",
        "subject": "shop/checkout",
        "time": "2023-11-14T22:13:20Z",
        "datacontenttype": "application/json",
    }
    data = event["data"]
    assert (data["status"], data["reason"], data["incident"]) == ("firing", None, firing.incident_id)
    assert (data["detector"], data["service"], data["severity"]) == ("shop/checkout", "payment-api", "critical")
    assert (data["score"], data["threshold"]) == (3.5, 1.0)
    assert data["contributions"] == [{"metric": "metric_0", "share": 0.5}, {"metric": "metric_1", "share": 0.5}]
    assert data["features"] == {"pool_wait.mean": 240.0, "errors.mean": None}
    assert data["model"] == {"version": "v2.1.0", "revision": "v2.1.0-r3", "digest": "a" * 64}
    assert data["training_window"] == {"start": "2023-11-03T08:26:40Z", "end": "2023-11-14T22:13:00Z"}
    assert data["queries"] == [
        {
            "metric": "pool_wait",
            "query": "avg(pool_wait)",
            "start": "2023-11-14T21:13:20Z",
            "end": "2023-11-14T22:13:20Z",
            "step": 60,
        }
    ]
    assert data["ended_at"] is None


def test_the_end_says_when_and_how_bad_it_was() -> None:
    """A resolved event carries both instants, the last score and the peak."""
    _, resolved = firing_and_resolved(Subject("shop", "checkout"))
    data = cloud_event(resolved, EVIDENCE, cluster="eu 1", service="payment-api")["data"]
    assert (data["status"], data["started_at"], data["ended_at"]) == (
        "resolved",
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:14:20Z",
    )
    assert (data["score"], data["peak"]["score"]) == (0.25, 3.5)


def test_labels_do_not_change_between_firing_and_resolved() -> None:
    """Alertmanager matches the two by their labels: they are equal, and nothing overrides ours."""
    subject = Subject("shop", "checkout", (("namespace", "team-a"), ("pod", "p-1")))
    firing, resolved = firing_and_resolved(subject)
    external = {"region": "eu", "severity": "none", "pod": "mine"}
    labels = [alert_labels(one, service="payment-api", external_labels=external) for one in (firing, resolved)]
    assert labels[0] == labels[1]
    assert labels[0] == {
        "alertname": "Anomaly",
        "namespace": "shop",
        "detector": "checkout",
        "service": "payment-api",
        "severity": "critical",
        "exported_namespace": "team-a",
        "pod": "p-1",
        "region": "eu",
    }


def _largest_bundle() -> bundle.Bundle:
    """As much as the schema admits, four bytes a character."""
    names = [f"{i:03}" + "\U0001f600" * 253 for i in range(100)]
    features = [f"{i:03}" + "\U0001f600" * 125 for i in range(bundle.MAX_FEATURES)]
    packed = "A" * bundle.MAX_PACKED_CHARS
    return bundle.Bundle(
        units=dict.fromkeys(names[: bundle.MAX_METRICS], "s"),
        data_availability=dict.fromkeys(names[: bundle.MAX_METRICS], 0.1),
        expected=dict.fromkeys(features, -1.2345678901234567e-300),
        feature_contributions=[
            bundle.FeatureShare(feature=each, share=0.1) for each in features[: bundle.MAX_FEATURE_SHARES]
        ],
        broken_pairs=[bundle.BrokenPair(metric=names[0], other=names[1], before=0.9, now=0.1)] * bundle.MAX_PAIRS,
        training=bundle.TrainingFacts(rows_used=1, rows_excluded=dict.fromkeys(names[: bundle.MAX_REASONS], 1)),
        calibration=bundle.CalibrationFacts(
            false_alarm_budget=names[0],
            tail=names[0],
            channels=[bundle.ChannelFacts(channel=names[0], score=1, middle=0, threshold=1)] * bundle.MAX_CHANNELS,
        ),
        links=dict.fromkeys(names[:4], "😀" * 2048),
        replay=bundle.ReplayFacts(
            end_s=0, step_s=60, window_s=3600, samples=packed, vector=packed, gaps="", rules=packed
        ),
    )


def test_the_largest_event_stays_below_a_megabyte_and_is_valid() -> None:
    """Whatever a user or a cluster puts into it, the event fits Kafka's default limit and its own schema."""
    nasty = "\U0001f600" * 20_000 + "\ud800"
    group = tuple((f"label_{i}", nasty) for i in range(100))
    firing, _ = firing_and_resolved(Subject("shop", "checkout", group), n_contributions=300)
    evidence = Evidence(
        features={f"{i}{nasty}": float("inf") if i % 2 else 1e300 for i in range(1_000)},
        model=ModelIdentity(nasty, nasty, "a" * 64),
        queries=tuple(RangeQuery(nasty, nasty, 0, 1, 60) for _ in range(500)),
        summary=nasty,
        relations=(nasty,) * 500,
        changes=(nasty,) * 500,
        neighbours=(nasty,) * 500,
        bundle=_largest_bundle(),
    )
    event = cloud_event(firing, evidence, cluster=nasty[:100], service=nasty, external_labels={"a": nasty})
    body = json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
    assert len(body) < 1_000_000
    assert len(event["data"]["contributions"]) == MAX_CONTRIBUTIONS
    assert len(event["data"]["features"]) == MAX_FEATURES
    assert AnomalyEvent.model_validate_json(body).model_dump(mode="json") == event


def test_every_event_satisfies_the_published_schema() -> None:
    """The schema names every field of a real event as required, and admits no other."""
    firing, _ = firing_and_resolved(Subject("shop", "checkout"))
    event = cloud_event(firing, EVIDENCE, cluster="eu 1", service="payment-api")
    schema = json_schema()
    data = schema["$defs"]["AnomalyData"]
    assert set(schema["required"]) == set(event) == set(schema["properties"])
    assert set(data["required"]) == set(event["data"]) == set(data["properties"])
    assert schema["additionalProperties"] is False
    assert data["additionalProperties"] is False
    json.dumps(schema)


@pytest.mark.parametrize("change", [{"id": ""}, {"specversion": "0.3"}, {"surprise": 1}])
def test_the_schema_refuses_what_we_never_send(change: dict[str, object]) -> None:
    """An event without identity, of another version or with an unknown key is none of ours."""
    firing, _ = firing_and_resolved(Subject("shop", "checkout"))
    event = cloud_event(firing, EVIDENCE, cluster="eu 1", service="payment-api")
    with pytest.raises(ValueError, match="validation error"):
        AnomalyEvent.model_validate(event | change)
