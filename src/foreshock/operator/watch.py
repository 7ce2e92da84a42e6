"""A small reflector: lists in pages, watches with bookmarks, and knows what exists as well as the API server said it.

What cannot be learnt is "unknown": 403, 404, 429, 5xx, a refused or a silent connection change nothing that is known.
Objects leave when a complete list lacks them or a watch reports their end, and then only while the API server still
serves their kind for writing: a kind that is being removed takes its objects with it, and nobody meant them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, KubernetesRefused, KubernetesUnavailable

PAGE = 500
WATCH_S = (240, 300)  # the server ends each watch after a random time in between, so that replicas do not agree
BACK_OFF_S = (0.5, 60.0)
CONFIRM_AFTER_S = 1.0  # how long an end waits for the second look
GONE, FORBIDDEN, NOT_FOUND = 410, 403, 404
_SETTLED_LINES = 200  # after so many lines others get a turn

Key = tuple[str, str]  # namespace, name
T = TypeVar("T")


class Requests(Protocol):
    """The port to the API server."""

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *,
        params: Mapping[str, str | int] | None = None, timeout_s: float | None = None, accept: str = "",
    ) -> dict[str, Any]: ...  # fmt: skip

    def lines(self, path: str, params: Mapping[str, str | int], *, accept: str = "") -> Any: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of the API: `/apis/<group>/<version>` and its plural."""

    name: str
    base: str
    plural: str
    is_built_in: bool = False  # no definition of it can be deleted, so that what is gone was meant to go
    query: tuple[tuple[str, str], ...] = ()  # which objects are wanted
    is_metadata_only: bool = False  # nothing else of its objects crosses the wire

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Where its objects are, or one of them."""
        path = (
            f"{self.base}/{self.plural}" if namespace is None else f"{self.base}/namespaces/{namespace}/{self.plural}"
        )
        return path if name is None else f"{path}/{name}"

    def accept(self, suffix: str = "") -> str:
        """The form in which its objects, or a list of them, are asked for; empty for the usual one."""
        if not self.is_metadata_only:
            return ""
        return f"application/json;as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Heard(Generic[T]):
    """Who wants to know: `put` for new and changed objects, `gone` for those that exist no more."""

    put: Callable[[Key, T], None]
    gone: Callable[[Key, T], None]
    relisted: Callable[[str, str], None] = lambda kind, reason: None  # noqa: ARG005
    changed: Callable[[str, int], None] = lambda kind, count: None  # noqa: ARG005
    trouble: Callable[[str, ForeshockError], None] = lambda kind, error: None  # noqa: ARG005


class Reflector(Generic[T]):
    """Keeps `objects` equal to what the API server holds; `trim` keeps of each object only what is needed."""

    def __init__(
        self,
        api: Requests,
        kind: Kind,
        trim: Callable[[dict[str, Any]], T],
        heard: Heard[T],
        clock: Clock,
        *,
        namespaces: tuple[str, ...] = (),
        jitter: random.Random | None = None,
    ) -> None:
        self.kind, self.objects = kind, dict[Key, T]()
        self._heard = heard
        self._scopes = [
            _Scope(self, api, trim, clock, namespace, jitter or random.Random())  # noqa: S311 - no secret
            for namespace in (namespaces or (None,))
        ]

    @property
    def is_complete(self) -> bool:
        """Whether every namespace that is watched was listed to its end once."""
        return all(scope.is_complete for scope in self._scopes)

    async def run(self) -> None:
        """List and watch until cancelled; no answer of the API server ends it."""
        async with asyncio.TaskGroup() as tasks:
            for scope in self._scopes:
                tasks.create_task(scope.run())
                tasks.create_task(scope.confirm())

    def put(self, key: Key, trimmed: T) -> None:
        """Note a new or changed object."""
        if self.objects.get(key) != trimmed:
            self.objects[key] = trimmed
            self._heard.put(key, trimmed)

    def drop(self, key: Key) -> None:
        """Note that an object exists no more."""
        last = self.objects.pop(key, None)
        if last is not None:
            self._heard.gone(key, last)

    def relisted(self, reason: str) -> None:
        self._heard.relisted(self.kind.name, reason)

    def counted(self, count: int) -> None:
        self._heard.changed(self.kind.name, count)

    def trouble(self, error: ForeshockError) -> None:
        self._heard.trouble(self.kind.name, error)


class _Expired(Exception):
    """The API server does not know this resource version any more: only a new list helps."""


@dataclass(slots=True)
class _Scope(Generic[T]):
    """One namespace, or all of them."""

    owner: Reflector[T]
    api: Requests
    trim: Callable[[dict[str, Any]], T]
    clock: Clock
    namespace: str | None
    jitter: random.Random
    is_complete: bool = False
    _version: str | None = None
    _failures: int = 0
    _doubted: dict[Key, int] = field(default_factory=dict)  # reported as gone; the event's number, to be overruled
    _events: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        why = "start"
        while True:
            try:
                if self._version is None:
                    self.owner.relisted(why)
                    self._version = await self._list()
                    self._failures = 0
                await self._watch(self._version)
            except _Expired:
                self._version, why = None, "expired"
                await self.clock.sleep(self.jitter.uniform(0.0, 0.5))
            except KubernetesRefused as error:
                # forbidden, or the kind is not served: what comes after it must be learnt from the beginning
                self._version, why = None, "refused"
                await self._back_off(error)
            except KubernetesUnavailable as error:
                why = "unavailable"
                await self._back_off(error)

    async def confirm(self) -> None:
        """Take what was reported as gone out, once it is sure that its kind is there to stay."""
        while True:
            await self._news.wait()
            await self.clock.sleep(CONFIRM_AFTER_S)
            self._news.clear()
            doubted, self._doubted = self._doubted, {}
            try:
                served = await self._is_served()
            except ForeshockError as error:
                self.owner.trouble(error)
                self._doubted = doubted | self._doubted
                self._news.set()
                continue
            if served:
                for key in doubted:
                    self.owner.drop(key)
            else:  # a complete list decides, once the kind is served again
                self._version = None

    async def _list(self) -> str:
        """All pages, or an exception: what a list that broke off did not name may well exist."""
        seen: set[Key] = set()
        version, token = await self._page("", seen)
        while token:
            await asyncio.sleep(0)
            version, token = await self._page(token, seen)
        for key in [key for key in self.owner.objects if self._is_mine(key) and key not in seen]:
            self._doubt(key)
        for key in seen:
            self._doubted.pop(key, None)
        self.is_complete = True
        return version

    async def _page(self, token: str, seen: set[Key]) -> tuple[str, str]:
        """The version of the list and the token of the next page; of this page nothing is left but what was trimmed.

        Five hundred documents take ten megabytes: two pages at a time are what an outage would cost at its end.
        """
        kind = self.owner.kind
        params: dict[str, str | int] = {"limit": PAGE, **dict(kind.query)}
        if token:
            params["continue"] = token
        try:
            page = await self.api.request("GET", kind.path(self.namespace), params=params, accept=kind.accept("List"))
        except KubernetesRefused as error:
            if error.status == GONE:  # between two pages
                raise _Expired from error
            raise
        for key, document in _items(page):
            seen.add(key)
            self.owner.put(key, self.trim(document))
        metadata = page.get("metadata", {})
        return str(metadata.get("resourceVersion", "")), str(metadata.get("continue") or "")

    async def _watch(self, version: str) -> None:
        """Follow the changes until the server ends the watch, which it does every few minutes."""
        params: dict[str, str | int] = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
            "timeoutSeconds": self.jitter.randint(*WATCH_S), **dict(self.owner.kind.query),
        }  # fmt: skip
        kind = self.owner.kind
        async with self.api.lines(kind.path(self.namespace), params, accept=kind.accept()) as lines:
            count = 0
            async for line in lines:
                if line:
                    self._take(line)
                    self._failures = 0
                count += 1
                if count % _SETTLED_LINES == 0:
                    await asyncio.sleep(0)

    def _take(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind, document = event["type"], event["object"]
            if kind == "ERROR":
                raise _refusal(document)
            metadata = document["metadata"]
            version = str(metadata["resourceVersion"])
        except (ValueError, KeyError, TypeError) as error:
            raise KubernetesUnavailable("A watch was cut in the middle of a line.") from error
        if kind != "BOOKMARK":
            self.owner.counted(1)
            key = (str(metadata.get("namespace", "")), str(metadata["name"]))
            if kind == "DELETED":
                self._doubt(key)
            else:
                self._doubted.pop(key, None)
                self.owner.put(key, self.trim(document))
        self._version = version

    def _doubt(self, key: Key) -> None:
        if key in self.owner.objects:
            self._doubted[key] = self._events = self._events + 1
            self._news.set()

    def _is_mine(self, key: Key) -> bool:
        return self.namespace is None or key[0] == self.namespace

    async def _is_served(self) -> bool:
        """Whether objects of the kind could be created now: not while its definition is gone or going."""
        kind = self.owner.kind
        if kind.is_built_in:
            return True
        try:
            found = await self.api.request("GET", kind.base)
        except KubernetesRefused as error:
            if error.status == NOT_FOUND:
                return False
            raise
        verbs = next(
            (each.get("verbs", ()) for each in found.get("resources", ()) if each.get("name") == kind.plural), ()
        )
        return "create" in verbs

    async def _back_off(self, error: KubernetesRefused | KubernetesUnavailable) -> None:
        """Full jitter up to 0.5, 1, 2, ... 60 s, and never sooner than the server asked for."""
        self.owner.trouble(error)
        self._failures += 1
        low, high = BACK_OFF_S
        pause_s = self.jitter.uniform(low / 2, min(high, low * 2.0 ** min(self._failures, 10)))
        asked_s = error.retry_after_s if isinstance(error, KubernetesUnavailable) else None
        await self.clock.sleep(max(pause_s, min(asked_s or 0.0, 3_600.0)))


def _items(page: Mapping[str, Any]) -> Iterator[tuple[Key, dict[str, Any]]]:
    for document in page.get("items") or ():
        metadata = document.get("metadata", {})
        yield (str(metadata.get("namespace", "")), str(metadata.get("name", ""))), document


def _refusal(status: Mapping[str, Any]) -> Exception:
    code = int(status.get("code") or 0)
    if code == GONE:
        return _Expired()
    message = f"The watch ended with {code}: {str(status.get('message', ''))[:500]}"
    if code in {FORBIDDEN, NOT_FOUND}:
        return KubernetesRefused(message, status=code)
    return KubernetesUnavailable(message)
