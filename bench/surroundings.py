"""What watching a cluster for the diagnosis takes: memory, the first lists, and how long an answer takes.

python -m bench.surroundings [PODS]

One namespace of a real API server with a Deployment for each fifty pods, three ReplicaSets of each, and an Event for
every tenth pod; pods have the size of real ones. The process that watches has nothing else in it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.operator import objects
from tests.servers.kubernetes import ControlPlane, new_namespace, serving

from foreshock.app.clock import SystemClock
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.surroundings import ChangesSettings, ClusterSurroundings

PODS_EACH, REVISIONS = 50, 3
WRITERS = 16
ASKED = 50
_APPS, _CORE = "/apis/apps/v1", "/api/v1"


def main() -> None:
    """Print one figure a line; takes a few minutes, most of it for writing the pods."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    print(f"python -m bench.surroundings {number}  ({os.cpu_count()} cores, shared by everything)")
    with tempfile.TemporaryDirectory() as name, serving(Path(name), controllers=False) as plane:
        namespace = new_namespace(plane)
        began_s = time.monotonic()
        asyncio.run(_fill(plane, namespace, number))
        print(f"written in {time.monotonic() - began_s:.0f} s")
        context = multiprocessing.get_context("spawn")
        watching = context.Process(target=_watch, args=(str(plane.kubeconfig), namespace))
        watching.start()
        watching.join()


async def _fill(plane: ControlPlane, namespace: str, number: int) -> None:
    async with ApiServer(load_kubeconfig(plane.kubeconfig)) as api:
        room = asyncio.Semaphore(WRITERS)

        async def post(base: str, plural: str, document: dict[str, Any]) -> dict[str, Any]:
            async with room:
                return await api.request("POST", f"{base}/namespaces/{namespace}/{plural}", document)

        async def service(index: int) -> None:
            app = f"service-{index}"
            owner = await post(_APPS, "deployments", objects.workload(name=app, app=app, env=_ENVIRONMENT))
            for each in range(1, REVISIONS + 1):
                revision = objects.replica_set(each, owner, app=app, image=f"shop/{app}:{each}", env=_ENVIRONMENT)
                await post(_APPS, "replicasets", revision)
            await post(_CORE, "services", objects.service(app, app=app))
            for place in range(PODS_EACH):
                name = f"{app}-h{REVISIONS}-{place:05}"
                pod = objects.pod(name, app=app, node=f"node-{place % 100}")
                pod["spec"]["containers"][0]["env"] = [{"name": k, "value": v} for k, v in _ENVIRONMENT.items()]
                await post(_CORE, "pods", pod)
                if place % 10 == 0:
                    event = objects.warning(name, time.time())
                    event["involvedObject"]["namespace"] = namespace
                    await post(_CORE, "events", event)

        await asyncio.gather(*(service(index) for index in range(number // PODS_EACH)))


_ENVIRONMENT = {f"VARIABLE_{n}": "v" * 60 for n in range(40)}  # 4 KB, as real pods have


def _watch(kubeconfig: str, namespace: str) -> None:
    asyncio.run(_measure(Path(kubeconfig), namespace))


async def _measure(kubeconfig: Path, namespace: str) -> None:
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        before_mb = _now_mb()
        seen = ClusterSurroundings(api, SystemClock(), lambda: {namespace}, ChangesSettings(nodes=False))
        began_s = time.monotonic()
        task = asyncio.create_task(seen.run())
        while any("Not known" in each for each in seen.changes(namespace, "service-1", onset_s=time.time())):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        print(f"all lists read in {time.monotonic() - began_s:.1f} s")
        print("objects:", ", ".join(f"{count} {kind}" for kind, count in seen.held.items()))
        print(f"memory: {before_mb:.0f} MB before, {_now_mb():.0f} MB after the lists")
        await asyncio.sleep(3)  # until nothing is remembered of the answers so far
        began_s = time.monotonic()
        found = seen.changes(namespace, "service-1", onset_s=time.time())
        first_s, began_s = time.monotonic() - began_s, time.monotonic()
        for index in range(ASKED):
            seen.changes(namespace, f"service-{index + 2}", onset_s=time.time())
        others_s = (time.monotonic() - began_s) / ASKED
        print(
            f"an answer takes {first_s * 1000:.0f} ms, the next ones {others_s * 1000:.1f} ms; {len(found)} sentences"
        )
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _now_mb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
