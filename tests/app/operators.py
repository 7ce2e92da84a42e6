"""The operator inside a test: on a real API server, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.app.hurried import HurriedClock
from tests.servers.kubernetes import ControlPlane
from tests.servers.processes import ServerError

from foreshock.app.metrics import Metrics
from foreshock.app.operator import Operator
from foreshock.app.settings import Settings
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.lease import TIMING, Timing
from foreshock.operator.watch import Kind

BASE = "/apis/devopsroles.com/v1"


def install_definitions(plane: ControlPlane) -> None:
    """Our three kinds, served when this returns."""
    from foreshock.manifests.crd import as_yaml, definitions

    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=as_yaml(definitions()))
    names = [f"crd/{each['metadata']['name']}" for each in definitions()]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def manifest(name: str = "checkout", *, query: str, **spec: Any) -> dict[str, Any]:
    """A detector that has learnt enough from half a day."""
    training = {"window": "1d", "warm_up": "12h", "retrain_interval": "1d"}
    fields = {
        "target_service": "checkout", "prometheus_query": query, "detection_window": "10m", "query_offset": "0s",
        "keep_firing_for": "1h", "training": training,
    }  # fmt: skip
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": name},
        "spec": fields | spec,
    }


@dataclass(slots=True)
class World:
    """One namespace of one API server, as `kubectl` shows it."""

    plane: ControlPlane
    namespace: str
    clock: HurriedClock = field(default_factory=HurriedClock)
    stream: io.StringIO = field(default_factory=io.StringIO)

    def apply(self, *documents: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=text)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        with contextlib.suppress(ServerError):
            return self.plane.request("GET", kind.path(self.namespace, name))
        return None

    def list(self, kind: Kind) -> list[dict[str, Any]]:
        return list(self.plane.request("GET", kind.path(self.namespace))["items"])

    def delete(self, kind: Kind, name: str) -> None:
        self.plane.request("DELETE", kind.path(self.namespace, name))

    def conditions(self, kind: Kind, name: str) -> dict[str, dict[str, Any]]:
        found = self.get(kind, name) or {}
        return {each["type"]: each for each in found.get("status", {}).get("conditions", ())}

    @property
    def told(self) -> list[dict[str, Any]]:
        """The events of the sink."""
        return [json.loads(line)["data"] for line in self.stream.getvalue().splitlines()]


async def eventually(what: Callable[[], Any], *, within_s: float = 90.0, every_s: float = 0.3) -> Any:
    """What a call in a thread returns once it is true.

    Raises:
        TimeoutError: it was not within the time.

    """
    async with asyncio.timeout(within_s):
        while not (found := await asyncio.to_thread(what)):  # noqa: ASYNC110 - the world outside sets no event
            await asyncio.sleep(every_s)
    return found


@contextlib.asynccontextmanager
async def operating(
    world: World,
    settings: Settings,
    *,
    timing: Timing = TIMING,
    status_every_s: float = 1.0,
    kubeconfig: Path | None = None,
) -> AsyncIterator[Operator]:
    """An operator of the world's namespace; it is stopped as SIGTERM does it."""
    config = load_kubeconfig(kubeconfig or world.plane.kubeconfig)
    context = config.context
    context.namespace = world.namespace  # the Lease is there
    async with ApiServer(config, timeout_s=5) as api:
        operator = Operator(
            settings, api, namespaces=(world.namespace,), clock=world.clock, metrics=Metrics(), events=world.stream,
            executor=lambda: ThreadPoolExecutor(1), timing=timing, status_every_s=status_every_s,
        )  # fmt: skip
        task = asyncio.create_task(operator.run())
        try:
            yield operator
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
