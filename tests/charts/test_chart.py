"""The chart lints, refuses bad values with a sentence, and the real API server takes every object that it renders."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from tests.charts.release import (
    BUCKET,
    CHART,
    FULL,
    KUBERNETES,
    MINIMAL,
    ROOT,
    VALUES,
    documents,
    helm,
    of_kind,
    pod_specs,
    refusal,
    text,
)
from tests.servers.kubernetes import ControlPlane, new_namespace

from foreshock.app.settings import Settings
from foreshock.cli.main import COMMANDS

_SETTINGS_OF_BOTH = ("fs-foreshock", "fs-foreshock-extractor")
DEFINITIONS = ROOT / "tests/charts/prometheus-operator"


@pytest.fixture(scope="module")
def cluster(kubernetes: ControlPlane) -> ControlPlane:
    """With the definitions of prometheus-operator, without which its kinds are unknown."""
    for file in sorted(DEFINITIONS.glob("*.yaml")):
        kubernetes.kubectl("apply", "--server-side", "-f", str(file))
    kubernetes.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    return kubernetes


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_lints(name: str) -> None:
    """Helm's own linter, in which a warning is a failure."""
    done = helm("lint", "--strict", str(CHART), "--kube-version", KUBERNETES, values=VALUES[name])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_takes_every_object(cluster: ControlPlane, name: str) -> None:
    """Server-side dry run in a namespace under PodSecurity `restricted`: no error, and not one warning."""
    namespace = restricted_namespace(cluster)
    rendered = text(VALUES[name], namespace=namespace, release=f"r{uuid.uuid4().hex[:8]}")
    for other in ("shop", "bank"):
        if other in VALUES[name].get("watchNamespaces", ()):
            cluster.kubectl("create", "namespace", other, check=False)
    done = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered)
    assert done.stderr == ""
    assert not [each for each in documents(rendered) if not _has_its_place(each)]
    assert len(done.stdout.splitlines()) == len(documents(rendered))


def _has_its_place(document: dict[str, Any]) -> bool:
    """Whoever pipes the chart into kubectl finds every object in the namespace of the release, whatever the context."""
    return "namespace" in document["metadata"] or document["kind"].startswith("ClusterRole")


def test_a_pod_that_may_do_more_is_warned_about(cluster: ControlPlane) -> None:
    """The test above is not empty: without the security context the API server does object."""
    namespace = restricted_namespace(cluster)
    rendered = text(MINIMAL, namespace=namespace).replace("runAsNonRoot: true", "runAsNonRoot: false")
    done = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=rendered, check=False)
    assert "would violate PodSecurity" in done.stderr


@pytest.mark.parametrize("name", VALUES)
def test_the_pods_themselves_are_admitted(cluster: ControlPlane, name: str) -> None:
    """Deployments are only warned about: the pods of each are created, in a dry run, where `restricted` is enforced."""
    namespace = restricted_namespace(cluster)
    for owner, spec in pod_specs(text(VALUES[name])).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": owner, "namespace": namespace}, "spec": spec}
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def restricted_namespace(cluster: ControlPlane) -> str:
    """A namespace whose pods must keep to PodSecurity `restricted`, and whose Deployments are warned about."""
    name = new_namespace(cluster)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    cluster.kubectl("label", "namespace", name, *levels)
    return name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Set settings.datasources"),
        ({**MINIMAL, "replicas": 2}, "Two replicas need PostgreSQL"),
        ({**MINIMAL, "replicas": 0}, "replicas"),
        ({**MINIMAL, "replica": 1}, "replica"),
        ({**MINIMAL, "database": {"kind": "oracle"}}, "'sqlite', 'postgresql'"),
        ({**MINIMAL, "database": {"kind": "postgresql"}}, "Set database.postgresql.host"),
        (
            {**MINIMAL, "database": {"kind": "postgresql", "postgresql": {"host": "pg"}}},
            "Set database.postgresql.passwordSecret.name",
        ),
        (
            {**MINIMAL, "database": {"kind": "postgresql", "postgresql": {"host": "user:pass@pg"}}},
            "host",
        ),
        ({**MINIMAL, "extractor": {"enabled": True}, "models": {"persistence": False}}, "share the models"),
        ({**MINIMAL, "watchNamespaces": ["Shop"]}, "watchNamespaces"),
        ({**MINIMAL, "models": {"url": "https://bucket"}}, "url"),
        ({**MINIMAL, "image": {"digest": "sha256:abc"}}, "digest"),
        (
            {"settings": {"datasources": [{"url": "${PROMETHEUS_URL}"}]}},
            "settings.datasources[0] reads its url from a variable: set networkPolicy.extraEgressPorts",
        ),
        ({"settings": {**MINIMAL["settings"], "listen": "0.0.0.0:80"}}, "Remove settings.listen: the chart sets it"),
        (
            {"settings": {"datasources": [{"url": "http://p:9090", "bearer_token": "abc"}]}},
            "settings.datasources[0] holds a secret: a ConfigMap is no place for it",
        ),
        (
            {"settings": {"datasources": [{"url": "http://p:9090", "basic_auth": {"username": "u", "password": "p"}}]}},
            "settings.datasources[0] holds a secret",
        ),
        (
            {
                "settings": {
                    **MINIMAL["settings"],
                    "sinks": [{"name": "h", "type": "webhook", "url": "https://h/", "secret": "abc"}],
                }
            },
            "settings.sinks[0] holds a secret",
        ),
    ],
)
def test_bad_values_are_refused(values: Mapping[str, Any], words: str) -> None:
    """The schema names the value; what a schema cannot say is one sentence that says what to do."""
    assert words in refusal(values)


def test_the_schema_knows_every_value_and_no_other() -> None:
    """A value that is added to values.yaml and not to the schema could not be set by anybody."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: Any, described: Any, path: str) -> None:
        properties = described.get("properties")
        if not properties or not isinstance(value, dict):
            return
        assert set(properties) - {"global"} == set(value), path
        for key, each in value.items():
            compare(each, properties[key], f"{path}.{key}")

    compare(defaults, schema, "")


@pytest.mark.parametrize("name", VALUES)
def test_the_rendered_settings_are_settings(name: str) -> None:
    """Foreshock itself reads every foreshock.yaml that the chart renders; secrets in it are names of files."""
    found = [each for each in of_kind(text(VALUES[name]), "ConfigMap") if "foreshock.yaml" in each["data"]]
    assert {each["metadata"]["name"] for each in found} <= set(_SETTINGS_OF_BOTH)
    for each in found:
        Settings.model_validate(yaml.safe_load(each["data"]["foreshock.yaml"]))


def test_the_extractor_gets_what_it_needs_and_nothing_else() -> None:
    """No sink, no database, no secret of a sink, no token of the API server."""
    rendered = text(FULL)
    (settings,) = (each for each in of_kind(rendered, "ConfigMap") if each["metadata"]["name"].endswith("-extractor"))
    assert set(yaml.safe_load(settings["data"]["foreshock.yaml"])) == {"datasources", "artifacts"}
    spec = pod_specs(rendered)["fs-foreshock-extractor"]
    secrets = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
    assert secrets == ["prometheus-login"]
    assert spec["automountServiceAccountToken"] is False


def test_a_bucket_takes_the_place_of_the_volume() -> None:
    """Two replicas and the extractor share a bucket: no volume, no ReadWriteMany; its login is a mounted file."""
    rendered = text(BUCKET)
    assert not of_kind(rendered, "PersistentVolumeClaim")
    for name in _SETTINGS_OF_BOTH:
        (found,) = (each for each in of_kind(rendered, "ConfigMap") if each["metadata"]["name"] == name)
        settings = Settings.model_validate(yaml.safe_load(found["data"]["foreshock.yaml"]))
        assert settings.artifacts == "s3://models/foreshock"
        assert settings.s3.endpoint == "https://s3.example.org:9000"
        spec = pod_specs(rendered)[name]
        (secret,) = (each["secret"] for each in spec["volumes"] if each["name"] == "models")
        (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "models")
        assert secret["secretName"] == "bucket-login"
        assert settings.s3.secret_access_key_file is not None
        assert str(settings.s3.secret_access_key_file.parent) == mount["mountPath"]
    for policy in of_kind(rendered, "NetworkPolicy"):
        assert 9000 in {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    own_login = {**BUCKET, "models": {"url": "s3://models"}, "extractor": {"enabled": False}}
    assert not any(each["name"] == "models" for each in pod_specs(text(own_login))["fs-foreshock"]["volumes"])


def test_what_starts_is_a_command_that_exists() -> None:
    """The arguments of the containers begin with commands of this version."""
    specs = pod_specs(text(FULL))
    started = {spec["containers"][0]["args"][0] for name, spec in specs.items() if not name.endswith("-test")}
    assert started == {"operator", "extractor"}
    assert started <= {command.NAME for command in COMMANDS}


def test_one_replica_is_recreated_and_two_roll() -> None:
    """SQLite: `Recreate`, ReadWriteOnce and no disruption budget, which would block drains; PostgreSQL: the others."""
    one, two = text(MINIMAL), text(FULL)
    (deployment,) = of_kind(one, "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert not of_kind(one, "PodDisruptionBudget")
    assert {tuple(each["spec"]["accessModes"]) for each in of_kind(one, "PersistentVolumeClaim")} == {
        ("ReadWriteOnce",)
    }
    operator = next(each for each in of_kind(two, "Deployment") if each["metadata"]["name"] == "fs-foreshock")
    assert operator["spec"]["strategy"]["type"] == "RollingUpdate"
    assert {each["metadata"]["name"] for each in of_kind(two, "PodDisruptionBudget")} == set(_SETTINGS_OF_BOTH)
    (models,) = of_kind(two, "PersistentVolumeClaim")
    assert models["spec"]["accessModes"] == ["ReadWriteMany"]


def test_brokers_and_alertmanagers_are_reached() -> None:
    """Each port of `bootstrap_servers` and `urls` is open."""
    bus = {"name": "bus", "type": "kafka", "bootstrap_servers": "kafka-0.bus:9093, kafka-1.bus:9094", "topic": "a"}
    oncall = {"name": "oncall", "type": "alertmanager", "urls": ["http://am-0:9095", "https://am-1"]}
    settings = {**MINIMAL["settings"], "sinks": [bus, oncall], "default_sinks": ["bus", "oncall"]}
    (policy,) = of_kind(text({**MINIMAL, "settings": settings}), "NetworkPolicy")
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {9093, 9094, 9095, 443} <= ports


def test_traffic_goes_to_what_the_settings_name_and_nowhere_else() -> None:
    """The open ports are those of DNS, the API server, and of the URLs of datasources, sinks and database."""
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(text(FULL), "NetworkPolicy")}
    ports = {port["port"] for rule in policies["fs-foreshock"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6443, 8443, 5432, 8081}
    ports = {port["port"] for rule in policies["fs-foreshock-extractor"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443}
    (asking,) = (rule["from"] for rule in policies["fs-foreshock-extractor"]["ingress"])
    components = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in asking]
    assert components == ["operator", "test"]


def test_no_rule_of_a_network_policy_is_open_to_every_port() -> None:
    """A port that is left empty means all of them: also where a URL is read from a variable there is none."""
    hidden = {
        "settings": {"datasources": [{"url": "${PROMETHEUS_URL}"}]},
        "networkPolicy": {"extraEgressPorts": [9090]},
    }
    for values in (*VALUES.values(), hidden):
        for policy in of_kind(text(values), "NetworkPolicy"):
            rules = [*policy["spec"]["egress"], *policy["spec"]["ingress"]]
            assert all(port["port"] for rule in rules for port in rule["ports"])


def test_each_optional_piece_has_its_switch() -> None:
    """By default there is no object of another project's kinds, and what is optional can be left out."""
    kinds = {document["kind"] for document in documents(text(MINIMAL))}
    assert not kinds & {"ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}
    bare = {
        **MINIMAL,
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "given"},
        "networkPolicy": {"enabled": False},
        "state": {"persistence": False},
        "models": {"persistence": False},
    }
    assert {document["kind"] for document in documents(text(bare))} == {"ConfigMap", "Deployment", "Service", "Pod"}
