"""Measure a steady cycle of 1,000 detectors of one template beside the plain pipeline, on one real Prometheus.

Ours: gather, judge every window in full (`force_every: 1`), move the alerts; only the database is left out. The plain
pipeline asks one query a detector over a kept connection, reads it with `json`, describes it with pandas and scores
one vector with scikit-learn. They alternate, a cycle and then `PLAIN_DETECTORS`; CPU is this process's, and the
server's from /proc. Each figure is the median of `ROUNDS` with its range, each ratio that of the two of one round.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd
from bench.row import Row
from sklearn.ensemble import IsolationForest

from foreshock.app.changes import Cohorts, watch_of
from foreshock.core.frame import Frame, as_samples
from foreshock.engine.cohort import Revision
from foreshock.engine.cycle import Cycle
from foreshock.engine.gather import Gathered, Gatherer
from foreshock.engine.watch import Watch
from foreshock.lifecycle.train import train_revision
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running
from foreshock.prometheus.settings import Datasource
from foreshock.store.records import CycleChanges

DETECTORS, PLAIN_DETECTORS, MODELS = 1_000, 50, 8
STEP_S, WINDOW_STEPS = 60, 60
HISTORY_STEPS = 7 * 60
TRAINING_STEPS = 2 * 1_440
WARM_UP_CYCLES, ROUNDS = 3, 15
ALGORITHMS = ("isolation_forest", "ensemble")


class _NoLedger:
    def commit_cycle(self, changes: CycleChanges) -> None:
        """Keep nothing: the database is not what is measured."""


class _TimedGatherer(Gatherer):
    """Adds up the CPU time of its gathering."""

    spent_s = 0.0

    async def gather(self, due: Sequence[tuple[Watch, int]]) -> Gathered:
        began_s = time.process_time()
        try:
            return await super().gather(due)
        finally:
            self.spent_s += time.process_time() - began_s


class _Fleet:
    """1,000 detectors of one algorithm, with their models, rings and alerts."""

    def __init__(self, algorithm: str, client: PrometheusClient, frames: list[Frame]) -> None:
        cohorts = Cohorts()
        detectors = [detector(algorithm, number) for number in range(DETECTORS)]
        self.watches = [watch_of(each, client.datasource, cohorts, ()) for each in detectors]
        if len(cohorts.by_shape) != 1:
            raise SystemExit(f"{len(cohorts.by_shape)} cohorts instead of one")
        (cohort,) = cohorts.by_shape.values()
        taught = np.zeros(TRAINING_STEPS, np.bool_)
        models = [train_revision(detectors[0].spec, frame, taught, provisional=True) for frame in frames]
        for row in range(DETECTORS):
            revision = Revision("v1", "v1-r1", f"{row % MODELS}", frames[0].start_s, frames[0].end_s)
            cohort.install(row, models[row % MODELS], revision)
        self.gatherer = _TimedGatherer(client)
        self.cycle = Cycle(self.gatherer, _NoLedger(), {}, cluster="bench", external_labels={})

    async def judge(self, at_s: int) -> tuple[float, float]:
        """One cycle: CPU seconds of all of it, and of gathering alone; every window must have got a score."""
        self.gatherer.spent_s = 0.0
        began_s = time.process_time()
        summary = await self.cycle.run([(watch, at_s) for watch in self.watches], float(at_s))
        spent_s = time.process_time() - began_s
        if summary.asked or summary.verdicts["normal"] + summary.verdicts["anomalous"] != DETECTORS:
            raise SystemExit(f"not every window was judged in full: {dict(summary.verdicts)}, asked {summary.asked}")
        return spent_s, self.gatherer.spent_s


class _Plain:
    """What a team writes first: a query, a data frame and a forest for each detector."""

    def __init__(self, server: LocalPrometheus, frames: list[Frame]) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        self._forests = [
            IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(_plain_training(frame))
            for frame in frames
        ]

    def judge(self, at_s: int) -> float:
        """`PLAIN_DETECTORS` of them: CPU seconds."""
        began_s = time.process_time()
        for number in range(PLAIN_DETECTORS):
            first_s = at_s - (WINDOW_STEPS - 1) * STEP_S
            asked = f"query={quote(_query(number))}&start={first_s}&end={at_s}&step={STEP_S}"
            self._connection.request("GET", f"/api/v1/query_range?{asked}")
            (series,) = json.loads(self._connection.getresponse().read())["data"]["result"]
            if len(series["values"]) != WINDOW_STEPS:
                raise SystemExit(f"{len(series['values'])} points instead of {WINDOW_STEPS}")
            values = pd.DataFrame(series["values"], columns=["time", "value"])["value"].astype(float)
            low, median, high = values.quantile([0.25, 0.5, 0.75])
            features = (
                values.mean(),
                values.std(),
                values.diff().mean(),
                values.min(),
                values.max(),
                low,
                median,
                high,
            )
            self._forests[number % MODELS].score_samples(np.array([features]))
        return time.process_time() - began_s


def run() -> list[Row]:
    """All figures of the fleet, in the order of the table; starts and stops a Prometheus of its own."""
    os.environ["GOMAXPROCS"] = "1"  # the server's CPU then holds no idling of its parallel collector
    end_s = int(time.time()) // STEP_S * STEP_S
    with tempfile.TemporaryDirectory(prefix="foreshock-bench-") as name:
        folder = Path(name)
        write_history(folder / "history.txt", end_s)
        backfill(folder / "data", folder / "history.txt")
        with running(folder) as server:
            return asyncio.run(_measure(server, end_s))


async def _measure(server: LocalPrometheus, end_s: int) -> list[Row]:
    frames = [training_frame(number, end_s) for number in range(MODELS)]
    plain = _Plain(server, frames)
    spent: dict[str, list[float]] = {}

    def add(name: str, spent_s: float, detectors: int) -> None:
        spent.setdefault(name, []).append(spent_s * 1e6 / detectors)

    async with PrometheusClient(Datasource(url=server.url)) as client:
        fleets = {algorithm: _Fleet(algorithm, client, frames) for algorithm in ALGORITHMS}
        for cycle in range(-WARM_UP_CYCLES, ROUNDS):  # the first one fetches the whole context, and compiles
            at_s = end_s + (cycle - ROUNDS) * STEP_S
            server_s = server_cpu_s(server.pid)
            for algorithm, fleet in fleets.items():
                whole_s, gathering_s = await fleet.judge(at_s)
                if cycle >= 0:
                    add(algorithm, whole_s, DETECTORS)
                    add(f"{algorithm}: gather", gathering_s, DETECTORS)
                    add(f"{algorithm}: judge", whole_s - gathering_s, DETECTORS)
            between_s = server_cpu_s(server.pid)
            plain_s = plain.judge(at_s)
            if cycle >= 0:
                add("plain", plain_s, PLAIN_DETECTORS)
                add("server", between_s - server_s, DETECTORS * len(fleets))
                add("server: plain", server_cpu_s(server.pid) - between_s, PLAIN_DETECTORS)
    return _rows(spent)


def _rows(spent: dict[str, list[float]]) -> list[Row]:
    rows = []
    for algorithm in ALGORITHMS:
        rows += [
            _row(f"client, {algorithm}, all scored", spent[algorithm]),
            _row("  of it: gather (queries, HTTP, parsing, rings)", spent[f"{algorithm}: gather"]),
            _row("  of it: judge (features, scores, alerts)", spent[f"{algorithm}: judge"]),
        ]
    rows.append(_row("client, plain pipeline (HTTP, pandas, scikit-learn)", spent["plain"]))
    for algorithm in ALGORITHMS:
        ratios = [theirs / ours for theirs, ours in zip(spent["plain"], spent[algorithm], strict=True)]
        rows.append(_row(f"plain pipeline / {algorithm}", ratios, "times"))
    # the kernel counts hundredths of a second: only the sum of all rounds says something
    ours, theirs = statistics.mean(spent["server"]), statistics.mean(spent["server: plain"])
    rows.append(Row("server, one query a template (mean)", ours, "us"))
    rows.append(Row("server, one query a detector (mean)", theirs, "us"))
    if ours:
        rows.append(Row("server: a query a detector / a query a template", theirs / ours, "times"))
    return rows


def _row(name: str, values: list[float], unit: str = "us") -> Row:
    return Row(name, statistics.median(values), unit, low=min(values), high=max(values))


def server_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _query(number: int) -> str:
    return f'm{{job="svc-{number:04d}"}}'


def detector(algorithm: str, number: int) -> AnomalyDetector:
    return AnomalyDetector.model_validate({
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": f"svc-{number:04d}"},
        "spec": {
            "target_service": f"svc-{number:04d}",
            "prometheus_query": _query(number),
            "detection_window": "1h",
            "algorithm": algorithm,
            "throttle": {"force_every": 1},
        },
    })  # fmt: skip


def _series(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """A daily shape and noise that remembers a little: (n_times,)."""
    noise = pd.Series(rng.normal(size=len(times_s))).ewm(alpha=0.4).mean().to_numpy()
    return np.asarray(40.0 + 5.0 * np.sin(2.0 * np.pi * times_s / 86_400.0) + noise)


def training_frame(number: int, end_s: int) -> Frame:
    times_s = end_s - HISTORY_STEPS * STEP_S + STEP_S * np.arange(-TRAINING_STEPS, 0)
    values = as_samples(_series(np.random.default_rng(number), times_s)[:, None])
    return Frame(int(times_s[0]), STEP_S, ("m",), values)


def _plain_training(frame: Frame) -> np.ndarray:
    values = pd.Series(frame.values[:, 0])  # noqa: PD011 - a frame of ours, not of pandas
    windows, quantile = values.rolling(WINDOW_STEPS), values.rolling(WINDOW_STEPS).quantile
    columns: list[Callable[[], pd.Series]] = [
        windows.mean, windows.std, values.diff().rolling(WINDOW_STEPS - 1).mean, windows.min, windows.max,
        lambda: quantile(0.25), lambda: quantile(0.5), lambda: quantile(0.75),
    ]  # fmt: skip
    return np.column_stack([column() for column in columns])[WINDOW_STEPS - 1 :]


def write_history(file: Path, end_s: int) -> None:
    """`HISTORY_STEPS` samples of every detector's series as OpenMetrics, the last at `end_s`."""
    rng = np.random.default_rng(100)
    times_s = end_s + STEP_S * np.arange(1 - HISTORY_STEPS, 1)
    with file.open("w") as out:
        out.write("# TYPE m gauge\n")
        for number in range(DETECTORS):
            pairs = zip(_series(rng, times_s).tolist(), times_s.tolist(), strict=True)
            out.writelines(f"{_query(number)} {value:.4f} {time_s}\n" for value, time_s in pairs)
        out.write("# EOF\n")
