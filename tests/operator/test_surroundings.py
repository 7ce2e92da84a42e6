"""What changed around a service, watched on the real API server; objects are written by hand, as controllers would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection
from functools import partial
from pathlib import Path
from typing import Any

from tests.app.hurried import until
from tests.operator import objects
from tests.servers.kubernetes import ControlPlane

from foreshock.app.clock import SystemClock
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.surroundings import ChangesSettings, ClusterSurroundings

_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "Event": "/api/v1/namespaces/{}/events",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Node": "/api/v1/nodes",
}


class Place:
    """A namespace in which a test writes."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    async def add(self, document: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, Any]:
        path = _PATHS[document["kind"]].format(self.namespace)
        if document["kind"] == "Event":
            document["involvedObject"]["namespace"] = self.namespace
        made = await asyncio.to_thread(self.plane.request, "POST", path, document)
        if status is not None:
            await self.set(made, {"status": status}, part="/status")
        return made

    async def set(self, document: dict[str, Any], change: dict[str, Any], *, part: str = "") -> None:
        kind = document.get("kind", "Pod")
        path = f"{_PATHS[kind].format(self.namespace)}/{document['metadata']['name']}{part}"
        merge = partial(self.plane.request, "PATCH", path, change, content_type="application/merge-patch+json")
        await asyncio.to_thread(merge)

    async def remove(self, document: dict[str, Any]) -> None:
        path = f"{_PATHS[document['kind']].format(self.namespace)}/{document['metadata']['name']}"
        await asyncio.to_thread(self.plane.request, "DELETE", path, {"gracePeriodSeconds": 0})


@contextlib.asynccontextmanager
async def looking(
    plane: ControlPlane,
    wanted: Collection[str],
    *,
    kubeconfig: Path | None = None,
    settings: ChangesSettings | None = None,
    complete: bool = True,
) -> AsyncIterator[ClusterSurroundings]:
    async with ApiServer(load_kubeconfig(kubeconfig or plane.kubeconfig), timeout_s=5) as api:
        seen = ClusterSurroundings(api, SystemClock(), lambda: wanted, settings or ChangesSettings())
        task = asyncio.create_task(seen.run())
        try:
            if complete:
                place = next(iter(wanted))
                await until(lambda: not any("Not known" in each for each in said(seen, place)))
            yield seen
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def said(seen: ClusterSurroundings, namespace: str, service: str = "checkout") -> tuple[str, ...]:
    return seen.changes(namespace, service, onset_s=time.time())


async def until_said(seen: ClusterSurroundings, namespace: str, words: str) -> str:
    """The sentence with these words, once it is there."""
    await until(lambda: any(words in each for each in said(seen, namespace)))
    return next(each for each in said(seen, namespace) if words in each)


async def test_what_was_before_the_operator_came_is_known(kubernetes: ControlPlane, namespace: str) -> None:
    """ReplicaSets, last states, Events and nodes remember: a new leader tells of what happened before it led."""
    place, now_s = Place(kubernetes, namespace), time.time()
    await place.add(objects.service(app="checkout"))
    owner = await place.add(objects.workload(image="shop/checkout:1.4.2"))
    await place.add(objects.replica_set(12, owner))
    await place.add(objects.replica_set(13, owner, image="shop/checkout:1.4.2", memory="256Mi"))
    node = objects.node(f"worker-{namespace}", ready=False, since_s=now_s - 900)
    await place.add(node, node["status"])
    one = objects.pod("checkout-h13-a", node=node["metadata"]["name"])
    await place.add(one, objects.ended(now_s - 240, restarts=3))
    await place.add(objects.warning("checkout-h13-gone", now_s - 120))
    await place.add(objects.pod("other-a", app="other"), objects.ended(now_s - 240))
    try:
        async with looking(kubernetes, {namespace}) as seen:
            found = said(seen, namespace)
    finally:
        await place.remove(node)
    wanted = [
        "rolled out revision 13: image shop/checkout from 1.4.1 to 1.4.2; memory limit of app from no limit to 256Mi",
        "2 minutes before: Warning BackOff 4 times in pod checkout-h13-gone: Back-off restarting failed container",
        "4 minutes before: container app was OOM-killed in pod checkout-h13-a",
        f"15 minutes before: node worker-{namespace} (with 1 of the pods) is not Ready since then",
    ]
    assert [words for words in wanted if not any(words in each for each in found)] == [], found
    assert not any("other-a" in each for each in found)


async def test_what_no_object_remembers_is_noted_as_it_happens(kubernetes: ControlPlane, namespace: str) -> None:
    """Scaling, a StatefulSet's new configuration and a kill in a pod that is gone by now."""
    place = Place(kubernetes, namespace)
    deployment = await place.add(objects.workload(replicas=3))
    database = await place.add(objects.workload("StatefulSet", "store", annotations={"checksum/config": "a"}))
    one = await place.add(objects.pod("checkout-h1-a"))
    async with looking(kubernetes, {namespace}) as seen:
        await place.set(deployment, {"spec": {"replicas": 5}})
        assert "Deployment checkout was scaled from 3 to 5 replicas" in await until_said(seen, namespace, "scaled")
        annotations = {"metadata": {"annotations": {"checksum/config": "b"}}}
        await place.set(database, {"spec": {"template": annotations}})
        assert "StatefulSet store rolled out: checksum/config changed" in await until_said(seen, namespace, "store")
        await place.set(one, {"status": objects.ended(time.time(), restarts=2)}, part="/status")
        await until_said(seen, namespace, "OOM-killed")
        await place.remove({**one, "kind": "Pod"})
        await until(lambda: not seen._kinds_of(namespace)[_pods()].objects)  # type: ignore[union-attr]
        assert "container app was OOM-killed" in await until_said(seen, namespace, "OOM-killed")


def _pods() -> Any:
    from foreshock.operator.cluster import PODS

    return PODS


async def test_config_maps_are_followed_by_their_version_alone(kubernetes: ControlPlane, namespace: str) -> None:
    """Behind its switch a change of a ConfigMap that the service refers to is said; nothing of its content is held."""
    place = Place(kubernetes, namespace)
    await place.add(objects.workload(refers_to="settings"))
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"k": "content-1"}}
    made = await place.add(document)
    other = await place.add({**document, "metadata": {"name": "others"}})
    async with looking(kubernetes, {namespace}, settings=ChangesSettings(config_maps=True)) as seen:
        for each in (made, other):
            await place.set({**each, "kind": "ConfigMap"}, {"data": {"k": "content-2"}})
        assert "ConfigMap settings was changed" in await until_said(seen, namespace, "ConfigMap")
        assert not any("others" in each for each in said(seen, namespace))
        assert "content" not in repr(seen._noted)


async def test_what_may_not_be_read_is_unknown_and_said_so(kubernetes: ControlPlane, namespace: str) -> None:
    """An account that may read pods alone: the rest is named as unknown, and nothing breaks."""
    place, user = Place(kubernetes, namespace), f"looker-{namespace}"
    kubeconfig = kubernetes.user(user)
    run = kubernetes.kubectl
    run("create", "role", "pods", "--verb=list,watch", "--resource=pods", "-n", namespace)
    run("create", "rolebinding", "pods", "--role=pods", f"--user={user}", "-n", namespace)
    await place.add(objects.pod("checkout-h1-a"), objects.ended(time.time() - 60))
    async with looking(kubernetes, {namespace}, kubeconfig=kubeconfig, complete=False) as seen:
        await until(lambda: len(said(seen, namespace)) == 2 and "pods" not in said(seen, namespace)[1])
        killed, unknown = said(seen, namespace)
        await until(lambda: sum(each.startswith("refused") for each in seen._said) == 8)
    assert "OOM-killed" in killed
    assert unknown == (
        "Not known, since they could not be read: daemonsets, deployments, events, horizontalpodautoscalers, nodes, "
        "replicasets, services, statefulsets"
    )
