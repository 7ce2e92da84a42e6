"""Requests to a real API server: tokens that rotate, refusals and outages, each an error of ours."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.servers.kubernetes import ControlPlane, NewKubernetes

from foreshock.core.errors import KubernetesRefused, KubernetesUnavailable
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig

WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


def with_token_file(plane: ControlPlane, folder: Path, token: str) -> tuple[Path, Path]:
    """A kubeconfig whose user has a token in a file, as a pod has: (kubeconfig, file)."""
    file, kubeconfig = folder / "token", folder / "kubeconfig"
    file.write_text(token)
    document = json.loads(plane.kubeconfig.read_text())
    document["users"][0]["user"] = {"tokenFile": str(file)}
    kubeconfig.write_text(json.dumps(document))
    return kubeconfig, file


async def name_of(api: ApiServer) -> str:
    answer = await api.request("POST", WHO_AM_I, REVIEW)
    return str(answer["status"]["userInfo"]["username"])


async def test_what_a_role_does_not_allow_is_refused_for_good(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """403 and 404 are refusals with the API server's own words, and nobody takes them for an empty list."""
    kubeconfig, _ = with_token_file(kubernetes, tmp_path, kubernetes.token(namespace, "robot"))
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        with pytest.raises(KubernetesRefused, match=r"answered 403 .* cannot list resource") as forbidden:
            await api.request("GET", f"/apis/devopsroles.com/v1/namespaces/{namespace}/anomalydetectors")
        assert (forbidden.value.status, forbidden.value.retryable) == (403, False)
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        with pytest.raises(KubernetesRefused, match="answered 404") as missing:
            await api.request("GET", "/apis/devopsroles.com/v2/anomalydetectors")
        assert missing.value.status == 404


async def test_an_outage_is_unavailable_and_over_when_the_server_is_back(new_kubernetes: NewKubernetes) -> None:
    """Hung: within the time-out. Crashed: at once. The same object goes on afterwards."""
    plane = new_kubernetes(controllers=False, kinds=False)
    async with ApiServer(load_kubeconfig(plane.kubeconfig), timeout_s=1.0) as api:
        assert await name_of(api) == "admin"
        with plane.paused(), pytest.raises(KubernetesUnavailable, match="did not answer in time"):
            await name_of(api)
        plane.kill()
        with pytest.raises(KubernetesUnavailable, match="cannot be reached"):
            await name_of(api)
        plane.restart()
        assert await name_of(api) == "admin"


async def test_a_server_without_room_is_unavailable(new_kubernetes: NewKubernetes) -> None:
    """Row 13: 429 is tried again, after the time that the server asks for."""
    plane = new_kubernetes(
        "--max-requests-inflight=1", "--max-mutating-requests-inflight=1", "--enable-priority-and-fairness=false",
        controllers=False, kinds=False,
    )  # fmt: skip
    user = plane.user("crowd")  # who is in system:masters is never turned away
    seen: list[KubernetesUnavailable] = []
    async with ApiServer(load_kubeconfig(user)) as api:

        async def ask() -> None:
            try:
                await name_of(api)
            except KubernetesUnavailable as error:
                seen.append(error)

        async def crowd() -> bool:
            await asyncio.gather(*(ask() for _ in range(32)))
            return bool(seen)

        for _ in range(20):
            if await crowd():
                break
        assert seen
        assert "answered 429" in str(seen[0])
        assert seen[0].retry_after_s == 1.0
