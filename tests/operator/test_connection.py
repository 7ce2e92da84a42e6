"""The connection to a real API server: tokens and certificates that rotate, kubeconfigs that are none."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from tests.operator.test_api import name_of, with_token_file
from tests.servers.kubernetes import ControlPlane

from foreshock.core.errors import InvalidSettings, KubernetesUnavailable
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import READ_AGAIN_EVERY_S, Connection, TokenFile, load_kubeconfig


async def test_a_rotated_token_is_used_with_the_next_request(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Row 29: the connection stays, the token file changes, and the API server sees the new one at once."""
    first, second = (kubernetes.token(namespace, name, ttl_s=600) for name in ("first", "second"))
    kubeconfig, file = with_token_file(kubernetes, tmp_path, first)
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        assert await name_of(api) == f"system:serviceaccount:{namespace}:first"
        fresh = tmp_path / "fresh"
        fresh.write_text(second)
        fresh.rename(file)  # as the kubelet does
        assert await name_of(api) == f"system:serviceaccount:{namespace}:second"


async def test_a_token_that_is_no_longer_valid_may_be_well_again(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Row 29: 401 is an outage and no end: the request works as soon as the file holds a valid token."""
    kubeconfig, file = with_token_file(kubernetes, tmp_path, kubernetes.token(namespace, "robot"))
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        file.write_text("revoked")
        with pytest.raises(KubernetesUnavailable, match="answered 401") as caught:
            await name_of(api)
        assert caught.value.retryable
        file.write_text(kubernetes.token(namespace, "robot") + "\n")
        assert await name_of(api) == f"system:serviceaccount:{namespace}:robot"
        file.unlink()
        with pytest.raises(KubernetesUnavailable, match="mount the service account's token"):
            await name_of(api)


async def test_a_token_that_is_refused_is_read_again_at_once(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Row 29: where the file system hides the change, 401 is reason enough: the very request succeeds."""
    token = kubernetes.token(namespace, "robot", ttl_s=600)
    kubeconfig, file = with_token_file(kubernetes, tmp_path, "x" * len(token))
    stamp = file.stat()
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        with pytest.raises(KubernetesUnavailable, match="answered 401"):
            await name_of(api)
        file.write_text("y" * len(token))
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with pytest.raises(KubernetesUnavailable, match="answered 401"):
            await name_of(api)
        file.write_text(token)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert await name_of(api) == f"system:serviceaccount:{namespace}:robot"


def test_a_token_is_read_once_a_minute_whatever_the_file_says_of_itself(tmp_path: Path) -> None:
    """A file system that shows no change of a mounted secret delays a rotation by a minute, and no more."""
    file, now_s = tmp_path / "token", 1000.0
    file.write_text("first")
    stamp = file.stat()
    auth = TokenFile(file, monotonic_s=lambda: now_s)

    def sent() -> str:
        request = next(auth.auth_flow(httpx2.Request("GET", "https://127.0.0.1/")))
        return request.headers["Authorization"]

    assert sent() == "Bearer first"
    file.write_text("other")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    now_s += READ_AGAIN_EVERY_S - 1
    assert sent() == "Bearer first"
    now_s += 1
    assert sent() == "Bearer other"


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[]", "clusters: [", "kind: Config", "clusters: 3\nusers: 4\ncontexts: 5"]
)
def test_a_kubeconfig_that_cannot_be_used_is_one_problem(tmp_path: Path, text: str | None) -> None:
    """It says which option to use, and never a traceback."""
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidSettings, match="There is no usable kubeconfig"):
        load_kubeconfig(file)


def _in_files(plane: ControlPlane, folder: Path, name: str) -> Path:
    """A kubeconfig that names files in its own folder, with the certificate of `name`: what a rotation replaces."""
    user = json.loads(plane.user(name).read_text())["users"][0]["user"]
    for kind in ("client-certificate", "client-key"):
        fresh = folder / f"{kind}.fresh"
        fresh.write_bytes(Path(user[kind]).read_bytes())
        fresh.rename(folder / kind)
    document = json.loads(plane.kubeconfig.read_text())
    document["users"][0]["user"] = {"client-certificate": "client-certificate", "client-key": "client-key"}
    (folder / "kubeconfig").write_text(json.dumps(document))
    return folder / "kubeconfig"


def _inline(plane: ControlPlane, folder: Path, name: str) -> Path:
    """A kubeconfig with the certificate inside, as most commands that renew one write it."""
    user = json.loads(plane.user(name).read_text())["users"][0]["user"]
    document = json.loads(plane.kubeconfig.read_text())
    document["users"][0]["user"] = {
        f"{kind}-data": base64.b64encode(Path(user[kind]).read_bytes()).decode()
        for kind in ("client-certificate", "client-key")
    }
    (folder / "fresh").write_text(json.dumps(document))
    (folder / "fresh").rename(folder / "kubeconfig")
    return folder / "kubeconfig"


@pytest.mark.parametrize("write", [_in_files, _inline])
async def test_a_rotated_certificate_is_shown_with_the_next_request(
    kubernetes: ControlPlane, tmp_path: Path, write: Callable[[ControlPlane, Path, str], Path]
) -> None:
    """Row 29: a connection that is open and in use shows the old one until it ends; whatever begins, the new one."""
    async with ApiServer(load_kubeconfig(write(kubernetes, tmp_path, "old"))) as api:
        assert await name_of(api) == "old"
        async with api._connection.use() as (held, _):
            write(kubernetes, tmp_path, "new")
            assert await name_of(api) == "new"
            assert not held.is_closed
        assert held.is_closed


async def test_half_of_a_rotation_changes_nothing(kubernetes: ControlPlane, tmp_path: Path) -> None:
    """A new certificate beside the old key, and a kubeconfig that is cut off: what was read before goes on."""
    kubeconfig = _in_files(kubernetes, tmp_path, "old")
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        key, whole = (tmp_path / "client-key").read_bytes(), kubeconfig.read_text()
        _in_files(kubernetes, tmp_path, "new")
        (tmp_path / "new-key").write_bytes((tmp_path / "client-key").read_bytes())
        (tmp_path / "client-key").write_bytes(key)
        assert await name_of(api) == "old"
        kubeconfig.write_text(whole[: len(whole) // 2])
        assert await name_of(api) == "old"
        kubeconfig.write_text(whole)
        (tmp_path / "new-key").rename(tmp_path / "client-key")
        assert await name_of(api) == "new"


async def test_a_login_that_is_refused_is_read_again_at_once(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A kubeconfig whose change its file system hides: 401 is reason enough to read it, and the request succeeds."""
    kubeconfig = tmp_path / "kubeconfig"
    token = kubernetes.token(namespace, "robot", ttl_s=600)
    document = json.loads(kubernetes.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": "x" * len(token)}
    kubeconfig.write_text(json.dumps(document))
    stamp = kubeconfig.stat()
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        with pytest.raises(KubernetesUnavailable, match="answered 401"):
            await name_of(api)
        kubeconfig.write_text(kubeconfig.read_text().replace("x" * len(token), token))
        os.utime(kubeconfig, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert await name_of(api) == f"system:serviceaccount:{namespace}:robot"


async def test_files_are_read_once_a_minute_whatever_they_show(kubernetes: ControlPlane, tmp_path: Path) -> None:
    """A rotation that a file system hides is seen after a minute."""
    now_s = 1000.0
    kubeconfig = _inline(kubernetes, tmp_path, "old")
    connection = Connection(load_kubeconfig(kubeconfig), monotonic_s=lambda: now_s)
    stamp = kubeconfig.stat()
    other = tmp_path / "other"
    other.mkdir()
    kubeconfig.write_text(_inline(kubernetes, other, "new").read_text())
    os.utime(kubeconfig, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    try:
        now_s += READ_AGAIN_EVERY_S - 1
        assert not await connection.renew()
        now_s += 1
        assert await connection.renew()
        assert not await connection.renew()
    finally:
        await connection.close()
