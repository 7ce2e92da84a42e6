"""What a manifest may read is the administrator's decision, and what it may hold is no address and no secret."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreshock.core.errors import QueryRejected, UserError
from foreshock.manifests.detector import AnomalyDetector, fingerprint
from foreshock.manifests.files import load_each
from foreshock.manifests.tenancy import confined, objections
from foreshock.prometheus.settings import Datasource

CANARY = "canary-7f3a9c"
CONFINING = Datasource(url="http://a", namespace_label="namespace")


def manifest(namespace: str = "a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"target_service": "checkout", **spec},
    }


def detector(namespace: str = "a", **spec: Any) -> AnomalyDetector:
    return AnomalyDetector.model_validate(manifest(namespace, **spec))


def test_every_query_of_a_manifest_is_confined_and_nothing_else_changes() -> None:
    """Both forms, under the same names; what is not a query is as it was, and a model of other data is stale."""
    short = detector(prometheus_query="sum(rate(x[5m])) / y")
    sent = confined(short, CONFINING)
    assert [(metric.name, metric.query) for metric in sent.spec.named_metrics] == [
        ("value", 'sum(rate(x{namespace="a"}[5m])) / y{namespace="a"}')
    ]
    metrics = [{"name": "wait", "query": "x", "direction": "up"}, {"name": "load", "query": "y", "role": "load"}]
    named = detector(metrics=metrics, group_by=["pod"])
    sent = confined(named, CONFINING)
    assert [metric.query for metric in sent.spec.named_metrics] == ['x{namespace="a"}', 'y{namespace="a"}']
    before, after = named.model_dump(mode="json"), sent.model_dump(mode="json")
    for each in (*before["spec"]["metrics"], *after["spec"]["metrics"]):
        del each["query"]
    assert before == after
    assert fingerprint(named.spec) != fingerprint(sent.spec)


def test_the_cached_metrics_of_the_manifest_are_not_those_that_are_sent() -> None:
    """A manifest whose metrics were looked at before is confined like any other."""
    looked_at = detector(prometheus_query="x")
    assert looked_at.spec.named_metrics[0].query == "x"
    assert confined(looked_at, CONFINING).spec.named_metrics[0].query == 'x{namespace="a"}'
    assert looked_at.spec.named_metrics[0].query == "x"


def test_a_datasource_without_the_setting_gets_the_query_as_it_was_written() -> None:
    """Nobody who has not asked for it gets another query, not even another spelling."""
    one = detector(prometheus_query="sum(x)  # as I like it")
    assert confined(one, Datasource(url="http://a")) is one


def test_a_namespace_that_a_datasource_does_not_serve_is_refused() -> None:
    """A datasource with a tenant's login is for that tenant's namespaces, whatever a manifest names."""
    private = Datasource.model_validate({"name": "team-a", "url": "http://a", "namespaces": ["a", "a-staging"]})
    assert list(objections(detector("a", prometheus_query="x"), private)) == []
    (broken,) = objections(detector("b", prometheus_query="x"), private)
    assert broken.path == "spec.datasource"
    assert broken.sentence.startswith("The datasource 'team-a' does not serve the namespace b; name one that does")
    with pytest.raises(UserError, match="does not serve the namespace b"):
        confined(detector("b", prometheus_query="x"), private)


def test_a_query_for_another_namespace_is_found_with_its_path() -> None:
    """`check` and the status of the detector say which query it is, and what to do."""
    metrics = [{"name": "wait", "query": "x"}, {"name": "load", "query": 'y{namespace="b"}'}]
    (broken,) = objections(detector(metrics=metrics), CONFINING)
    assert broken.path == "spec.metrics[1].query"
    assert broken.sentence.startswith('The query asks for namespace="b", and detectors of the namespace a read only')
    with pytest.raises(QueryRejected):
        confined(detector(metrics=metrics), CONFINING)


def test_the_service_is_never_part_of_a_query() -> None:
    """Whatever is written as the service, the queries stay as they are: it labels alerts and nothing else."""
    hostile = detector(target_service='x"} or secret{a="', prometheus_query="x")
    assert confined(hostile, CONFINING).spec.named_metrics[0].query == 'x{namespace="a"}'


LOGIN = f"https://user:{CANARY}@prometheus.example.org"


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"prometheus_query": "x", "datasource": LOGIN}, "spec.datasource", "a user and a password"),
        ({"prometheus_query": "x", "datasource": "https://10.0.0.1"}, "spec.datasource", "never carries a URL"),
        ({"prometheus_query": "x", "datasource": f"user:{CANARY}@host"}, "spec.datasource", "never carries a URL"),
        ({"prometheus_query": "x", "sinks": [LOGIN]}, "spec.sinks[0]", "a user and a password"),
        ({"prometheus_query": "x", "sinks": ["http://169.254.169.254/"]}, "spec.sinks[0]", "never carries a URL"),
        ({"prometheus_query": "x", "target_service": LOGIN}, "spec.target_service", "a user and a password"),
        ({"prometheus_query": "x", "target_service": "http://10.0.0.1"}, "spec.target_service", "never carries a URL"),
        ({"prometheus_query": f'x{{url="{LOGIN}"}}'}, "spec.prometheus_query", "a user and a password"),
        ({"metrics": [{"name": "a", "query": f'x{{url="{LOGIN}"}}'}]}, "spec.metrics[0].query", "a user and a"),
        (
            {
                "prometheus_query": "x",
                "maintenance": [{"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "reason": LOGIN}],
            },
            "spec.maintenance[0].reason",
            "a user and a password",
        ),
        ({"prometheus_query": "x", "url": LOGIN}, "spec.url", "Unknown field 'url'"),
        ({"prometheus_query": "x", "sinks": [{"url": LOGIN}]}, "spec.sinks[0]", "must be text"),
        ({"prometheus_query": "x", "throttle": LOGIN}, "spec.throttle", "must be a mapping"),
    ],
)
def test_an_address_or_a_login_is_refused_and_not_repeated(
    tmp_path: Path, spec: dict[str, Any], path: str, words: str
) -> None:
    """Rows 26 and 27: nothing in a manifest says where to connect, and a password in it is in no sentence about it."""
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(manifest(**spec)))
    loaded = load_each([file])
    assert not loaded.manifests
    said = json.dumps([asdict(problem) for problem in loaded.problems])
    assert CANARY not in said
    assert words in said
    assert path in {problem.path for problem in loaded.problems}


def test_a_url_as_the_value_of_a_label_is_a_query_like_any_other() -> None:
    """The blackbox exporter's targets are URLs; they name series and are never connected to."""
    query = 'probe_success{instance="https://shop.example.org/login"}'
    assert detector(prometheus_query=query).spec.prometheus_query == query
