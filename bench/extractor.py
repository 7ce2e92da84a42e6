"""Measure a steady cycle of 1,000 detectors through `foreshock extractor` beside the engine's own way, in one run.

Both engines judge the same detectors, each with a model of its own, on one real Prometheus, and alternate; the vectors
must be equal to the bit. The engine's CPU is this process's, the extractor's from /proc, whose hundredths of a second
only say something over all rounds: a mean. Every other figure is the median of `ROUNDS` with its range.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from bench.fleet import (
    DETECTORS,
    MODELS,
    STEP_S,
    TRAINING_STEPS,
    detector,
    server_cpu_s,
    training_frame,
    write_history,
)
from bench.row import Row

from foreshock.app.changes import Cohorts, watch_of
from foreshock.detectors.model import Model, dump
from foreshock.engine.cohort import Cohort, Judged, Revision
from foreshock.engine.gather import Gatherer, Gathers
from foreshock.engine.watch import Watch
from foreshock.extractor.client import ExtractorClient
from foreshock.extractor.exchange import Planner
from foreshock.extractor.remote import RemoteGatherer
from foreshock.lifecycle.train import train_revision
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore

WARM_UP_CYCLES, ROUNDS = 3, 15
READY_WITHIN_S = 120


@dataclass(slots=True)
class _Engine:
    """1,000 detectors with their models and rings, and what a cycle of them took."""

    gatherer: Gathers
    watches: list[Watch]
    cohort: Cohort
    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, gatherer: Gathers, source: Datasource, models: list[Model], digests: list[str]) -> _Engine:
        cohorts = Cohorts()
        watches = [watch_of(detector("ensemble", number), source, cohorts, ()) for number in range(DETECTORS)]
        (cohort,) = cohorts.by_shape.values()
        for row, digest in enumerate(digests):
            cohort.install(row, models[row % MODELS], Revision("v1", "v1-r1", digest, 0, 0))
        return cls(gatherer, watches, cohort)

    async def judge(self, at_s: int, server: LocalPrometheus, *, counts: bool) -> Judged:
        server_s, cpu_s, wall_s = server_cpu_s(server.pid), time.process_time(), time.perf_counter()
        gathered = await self.gatherer.gather([(watch, at_s) for watch in self.watches])
        if gathered.failures or gathered.extractor_away:
            raise SystemExit(gathered.extractor_away or next(iter(gathered.failures.values())).message)
        rows, flags = np.arange(DETECTORS), np.zeros(DETECTORS, np.bool_)
        judged = self.cohort.judge(rows, ~flags, flags, gathered.described.get(self.cohort))
        if counts:
            self.cpu_us.append((time.process_time() - cpu_s) * 1e6 / DETECTORS)
            self.wall_us.append((time.perf_counter() - wall_s) * 1e6 / DETECTORS)
            self.server_us.append((server_cpu_s(server.pid) - server_s) * 1e6 / DETECTORS)
        return judged


def run() -> list[Row]:
    """All figures; starts and stops a Prometheus and an extractor of its own."""
    os.environ["GOMAXPROCS"] = "1"
    end_s = int(time.time()) // STEP_S * STEP_S
    with tempfile.TemporaryDirectory(prefix="foreshock-bench-") as name:
        folder = Path(name)
        write_history(folder / "history.txt", end_s)
        backfill(folder / "data", folder / "history.txt")
        with running(folder) as server:
            return asyncio.run(_measure(server, folder, end_s))


async def _measure(server: LocalPrometheus, folder: Path, end_s: int) -> list[Row]:
    taught = np.zeros(TRAINING_STEPS, np.bool_)
    models = [
        train_revision(detector("ensemble", 0).spec, training_frame(number, end_s), taught, provisional=True)
        for number in range(MODELS)
    ]
    store, digests = ArtifactStore(folder / "models"), []
    for number in range(DETECTORS):
        arrays, facts = dump(models[number % MODELS])
        digests.append(store.put(arrays, {"model": facts, "number": number}))
    process, url = _start(folder, server)
    try:
        source = Datasource(url=server.url)
        async with PrometheusClient(source) as client, ExtractorClient(url) as to_extractor:
            own = _Engine.of(Gatherer(client), source, models, digests)
            remote = RemoteGatherer(Gatherer(client), to_extractor, source, timeout_s=60)
            through = _Engine.of(remote, source, models, digests)
            extractor_s = 0.0
            for cycle in range(-WARM_UP_CYCLES, ROUNDS):
                at_s = end_s + (cycle - ROUNDS) * STEP_S
                mine = await own.judge(at_s, server, counts=cycle >= 0)
                before_s = server_cpu_s(process.pid)
                theirs = await through.judge(at_s, server, counts=cycle >= 0)
                extractor_s += server_cpu_s(process.pid) - before_s if cycle >= 0 else 0.0
                if mine.vectors.tobytes() != theirs.vectors.tobytes():
                    raise SystemExit("the extractor's vectors are others")
            exchanges, _ = Planner(source.name).plan([(watch, end_s) for watch in through.watches])
            sent = sum(len(each.body(10.0)) for each in exchanges)
    finally:
        process.terminate()
        process.wait()
    ratios = [theirs / ours for theirs, ours in zip(through.cpu_us, own.cpu_us, strict=True)]
    return [
        _row("engine by itself: CPU", own.cpu_us),
        _row("engine by itself: elapsed", own.wall_us),
        _row("through an extractor: the engine's CPU", through.cpu_us),
        Row("through an extractor: its CPU (mean)", extractor_s * 1e6 / DETECTORS / ROUNDS, "us"),
        _row("through an extractor: elapsed", through.wall_us),
        _row("the engine's CPU: through an extractor / by itself", ratios, "times"),
        Row("Prometheus' CPU, by itself (mean)", statistics.mean(own.server_us), "us"),
        Row("Prometheus' CPU, through an extractor (mean)", statistics.mean(through.server_us), "us"),
        Row("sent to the extractor", sent / DETECTORS, "bytes"),
    ]


def _start(folder: Path, server: LocalPrometheus) -> tuple[subprocess.Popen[bytes], str]:
    settings, log = folder / "foreshock.yaml", folder / "log.jsonl"
    settings.write_text(yaml.safe_dump({"datasources": [{"url": server.url}], "artifacts": str(folder / "models")}))
    command = [
        Path(sys.executable).with_name("foreshock"),
        "extractor",
        "--config",
        settings,
        "--listen",
        "127.0.0.1:0",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    ends_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends_s and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"address"' in line:
                return process, f"http://{yaml.safe_load(line)['address']}"
        time.sleep(0.05)
    raise SystemExit(f"the extractor does not come up: {log.read_text()[-1000:]}")


def _row(name: str, values: list[float], unit: str = "us") -> Row:
    return Row(name, statistics.median(values), unit, low=min(values), high=max(values))
