"""Kubernetes Events: one for each detector and reason, repeats counted, never more than people can read.

A refused Event (a quota, RBAC, an API server that is away) is counted and forgotten: nothing waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, KubernetesRefused
from foreshock.manifests.detector import API_VERSION
from foreshock.operator.reconcile import Said
from foreshock.operator.resources import DETECTORS, EVENTS, Seen, event_name, event_of
from foreshock.operator.watch import Requests

BURST = 10  # events of one detector at once
REFILL_S = 300.0  # one more every five minutes, as client-go's spam filter
MOST_WAITING = 1_000
_MOST_REMEMBERED = 20_000
_CONFLICT, _NOT_FOUND = 409, 404


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


@dataclass(slots=True)
class _Written:
    count: int
    first_s: float


class IncidentEvents:
    """What the sink `kubernetes_event` writes to: an Event about a detector, each under a name of its own."""

    def __init__(self, api: Requests, uid_of: Callable[[str, str], str]) -> None:
        """`uid_of(namespace, name)` is empty where the detector is gone."""
        self._api, self._uid_of = api, uid_of

    async def create_event(self, namespace: str, detector: str, document: dict[str, Any]) -> None:
        """Create it once.

        Raises:
            KubernetesRefused: it is there already (409), or a quota or a missing right is in the way.
            KubernetesUnavailable: the API server is away.

        """
        about = {"apiVersion": API_VERSION, "kind": DETECTORS.name, "name": detector, "namespace": namespace}
        uid, host = self._uid_of(namespace, detector), socket.gethostname()
        whole = {
            "apiVersion": "v1",
            "kind": "Event",
            **document,
            "metadata": {**document["metadata"], "namespace": namespace},
            "involvedObject": {**about, "uid": uid} if uid else about,
            "source": {"component": "foreshock", "host": host},
            "reportingComponent": "devopsroles.com/foreshock",
            "reportingInstance": host[:128],
        }
        await self._api.request("POST", EVENTS.path(namespace), whole)


class Events:
    """`say` never waits; `run` writes, one after another."""

    def __init__(self, api: Requests, clock: Clock, counted: Callable[[str, str], None]) -> None:
        """`counted(kind, outcome)` hears what became of each: written, refused, dropped."""
        self._api, self._clock, self._counted = api, clock, counted
        self._waiting: asyncio.Queue[tuple[Seen, Said]] = asyncio.Queue(MOST_WAITING)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._written: OrderedDict[str, _Written] = OrderedDict()
        self._host = socket.gethostname()

    def say(self, owner: Seen, said: Said) -> None:
        """Queue an event; what a detector says too often, and what nobody can write fast enough, is dropped."""
        if not self._may_say(owner.uid):
            self._counted("Event", "throttled")
            return
        try:
            self._waiting.put_nowait((owner, said))
        except asyncio.QueueFull:
            self._counted("Event", "dropped")

    async def run(self) -> None:
        """Write what was said until cancelled."""
        while True:
            owner, said = await self._waiting.get()
            try:
                await self._write(owner, said)
            except ForeshockError:
                self._counted("Event", "refused")
            else:
                self._counted("Event", "written")

    async def _write(self, owner: Seen, said: Said) -> None:
        name, now_s = event_name(owner, said.reason), self._clock.now_s()
        written = self._written.get(name)
        namespace = owner.subject.namespace
        if written is not None:
            document = event_of(
                owner, *said, count=written.count + 1, first_s=written.first_s, now_s=now_s, source=self._host
            )
            change = {key: document[key] for key in ("type", "message", "lastTimestamp", "count")}
            try:
                await self._api.request("PATCH", EVENTS.path(namespace, name), change)
            except KubernetesRefused as error:
                if error.status != _NOT_FOUND:  # events live for an hour
                    raise
            else:
                written.count += 1
                return
        document = event_of(owner, *said, count=1, first_s=now_s, now_s=now_s, source=self._host)
        try:
            await self._api.request("POST", EVENTS.path(namespace), document)
        except KubernetesRefused as error:
            if error.status != _CONFLICT:
                raise
            await self._repeat(owner, said, name, now_s)  # of an earlier process
            return
        self._remember(name, _Written(1, now_s))

    async def _repeat(self, owner: Seen, said: Said, name: str, now_s: float) -> None:
        """Of an earlier process, whose count is in the answer to a first change: no right to read is needed."""
        path = EVENTS.path(owner.subject.namespace, name)
        document = event_of(owner, *said, count=1, first_s=now_s, now_s=now_s, source=self._host)
        change = {key: document[key] for key in ("type", "message", "lastTimestamp")}
        found = await self._api.request("PATCH", path, change)
        count = int(found.get("count") or 1) + 1
        await self._api.request("PATCH", path, {"count": count})
        self._remember(name, _Written(count, now_s))

    def _remember(self, name: str, written: _Written) -> None:
        self._written[name] = written
        if len(self._written) > _MOST_REMEMBERED:
            self._written.popitem(last=False)

    def _may_say(self, uid: str) -> bool:
        now_s = self._clock.monotonic_s()
        bucket = self._buckets.setdefault(uid, _Bucket(float(BURST), now_s))
        bucket.tokens = min(float(BURST), bucket.tokens + (now_s - bucket.at_s) / REFILL_S)
        bucket.at_s = now_s
        self._buckets.move_to_end(uid)
        if len(self._buckets) > _MOST_REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True
