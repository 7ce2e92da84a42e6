"""The reflector on a real API server: complete, up to date, and never wrong about what it could not learn."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.app.hurried import until
from tests.servers.kubernetes import ControlPlane, new_namespace, serving

from foreshock.app.clock import SystemClock
from foreshock.core.errors import ForeshockError
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.watch import Heard, Key, Kind, Reflector

CONFIG_MAPS = Kind("ConfigMap", "/api/v1", "configmaps")
WIDGETS = Kind("Widget", "/apis/test.example.org/v1", "widgets")
OURS = {"owner": "test"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane of this module, to be killed and paused."""
    with serving(tmp_path_factory.mktemp("kubernetes"), "--min-request-timeout=5", controllers=False) as started:
        yield started


class Listener:
    """A reflector of one namespace, and all that it said."""

    def __init__(self, api: ApiServer, kind: Kind, namespace: str) -> None:
        self.put: list[Key] = []
        self.gone: list[Key] = []
        self.relists: list[str] = []
        self.troubles: list[ForeshockError] = []
        heard = Heard(
            put=lambda key, _: self.put.append(key),
            gone=lambda key, _: self.gone.append(key),
            relisted=lambda _, reason: self.relists.append(reason),
            trouble=lambda _, error: self.troubles.append(error),
        )
        self.reflector = Reflector(api, kind, _version, heard, SystemClock(), namespaces=(namespace,))

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.reflector.objects}


def _version(document: dict[str, Any]) -> str:
    return str(document["metadata"]["resourceVersion"])


@contextlib.asynccontextmanager
async def listening(
    plane: ControlPlane,
    namespace: str,
    kind: Kind = CONFIG_MAPS,
    *,
    kubeconfig: Path | None = None,
    silence_s: float = 90,
) -> AsyncIterator[Listener]:
    async with ApiServer(load_kubeconfig(kubeconfig or plane.kubeconfig), timeout_s=3, silence_s=silence_s) as api:
        listener = Listener(api, kind, namespace)
        task = asyncio.create_task(listener.reflector.run())
        try:
            yield listener
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _create(plane: ControlPlane, namespace: str, *names: str, kind: Kind = CONFIG_MAPS) -> None:
    version = "v1" if kind is CONFIG_MAPS else kind.base.removeprefix("/apis/")
    for name in names:
        document = {"apiVersion": version, "kind": kind.name, "metadata": {"name": name}}
        await asyncio.to_thread(plane.request, "POST", kind.path(namespace), document)


async def _delete(plane: ControlPlane, namespace: str, *names: str, kind: Kind = CONFIG_MAPS) -> None:
    for name in names:
        await asyncio.to_thread(plane.request, "DELETE", kind.path(namespace, name))


async def test_it_follows_what_is_created_changed_and_deleted(plane: ControlPlane) -> None:
    """More objects than a page are all there, and each change arrives without a second list."""
    namespace = new_namespace(plane)
    names = [f"n{number:03}" for number in range(6)]
    await _create(plane, namespace, *names)
    async with listening(plane, namespace) as listener:
        await until(lambda: listener.reflector.is_complete)
        assert listener.names >= set(names)
        await _create(plane, namespace, "new")
        await _delete(plane, namespace, "n000")
        await until(lambda: "new" in listener.names and "n000" not in listener.names)
        assert listener.gone == [(namespace, "n000")]
        assert listener.relists == ["start"]


async def test_what_was_deleted_during_a_410_is_noticed(plane: ControlPlane) -> None:
    """An expired resource version ends the watch in its stream: it lists again and drops what is not there any more."""
    namespace = new_namespace(plane)
    await _create(plane, namespace, "stays")
    plane.restart()  # its watch cache begins now: it knows nothing of what was before
    async with ApiServer(load_kubeconfig(plane.kubeconfig)) as api:
        listener = Listener(api, CONFIG_MAPS, namespace)
        (scope,) = listener.reflector._scopes
        listener.reflector.objects[namespace, "ghost"] = "1"  # as it was before a long silence
        scope._version, scope.is_complete = "1", True
        task = asyncio.create_task(listener.reflector.run())
        try:
            await until(lambda: listener.names == {"stays"})
        finally:
            task.cancel()
        assert listener.relists == ["expired"]
        assert listener.gone == [(namespace, "ghost")]


async def test_sigkill_of_the_api_server_changes_nothing_that_is_known(plane: ControlPlane) -> None:
    """While nobody answers everything stays; afterwards a deletion that happened at once is noticed."""
    namespace = new_namespace(plane)
    await _create(plane, namespace, "stays", "goes")
    async with listening(plane, namespace) as listener:
        await until(lambda: listener.reflector.is_complete)
        plane.kill()
        await until(lambda: len(listener.troubles) >= 2)
        assert listener.names == {"stays", "goes"}
        plane.restart()
        await _delete(plane, namespace, "goes")
        await until(lambda: listener.names == {"stays"})
        assert listener.gone == [(namespace, "goes")]


async def test_a_server_that_falls_silent_is_left_and_found_again(plane: ControlPlane) -> None:
    """A hung server ends no connection: silence does, and what changed meanwhile arrives."""
    namespace = new_namespace(plane)
    await _create(plane, namespace, "stays")
    async with listening(plane, namespace, silence_s=1.5) as listener:
        await until(lambda: listener.reflector.is_complete)
        with plane.paused():
            await until(lambda: len(listener.troubles) >= 1)
            assert listener.names == {"stays"}
        await _create(plane, namespace, "new")
        await until(lambda: listener.names == {"stays", "new"})


async def test_forbidden_is_unknown_and_not_gone(plane: ControlPlane) -> None:
    """RBAC that is taken away for a while takes no object away; given back, the watch goes on."""
    namespace = new_namespace(plane)
    await _create(plane, namespace, "stays")
    user = plane.user("watcher")
    role = ["create", "role", "watcher", "--verb=get,list,watch", "--resource=configmaps", "-n", namespace]
    grant = ["create", "rolebinding", "watcher", "--role=watcher", "--user=watcher", "-n", namespace]
    await asyncio.to_thread(plane.kubectl, *role)
    await asyncio.to_thread(plane.kubectl, *grant)
    async with listening(plane, namespace, kubeconfig=user, silence_s=1.0) as listener:
        await until(lambda: listener.reflector.is_complete)
        await asyncio.to_thread(plane.kubectl, "delete", "rolebinding", "watcher", "-n", namespace)
        await until(lambda: any("403" in str(error) for error in listener.troubles))
        assert listener.names == {"stays"}
        await asyncio.to_thread(plane.kubectl, *grant)
        await _create(plane, namespace, "new")
        await until(lambda: listener.names == {"stays", "new"})
        assert listener.gone == []


async def test_a_kind_that_is_removed_takes_nothing_with_it(plane: ControlPlane) -> None:
    """Deleting the definition deletes its objects, which nobody meant: they stay until the kind is served again."""
    namespace = new_namespace(plane)
    await asyncio.to_thread(_define, plane)
    await _create(plane, namespace, "known", kind=WIDGETS)
    async with listening(plane, namespace, WIDGETS, silence_s=2.0) as listener:
        await until(lambda: listener.names == {"known"})
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.example.org"
        await asyncio.to_thread(plane.request, "DELETE", path)
        await until(lambda: any("404" in str(error) for error in listener.troubles), within_s=90)
        assert listener.names == {"known"}
        await asyncio.to_thread(_define, plane)
        await _create(plane, namespace, "new", kind=WIDGETS)
        await until(lambda: listener.names == {"new"}, within_s=90)


def _define(plane: ControlPlane) -> None:
    """The definition of a kind, served when this returns."""
    version = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}},
    }  # fmt: skip
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.example.org"},
        "spec": {
            "group": "test.example.org", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        },
    }  # fmt: skip
    _until(
        lambda: _ok(
            lambda: plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        )
    )
    _until(lambda: _ok(lambda: plane.request("GET", WIDGETS.path("default"))))


def _ok(call: Callable[[], object]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001 - not yet
        return False
    return True


def _until(what: Callable[[], bool], within_s: float = 60) -> None:
    ends_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends_s
        time.sleep(0.1)


class Pages:
    """The port to an API server of three pages, which looks at how many of them somebody still holds."""

    class Page(dict[str, Any]):
        """A page that can be watched."""

        __hash__ = object.__hash__

    def __init__(self) -> None:
        self.alive = weakref.WeakSet[Pages.Page]()
        self.most = 0

    async def request(self, _method: str, _path: str, *, params: dict[str, str | int], **_: object) -> dict[str, Any]:
        self.most = max(self.most, len(self.alive))
        number = int(params.get("continue", 0))
        items = [{"metadata": {"name": f"{number}-{each}", "resourceVersion": "1"}} for each in range(3)]
        page = Pages.Page(
            items=items, metadata={"resourceVersion": "7", "continue": str(number + 1) if number < 2 else ""}
        )
        self.alive.add(page)
        return page


async def test_one_page_is_in_memory_at_a_time() -> None:
    """When the next page is asked for nobody holds the one before: a list of everything costs no more than a page."""
    pages = Pages()
    reflector = Reflector(pages, CONFIG_MAPS, _version, Heard(lambda *_: None, lambda *_: None), SystemClock())
    assert await reflector._scopes[0]._list() == "7"
    assert len(reflector.objects) == 9
    assert pages.most == 0
