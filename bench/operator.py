"""Ten thousand detectors on a real API server with the engine running: memory, CPU, lag, convergence, an outage.

python -m bench.operator [DETECTORS]

Every detector has a series of its own in a real Prometheus, three hours of it: too little for any model, so that what
is measured is the operator and the engine's cycle, and not ten thousand trainings. `bench.fleet` measures scoring.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.operators import install_definitions
from tests.servers.kubernetes import ControlPlane, new_namespace, serving
from tests.servers.operators import LocalOperator, start_operator

from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.resources import DETECTORS
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running

HISTORY_S, STEP_S = 3 * 3600, 60
AHEAD_S = 3600  # the series go on for the time of the run
WRITERS = 16
STEADY_S = 180
LEARNING_S = 120
OUTAGE_S = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Watched:
    """The operator's process, sampled."""

    operator: LocalOperator
    lags_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    @property
    def now_mb(self) -> float:
        """Resident memory of the operator itself, without its training worker."""
        text = Path(f"/proc/{self.operator.server.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.operator.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def sample(self, duration_s: float) -> float:
        """Watch for so long, and return the share of a core that was used."""
        began_s, cpu_s = time.monotonic(), self.cpu_s
        while time.monotonic() - began_s < duration_s:
            time.sleep(1)
            self.rss_mb.append(self.now_mb)
            with contextlib.suppress(OSError):
                self.lags_s.append(self.operator.metric("foreshock_cycle_lag_seconds"))
        return (self.cpu_s - cpu_s) / (time.monotonic() - began_s)


def main() -> None:
    """Print one figure a line; takes about ten minutes."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"python -m bench.operator {number}  ({os.cpu_count()} cores, shared by everything)")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        prometheus = stack.enter_context(_prometheus(folder / "prometheus", number))
        plane = stack.enter_context(serving(folder / "kubernetes", controllers=False))
        install_definitions(plane)
        _run(folder, number, prometheus, plane, stack)


def _run(
    folder: Path, number: int, prometheus: LocalPrometheus, plane: ControlPlane, stack: contextlib.ExitStack
) -> None:
    namespace = new_namespace(plane)
    settings: dict[str, object] = {
        "datasources": [{"name": "default", "url": prometheus.url}],
        "database": f"sqlite:///{folder / 'state.db'}",
        "artifacts": str(folder / "models"),
    }

    def begin(label: str) -> Watched:
        started = start_operator(folder / label, settings, plane, namespace=namespace)
        stack.callback(started.server.stop)
        return Watched(started)

    watched = begin("first")
    _until(lambda: watched.operator.leads, 120)
    asyncio.run(_create(plane, namespace, range(1)))
    _until(lambda: watched.operator.metric("foreshock_cycles_total") >= 1, 180)
    time.sleep(5)
    idle_mb = watched.now_mb
    print(f"{'idle process, one detector, kernels loaded':<58}{idle_mb:>9.0f} MB")

    took_s = asyncio.run(_create(plane, namespace, range(1, number)))
    print(f"{'created':<58}{(number - 1) / took_s:>9.0f} /s")
    applied_s = time.monotonic()
    for what, metric in (
        ("known to the operator after the last was created", "foreshock_watch_objects"),
        ("all taken up by the engine", "foreshock_detectors"),
        ("all judged once", "foreshock_cycles_total"),
        ("every status written", "foreshock_status_writes_total"),
    ):
        _until(lambda metric=metric: watched.operator.metric(metric) >= number, 600)
        print(f"{what:<58}{time.monotonic() - applied_s:>9.1f} s")
    print(f"{'memory above idle then':<58}{watched.now_mb - idle_mb:>9.0f} MB")
    with contextlib.suppress(SystemExit):  # on a busy machine the rest of the looking is part of what is measured
        _until(lambda: watched.operator.metric("foreshock_training_seconds_count") >= number, LEARNING_S)
    looked = watched.operator.metric("foreshock_training_seconds_count")
    print(f"{f'detectors that training looked at, {time.monotonic() - applied_s:.0f} s after that':<58}{looked:>9.0f}")

    share = watched.sample(STEADY_S)
    _steady(watched, share, idle_mb, "steady")
    written = watched.operator.metric("foreshock_status_writes_total")

    watched.lags_s.clear()
    watched.rss_mb.clear()
    judged = watched.operator.metric("foreshock_cycles_total")
    plane.kill()
    watched.sample(OUTAGE_S)
    plane.restart()
    share = watched.sample(STEADY_S / 2)
    print(f"{f'windows judged through {OUTAGE_S} s without API server and after':<58}"
          f"{watched.operator.metric('foreshock_cycles_total') - judged:>9.0f}")  # fmt: skip
    _until(lambda: watched.operator.leads, 60)
    print(f"{'status writes since':<58}{watched.operator.metric('foreshock_status_writes_total') - written:>9.0f}")
    _steady(watched, share, idle_mb, "through the outage")

    watched.operator.server.kill()
    again = begin("second")
    began_s = time.monotonic()
    _until(lambda: again.operator.metric("foreshock_leader") >= 0, 120)
    up_s = time.monotonic() - began_s
    _until(lambda: again.operator.is_ready, 120)
    print(f"{'restart: the process answers after':<58}{up_s:>9.1f} s")
    print(f"{'restart: complete inventory after that':<58}{time.monotonic() - began_s - up_s:>9.1f} s")
    _until(lambda: again.operator.metric("foreshock_cycles_total") >= number, 300)
    print(f"{'restart after SIGKILL: all judged (the Lease lasts 15 s)':<58}{time.monotonic() - began_s:>9.1f} s")

    asyncio.run(_delete(plane, namespace, range(number)))
    began_s = time.monotonic()
    _until(lambda: again.operator.metric("foreshock_detectors") == 0, 300)
    print(f"{'all deleted: judged no more after the last':<58}{time.monotonic() - began_s:>9.1f} s")


def _steady(watched: Watched, share: float, idle_mb: float, when: str) -> None:
    lags = sorted(watched.lags_s)
    p99_s = lags[min(len(lags) - 1, int(0.99 * len(lags)))]
    print(f"{f'{when}: memory above idle, median':<58}{statistics.median(watched.rss_mb) - idle_mb:>9.0f} MB")
    print(f"{f'{when}: memory above idle, largest':<58}{max(watched.rss_mb) - idle_mb:>9.0f} MB")
    print(f"{f'{when}: CPU':<58}{100 * share:>9.0f} % of a core")
    print(f"{f'{when}: lag of the verdicts, median':<58}{statistics.median(lags):>9.2f} s")
    print(f"{f'{when}: lag of the verdicts, p99':<58}{p99_s:>9.2f} s", flush=True)


async def _create(plane: ControlPlane, namespace: str, numbers: range) -> float:
    """Create detectors at full speed, and return how long that took."""
    waiting = iter(numbers)
    began_s = time.monotonic()
    async with ApiServer(load_kubeconfig(plane.kubeconfig)) as api:

        async def work() -> None:
            for each in waiting:
                await api.request("POST", DETECTORS.path(namespace), _detector(each))

        await asyncio.gather(*(work() for _ in range(WRITERS)))
    return time.monotonic() - began_s


async def _delete(plane: ControlPlane, namespace: str, numbers: range) -> None:
    """One by one, since the API server gives up a collection of this size after a minute."""
    waiting = iter(numbers)
    async with ApiServer(load_kubeconfig(plane.kubeconfig)) as api:

        async def work() -> None:
            for each in waiting:
                await api.request("DELETE", DETECTORS.path(namespace, f"svc-{each:05d}"))

        await asyncio.gather(*(work() for _ in range(WRITERS)))


def _detector(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": f"svc-{number:05d}", "labels": {"team": f"team-{number % 50}"}},
        "spec": {
            "target_service": f"svc-{number:05d}",
            "prometheus_query": f'm{{job="svc-{number:05d}"}}',
            "training": {"window": "7d"},
        },
    }


@contextlib.contextmanager
def _prometheus(folder: Path, number: int) -> Iterator[LocalPrometheus]:
    folder.mkdir(parents=True)
    start_s = int(time.time()) // STEP_S * STEP_S - HISTORY_S
    file = folder / "history.om"
    with file.open("w") as out:
        out.write("# TYPE m gauge\n")
        for each in range(number):
            out.writelines(
                f'm{{job="svc-{each:05d}"}} {40 + (each * 7 + k * 13) % 11} {start_s + k * STEP_S}\n'
                for k in range((HISTORY_S + AHEAD_S) // STEP_S)
            )
        out.write("# EOF\n")
    backfill(folder / "data", file)
    with running(folder) as server:
        yield server


def _until(what: Callable[[], bool], within_s: float) -> None:
    ends_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            if what():
                return
        if time.monotonic() > ends_s:
            raise SystemExit(f"not within {within_s:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
