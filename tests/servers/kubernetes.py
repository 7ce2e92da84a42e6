"""A real Kubernetes control plane without containers: etcd, kube-apiserver, kube-controller-manager, kubectl, helm.

`kubernetes` is one for the whole run (with pytest-xdist: for each worker that asks); leave its cluster-wide objects as
they are, work in the `namespace` of your own, and take `new_kubernetes` for failures and flags.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from lightkube import Client, KubeConfig
from tests.servers.binaries import built
from tests.servers.certificates import Authority, Pair, signing_key_pair
from tests.servers.processes import STARTS, Server, ServerError, free_port, launch, paused, until

from foreshock.manifests.crd import definitions
from foreshock.manifests.detector import API_VERSION

READY_WITHIN_S = float(os.environ.get("KUBEBUILDER_CONTROLPLANE_START_TIMEOUT", "60s").removesuffix("s"))
_PORT_TAKEN = "address already in use"
_CONTROLLERS = "garbage-collector-controller,namespace-controller,serviceaccount-controller"


def binaries() -> Path:
    """The folder with the binaries of a control plane, kubectl and helm, built where they are missing."""
    return built("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm")


@dataclass(slots=True)
class Cluster:
    """An API server at `url`, the `kubeconfig` of its administrator, and who else is asked for."""

    folder: Path
    url: str
    _admin: Pair | str  # a certificate, or a token

    @property
    def certificate_authority(self) -> Path:
        """Who signed the certificate of the API server."""
        return self.folder / "server-ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "admin.kubeconfig"

    def client(self, kubeconfig: Path | None = None, namespace: str | None = None) -> Client:
        """A client of the administrator, or of the user whose kubeconfig this is; `with` closes it."""
        return Client(KubeConfig.from_file(kubeconfig or self.kubeconfig), namespace=namespace, trust_env=False)

    # Users

    def user(self, name: str, *_groups: str) -> Path:
        """Only a control plane of the tests' own signs certificates: here the test is skipped."""
        pytest.skip(f"needs a certificate for the user {name}, which USE_EXISTING_CLUSTER cannot give")

    def service_account(self, namespace: str, name: str, *, ttl_s: int = 3600) -> Path:
        """The kubeconfig of a service account, made where it is missing, with a token of the real TokenRequest."""
        token = self.token(namespace, name, ttl_s=ttl_s)
        return self._write_kubeconfig(f"{namespace}-{name}", {"token": token})

    def token(self, namespace: str, name: str, *, ttl_s: int = 3600) -> str:
        """A new token of a service account; ten minutes are the least that the API server gives."""
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        try:
            self.request("POST", accounts, account)
        except Refused as error:
            if error.code != 409:  # it is there already
                raise
        wanted = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": ttl_s},
        }
        return str(self.request("POST", f"{accounts}/{name}/token", wanted)["status"]["token"])

    # Our own kinds

    def apply_definitions(self) -> None:
        """Apply what `foreshock crd` prints, and wait until all three kinds are served."""
        for document in definitions():
            name = document["metadata"]["name"]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=tests&force=true"
            self.request("PATCH", path, document, content_type="application/apply-patch+yaml")
        kinds = [document["spec"]["names"]["plural"] for document in definitions()]
        until(
            lambda: all(self._answers(f"/apis/{API_VERSION}/{plural}?limit=1") for plural in kinds),
            within_s=READY_WITHIN_S,
            what="our kinds are served",
        )

    # Commands

    def kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator or another user; with `check` a failure raises with its words."""
        return self._run("kubectl", arguments, stdin, kubeconfig, check=check)

    def helm(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run helm, as `kubectl`."""
        return self._run("helm", arguments, stdin, kubeconfig, check=check)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """One request of the administrator, without a client in between; JSON in, JSON out.

        Raises:
            Refused: the answer is an error; it carries the status code.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} | self._headers()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._tls()) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise Refused(error.code, f"{method} {path}: {error.read().decode(errors='replace')}") from error

    def _run(
        self, name: str, arguments: Sequence[str], stdin: str | None, kubeconfig: Path | None, *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        own = {"KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.folder)}
        own |= {f"HELM_{kind}_HOME": str(self.folder / "helm") for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [built("kubectl", "helm") / name, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **own},
        )
        if check and done.returncode:
            raise ServerError(f"{name} {' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def _answers(self, path: str) -> bool:
        request = urllib.request.Request(self.url + path, headers=self._headers())
        try:
            with urllib.request.urlopen(request, timeout=2, context=self._tls()) as answer:
                return bool(answer.status == 200)
        except OSError:  # also HTTPError: 500 until the last check passes
            return False

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate_authority))
        if isinstance(self._admin, Pair):
            context.load_cert_chain(self._admin.certificate, self._admin.key)
        return context

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._admin}"} if isinstance(self._admin, str) else {}

    def _write_kubeconfig(self, name: str, user: Mapping[str, str]) -> Path:
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(_kubeconfig(self.url, self.certificate_authority, user)))
        path.chmod(0o600)
        return path


@dataclass(slots=True)
class ControlPlane(Cluster):
    """A control plane of the tests' own, which gives certificates to users and may be killed, paused and restarted."""

    etcd: Server
    api_server: Server
    controller_manager: Server | None
    _command: tuple[str, ...]
    _users: Authority
    _flags: tuple[str, ...] = field(default=())

    def user(self, name: str, *groups: str) -> Path:
        """The kubeconfig of a user with a certificate; nothing is allowed until a role is bound to it."""
        pair = self._users.user(f"user-{name}", name, groups)
        return self._write_kubeconfig(name, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)})

    # Failures

    def kill(self) -> None:
        """SIGKILL the API server; `restart` brings it back."""
        self.api_server.kill()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """The API server under SIGSTOP: its port accepts and nothing answers."""
        return paused(self.api_server)

    def restart(self, *flags: str, ready: bool = True) -> None:
        """Start the API server again on the same port, with these flags or those of before.

        Call it in the main thread: the server is killed when the thread that started it ends.
        """
        if flags:
            self._flags = flags
        if self.api_server.is_running:
            self.api_server.stop()
        self.api_server = launch([*self._command, *self._flags], self.folder / "kube-apiserver.log")
        if ready:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until /readyz answers 200 to the administrator."""
        until(
            lambda: self._answers("/readyz"),
            within_s=READY_WITHIN_S,
            what="the API server is ready",
            server=self.api_server,
        )

    def stop(self) -> None:
        """Everything, etcd last; twice is allowed. Nothing is worth keeping, so nobody may drain for 20 s."""
        for server in (self.controller_manager, self.api_server, self.etcd):
            if server is not None:
                server.signal(signal.SIGCONT)
                server.stop()


class Refused(ServerError):
    """The API server answers with an error; the message is its whole answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _kubeconfig(url: str, authority: Path, user: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "test", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }


def existing(folder: Path, kubeconfig: Path | None = None) -> Cluster:
    """The cluster of the current context, with our kinds; by default that of KUBECONFIG or ~/.kube/config."""
    named = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    view = [built("kubectl") / "kubectl", "config", "view", "--minify", "--flatten", "--raw", "--output=json", *named]
    document = json.loads(subprocess.run(view, capture_output=True, text=True, timeout=30, check=True).stdout)
    server, user = document["clusters"][0]["cluster"], document["users"][0]["user"]

    def written(name: str, content: bytes) -> Path:
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
        return folder / name

    admin: Pair | str | None = user.get("token")
    if "client-certificate-data" in user:
        certificate, key = (base64.b64decode(user[f"client-{kind}-data"]) for kind in ("certificate", "key"))
        admin = Pair(written("admin.crt", certificate), written("admin.key", key))
    if admin is None or "certificate-authority-data" not in server:
        pytest.fail("USE_EXISTING_CLUSTER needs a context with its authority, and a client certificate or a token")
    written("server-ca.crt", base64.b64decode(server["certificate-authority-data"]))
    written("admin.kubeconfig", json.dumps(document).encode())
    cluster = Cluster(folder, server["server"].rstrip("/"), admin)
    cluster.apply_definitions()
    return cluster


@contextlib.contextmanager
def serving(folder: Path, *flags: str, controllers: bool = True, kinds: bool = True) -> Iterator[ControlPlane]:
    """A fresh control plane in `folder`, with our `kinds`; `flags` go to the API server."""
    found = binaries()
    for attempt in range(STARTS):
        place = folder / str(attempt)
        place.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            try:
                plane = _start(found, place, flags, stack, controllers=controllers)
            except ServerError as error:
                if _PORT_TAKEN in str(error) and attempt + 1 < STARTS:
                    continue
                raise
            stack.callback(plane.stop)
            if kinds:
                plane.apply_definitions()
            yield plane
            return


def _start(
    found: Path, folder: Path, flags: Sequence[str], stack: contextlib.ExitStack, *, controllers: bool
) -> ControlPlane:
    etcd_url, peer_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    etcd = launch(
        [
            str(found / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls={peer_url}",
            "--unsafe-no-fsync=true",
            "--logger=zap",
            "--log-level=error",
        ],
        folder / "etcd.log",
    )
    stack.callback(etcd.stop)
    until(lambda: _is_healthy(etcd_url), within_s=READY_WITHIN_S, what="etcd is healthy", server=etcd)

    server_authority, users = Authority(folder, "server-ca"), Authority(folder, "client-ca")
    server_authority.server("apiserver")  # the name that --cert-dir expects
    admin = users.user("admin", "admin", ("system:masters",))
    private, public = signing_key_pair(folder, "sa")
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    command = (
        str(found / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        f"--cert-dir={folder}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--client-ca-file={users.certificate}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
        "--disable-admission-plugins=ServiceAccount",
        f"--service-account-issuer={url}/",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
    )
    api_server = launch([*command, *flags], folder / "kube-apiserver.log")
    stack.callback(api_server.stop)
    plane = ControlPlane(folder, url, admin, etcd, api_server, None, command, users, tuple(flags))
    plane._write_kubeconfig("admin", {"client-certificate": str(admin.certificate), "client-key": str(admin.key)})
    plane.wait_until_ready()
    if controllers:
        plane.controller_manager = _controller_manager(found, plane)
        stack.callback(plane.controller_manager.stop)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        until(
            lambda: plane._answers(account),
            within_s=READY_WITHIN_S,
            what="the controllers work",
            server=plane.controller_manager,
        )
    return plane


def _controller_manager(found: Path, plane: ControlPlane) -> Server:
    return launch(
        [
            str(found / "kube-controller-manager"),
            f"--kubeconfig={plane.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={plane.folder / 'kube-controller-manager'}",
            f"--controllers={_CONTROLLERS}",
            "--use-service-account-credentials=false",
        ],
        plane.folder / "kube-controller-manager.log",
    )


def _is_healthy(etcd_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{etcd_url}/health", timeout=2) as answer:
            return json.load(answer).get("health") == "true"
    except (OSError, ValueError):
        return False


class NewKubernetes(Protocol):
    """Start one more control plane, with flags of its own; it is stopped after the test."""

    def __call__(self, *flags: str, controllers: bool = True, kinds: bool = True) -> ControlPlane: ...


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane for the whole run, with our kinds; stop nothing of it.

    With USE_EXISTING_CLUSTER=true, as controller-runtime's envtest has it, it is the cluster of the current context.
    """
    if os.environ.get("USE_EXISTING_CLUSTER", "").lower() in {"1", "t", "true"}:
        yield existing(tmp_path_factory.mktemp("kubernetes"))
        return
    with serving(tmp_path_factory.mktemp("kubernetes")) as plane:
        yield plane


@pytest.fixture
def new_kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewKubernetes]:
    """A function that starts control planes of the test's own, to be killed, paused and restarted."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, controllers: bool = True, kinds: bool = True) -> ControlPlane:
            folder = tmp_path_factory.mktemp("kubernetes")
            return stack.enter_context(serving(folder, *flags, controllers=controllers, kinds=kinds))

        yield start


@pytest.fixture
def namespace(kubernetes: Cluster) -> Iterator[str]:
    """A namespace of the test's own, with a random name; it is deleted after the test, without waiting."""
    name = new_namespace(kubernetes)
    yield name
    kubernetes.request("DELETE", f"/api/v1/namespaces/{name}")


def new_namespace(plane: Cluster) -> str:
    """Make a namespace with a random name."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    plane.request("POST", "/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}})
    return name
