"""The control plane of the tests does what the tests of the operator rely on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from lightkube.core.exceptions import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap
from tests.servers.kubernetes import ControlPlane, NewKubernetes, binaries, existing, new_namespace
from tests.servers.processes import until


def config_map(name: str, **metadata: object) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, **metadata), data={"a": "1"})


def is_gone(plane: ControlPlane, kind: type[ConfigMap], name: str, namespace: str) -> bool:
    with plane.client() as client:
        try:
            client.get(kind, name, namespace=namespace)
        except ApiError as error:
            return error.status.code == 404
    return False


def test_the_server_says_its_version_and_every_binary_is_there(kubernetes: ControlPlane) -> None:
    """A server without a version breaks clients that parse it."""
    version = kubernetes.request("GET", "/version")
    assert version["gitVersion"].startswith("v1.")
    assert int(version["minor"]) >= 30
    assert json.loads(kubernetes.kubectl("version", "--output=json").stdout)["serverVersion"] == version
    assert kubernetes.helm("version", "--short").stdout.startswith("v3.")


def test_a_namespace_is_the_tests_own_and_orphans_are_collected(kubernetes: ControlPlane, namespace: str) -> None:
    """The garbage collector runs: an object goes with its owner."""
    with kubernetes.client(namespace=namespace) as client:
        owner = client.create(config_map("owner"))
        assert owner.metadata is not None
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
        client.create(config_map("owned", ownerReferences=[reference]))
        client.delete(ConfigMap, "owner")
    until(lambda: is_gone(kubernetes, ConfigMap, "owned", namespace), within_s=30, what="the owned object is gone")


def test_a_user_and_a_service_account_may_do_what_a_role_says(kubernetes: ControlPlane, namespace: str) -> None:
    """RBAC is the real one: refused before the binding, allowed after it, with a certificate and with a token."""
    users = (kubernetes.user("reader", "readers"), kubernetes.service_account(namespace, "robot"))
    get = ("get", "configmaps", "--namespace", namespace)
    for user in users:
        refused = kubernetes.kubectl(*get, kubeconfig=user, check=False)
        assert refused.returncode == 1
        assert "Forbidden" in refused.stderr
    kubernetes.kubectl("create", "role", "see", "--verb=list,get", "--resource=configmaps", "--namespace", namespace)
    subjects = ("--group=readers", f"--serviceaccount={namespace}:robot")
    kubernetes.kubectl("create", "rolebinding", "see", "--role=see", *subjects, "--namespace", namespace)
    for user in users:
        until(
            lambda user=user: kubernetes.kubectl(*get, kubeconfig=user, check=False).returncode == 0,  # type: ignore[misc]
            within_s=30,
            what="the role holds",
        )


def test_a_killed_and_a_paused_server_come_back_on_the_same_port(new_kubernetes: NewKubernetes) -> None:
    """What was stored is there again, and a paused one answers nobody meanwhile."""
    plane = new_kubernetes(controllers=False)
    url, name = plane.url, new_namespace(plane)
    plane.kill()
    assert not plane._answers("/readyz")
    plane.restart("--max-requests-inflight=5")
    assert plane.url == url
    assert plane.request("GET", f"/api/v1/namespaces/{name}")["metadata"]["name"] == name
    assert b"--max-requests-inflight=5" in Path(f"/proc/{plane.api_server.pid}/cmdline").read_bytes()
    with plane.paused():
        assert not plane._answers("/readyz")
    plane.wait_until_ready()


def test_nothing_is_left_running(new_kubernetes: NewKubernetes) -> None:
    """Stopping ends every process within the deadline, a paused one too."""
    plane = new_kubernetes()
    assert plane.controller_manager is not None
    servers = (plane.etcd, plane.api_server, plane.controller_manager)
    began_s = time.monotonic()
    with plane.paused():
        plane.stop()
    assert time.monotonic() - began_s < 20
    assert not any(server.is_running for server in servers)


@pytest.mark.parametrize("login", ["certificate", "token"])
def test_an_existing_cluster_is_used_as_it_is(kubernetes: ControlPlane, tmp_path: Path, login: str) -> None:
    """What USE_EXISTING_CLUSTER names: our kinds, namespaces, tokens and kubectl work; certificates are nobody's."""
    kubeconfig = kubernetes.kubeconfig
    if login == "token":
        robot = new_namespace(kubernetes)
        kubeconfig = kubernetes.service_account(robot, "admin")
        role = ("create", "clusterrolebinding", robot, "--clusterrole=cluster-admin")
        kubernetes.kubectl(*role, f"--serviceaccount={robot}:admin")
    cluster = existing(tmp_path, kubeconfig)
    assert cluster.url == kubernetes.url
    name = new_namespace(cluster)
    assert cluster.kubectl("get", "ad", "--namespace", name).returncode == 0
    whoami = cluster.kubectl("auth", "whoami", kubeconfig=cluster.service_account(name, "robot"))
    assert f"system:serviceaccount:{name}:robot" in whoami.stdout
    with pytest.raises(pytest.skip.Exception, match="USE_EXISTING_CLUSTER"):
        cluster.user("somebody")


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_binaries_of_ones_own_come_first(name: str, tmp_path: Path) -> None:
    """KUBEBUILDER_ASSETS and TEST_ASSET_... bring single binaries; what they lack comes from the built ones."""
    build = Path(__file__).parents[2] / "tools/envtest/build"
    own = tmp_path / "assets" / name
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    built = binaries()
    brought = {"KUBEBUILDER_ASSETS": str(own.parent)}, {f"TEST_ASSET_{name.upper().replace('-', '_')}": str(own)}
    for environment in brought:
        done = subprocess.run([build], env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        folder = Path(done.stdout.strip())
        assert (folder / name).resolve() == own
        assert (folder / "kubectl").resolve() == (built / "kubectl").resolve()
