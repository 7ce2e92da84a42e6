"""What the operator and users may do, asked of the real API server with real tokens: all they must, nothing more."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import PatchType
from tests.charts.release import MINIMAL, of_kind, text
from tests.servers.kubernetes import ControlPlane, new_namespace

_DETECTORS = create_namespaced_resource("devopsroles.com", "v1", "AnomalyDetector", "anomalydetectors")
_RBAC = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
DETECTOR = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyDetector",
    "metadata": {"name": "checkout"},
    "spec": {"target_service": "checkout", "prometheus_query": "up"},
}


@dataclass(frozen=True)
class Installed:
    """The chart's accounts and roles on the API server, and the kubeconfig of the operator's account."""

    cluster: ControlPlane
    namespace: str  # of the release
    watched: str
    other: str
    operator: Path
    release: str

    def may(self, verb: str, what: str, namespace: str | None, kubeconfig: Path | None = None) -> bool:
        """What the API server says to that user's own question."""
        where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        resource, _, subresource = what.partition("/")
        part = [f"--subresource={subresource}"] if subresource else []
        done = self.cluster.kubectl(
            "auth", "can-i", verb, resource, *part, *where, kubeconfig=kubeconfig or self.operator, check=False
        )
        return done.stdout.strip() == "yes"


def _install(cluster: ControlPlane, values: Mapping[str, Any], namespace: str, watched: str, other: str) -> Installed:
    release = f"r{uuid.uuid4().hex[:8]}"
    objects = of_kind(text(values, namespace=namespace, release=release), *_RBAC)
    cluster.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    account = cluster.service_account(namespace, f"{release}-foreshock")
    return Installed(cluster, namespace, watched, other, account, release)


@pytest.fixture(scope="module", params=["cluster", "listed"])
def installed(request: pytest.FixtureRequest, kubernetes: ControlPlane) -> Iterator[Installed]:
    """Once for the whole cluster, and once for one listed namespace."""
    namespace, watched, other = (new_namespace(kubernetes) for _ in range(3))
    listed = {"watchNamespaces": [watched]} if request.param == "listed" else {}
    found = _install(kubernetes, {**MINIMAL, **listed}, namespace, watched, other)
    yield found
    kinds = "clusterrole,clusterrolebinding"
    kubernetes.kubectl("delete", kinds, "-l", f"app.kubernetes.io/instance={found.release}", "--ignore-not-found")
    for each in (namespace, watched, other):
        kubernetes.request("DELETE", f"/api/v1/namespaces/{each}")


_MUST = [
    *((verb, "anomalydetectors.devopsroles.com") for verb in ("get", "list", "watch")),
    *((verb, "anomalymodels.devopsroles.com") for verb in ("get", "list", "watch", "create", "delete")),
    *((verb, "anomalies.devopsroles.com") for verb in ("get", "list", "watch", "create", "delete")),
    ("patch", "anomalydetectors.devopsroles.com/status"),
    ("patch", "anomalymodels.devopsroles.com/status"),
    ("patch", "anomalies.devopsroles.com/status"),
    ("create", "events"),
    ("patch", "events"),
    *((verb, kind) for verb in ("list", "watch") for kind in ("pods", "services", "events")),
    *(
        (verb, f"{kind}.apps")
        for verb in ("list", "watch")
        for kind in ("deployments", "statefulsets", "daemonsets", "replicasets")
    ),
    *((verb, "horizontalpodautoscalers.autoscaling") for verb in ("list", "watch")),
]
_NEVER = [
    *((verb, "secrets") for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    *((verb, "configmaps") for verb in ("get", "list", "watch", "create", "patch")),
    *((verb, "pods") for verb in ("get", "create", "patch", "delete")),
    *((verb, "services") for verb in ("get", "create", "patch")),
    *((verb, "nodes") for verb in ("get", "patch", "delete")),
    *((verb, "anomalydetectors.devopsroles.com") for verb in ("create", "update", "patch", "delete")),
    ("delete", "events"),
    ("create", "serviceaccounts/token"),
    ("create", "pods/exec"),
    ("patch", "deployments.apps"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("escalate", "roles.rbac.authorization.k8s.io"),
    ("delete", "leases.coordination.k8s.io"),
    ("*", "*"),
]


def test_the_operator_may_do_what_it_must(installed: Installed) -> None:
    """Everything that its code asks of the API server, in a namespace that it watches."""
    assert [each for each in _MUST if not installed.may(*each, installed.watched)] == []


def test_the_operator_may_do_nothing_else(installed: Installed) -> None:
    """No secret, in any way and anywhere; nothing that is not ours; no wildcard."""
    places = (installed.namespace, installed.watched, installed.other, None)
    assert [(*each, place) for each in _NEVER for place in places if installed.may(*each, place)] == []


def test_a_listed_namespace_is_the_only_one(installed: Installed) -> None:
    """Where namespaces are listed the account is nobody in all others."""
    is_listed = not installed.may("list", "anomalydetectors.devopsroles.com", None)
    others = [each for each in _MUST if installed.may(*each, installed.other)]
    assert others == ([] if is_listed else _MUST)


def test_the_lease_is_taken_renewed_and_nobody_elses(installed: Installed) -> None:
    """Real requests with the real token: create, read and update of the one Lease; another one is forbidden."""
    run = installed.cluster.kubectl
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "foreshock"}}
    where = ("--namespace", installed.namespace)
    run("create", *where, "-f", "-", stdin=json.dumps(lease), kubeconfig=installed.operator)
    read = json.loads(run("get", "lease", "foreshock", *where, "-o", "json", kubeconfig=installed.operator).stdout)
    run("replace", *where, "-f", "-", stdin=json.dumps(read), kubeconfig=installed.operator)
    run("create", *where, "-f", "-", stdin=json.dumps({**lease, "metadata": {"name": "other"}}))
    refused = run("get", "lease", "other", *where, kubeconfig=installed.operator, check=False)
    assert "is forbidden" in refused.stderr


def test_secrets_are_forbidden_in_fact(installed: Installed) -> None:
    """The request itself is refused, in the release's own namespace as everywhere."""
    for namespace in (installed.namespace, installed.watched):
        refused = installed.cluster.kubectl(
            "get", "secrets", "--namespace", namespace, kubeconfig=installed.operator, check=False
        )
        assert "is forbidden" in refused.stderr


def test_nodes_are_read_where_the_whole_cluster_is_watched(installed: Installed) -> None:
    """A ClusterRole holds them; a Role of a listed namespace cannot, and nobody grants more for their sake."""
    is_listed = not installed.may("list", "anomalydetectors.devopsroles.com", None)
    assert installed.may("list", "nodes", None) is not is_listed
    assert installed.may("watch", "nodes", None) is not is_listed


def test_config_maps_are_behind_a_switch_and_all_of_it_behind_another() -> None:
    """`changes.configMaps` adds them and nothing else; without `changes.enabled` nothing of the cluster is read."""

    def resources(**changes: bool) -> set[str]:
        roles = of_kind(text({**MINIMAL, "changes": changes}), "ClusterRole", "Role")
        mine = [role for role in roles if role["metadata"]["name"].endswith("-foreshock")]
        return {each for role in mine for rule in role["rules"] for each in rule["resources"]}

    assert resources(configMaps=True) - resources() == {"configmaps"}
    assert {"pods", "nodes", "deployments"} <= resources() - resources(enabled=False)


def _user(installed: Installed, role: str) -> Path:
    """Somebody with one of the chart's roles in the watched namespace."""
    name = f"{role}-{installed.release}"
    kubeconfig = installed.cluster.user(name)
    installed.cluster.kubectl(
        "create", "rolebinding", name, "--namespace", installed.watched, "--user", name,
        "--clusterrole", f"{installed.namespace}-{installed.release}-foreshock-{role}",
    )  # fmt: skip
    return kubeconfig


def test_an_editor_writes_detectors_and_never_status(installed: Installed) -> None:
    """Applies and changes a detector as it is; a status of its own is forbidden, also through the subresource."""
    run, where = installed.cluster.kubectl, ("--namespace", installed.watched)
    editor = _user(installed, "editor")
    run("apply", *where, "-f", "-", stdin=json.dumps(DETECTOR), kubeconfig=editor)
    status = json.dumps({"status": {"conditions": []}})
    refused = run(
        "patch", "anomalydetector", "checkout", *where, "--subresource=status", "--type=merge", "-p", status,
        kubeconfig=editor, check=False,
    )  # fmt: skip
    assert "is forbidden" in refused.stderr
    run(
        "patch",
        "anomalydetector",
        "checkout",
        *where,
        "--type=merge",
        "-p",
        '{"spec": {"suspend": true}}',
        kubeconfig=editor,
    )
    with installed.cluster.client(installed.operator, installed.watched) as operator:
        operator.patch(_DETECTORS.Status, "checkout", {"status": {"conditions": []}}, patch_type=PatchType.MERGE)
    assert not installed.may("patch", "anomalydetectors.devopsroles.com/status", installed.watched, editor)
    assert not installed.may("delete", "anomalymodels.devopsroles.com", installed.watched, editor)
    run("delete", "anomalydetector", "checkout", *where, kubeconfig=editor)


def test_a_viewer_reads_and_an_admin_cleans_up(installed: Installed) -> None:
    """Reading is all that a viewer may; an admin also removes models and anomalies; nobody of them writes status."""
    viewer, admin = _user(installed, "viewer"), _user(installed, "admin")
    kinds = [f"{plural}.devopsroles.com" for plural in ("anomalydetectors", "anomalymodels", "anomalies")]
    for kind in kinds:
        assert installed.may("list", kind, installed.watched, viewer)
        assert not installed.may("patch", kind, installed.watched, viewer)
        assert installed.may("delete", kind, installed.watched, admin)
        assert not installed.may("patch", f"{kind}/status", installed.watched, admin)


def test_no_rule_of_the_chart_has_a_wildcard_or_secrets() -> None:
    """Read from what is rendered, so that it holds for roles that no test binds."""
    roles = of_kind(text(MINIMAL), "ClusterRole", "Role")
    named = [word for role in roles for rule in role["rules"] for part in rule.values() for word in part]
    assert "*" not in named
    assert "secrets" not in named
