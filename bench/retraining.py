"""Retrain detectors of a week at a minute as the engine does, beside a plain fit of scikit-learn's isolation forest.

Ours: `Trainer.learn` with everything that it does but the query: read the incidents and the line, fit, fit once more
without the held-out rows, examine beside the champion with injected faults, write the artifact, commit the record. The
fits run in a process of their own, as in production. The peer fits 100 trees of 256 rows on twelve window statistics
of the same week, in another process; computing them is not counted. The two alternate, detector by detector; CPU time
is each process's own, and so is its peak memory, which holds the interpreter and the libraries.

    python -m bench.retraining            # 20 detectors
    python -m bench.retraining 1000
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench.windows import WINDOW, statistics_of
from sklearn.ensemble import IsolationForest

from foreshock.app.changes import Cohorts, watch_of
from foreshock.core.frame import Frame
from foreshock.engine.cohort import Revision
from foreshock.lifecycle.train import train_revision
from foreshock.lifecycle.trainer import Trainer
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History

DETECTORS = 20
WEEK_S, STEP_S, DAY_S = 7 * 86_400, 60, 86_400
END_S = 1_700_006_400
N_TREES, SAMPLE_SIZE = 100, 256
CHAMPIONS = 4  # that the detectors share: what judged before costs nothing here


class Source:
    """The week of each detector: a daily swing under a noise with memory, from a seed of its own."""

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        del deadline_s
        values = week(int(query.query.rpartition("_")[2]), (query.end_s - query.start_s) // STEP_S + 1)
        return Matrix(query.start_s, STEP_S, values[None, :], np.array([1], np.uint64), b"{}", np.array([2]))

    async def now_s(self, *, deadline_s: float | None = None) -> float:
        del deadline_s
        return END_S


class InProcess(Executor):
    """Runs what is submitted in one process of its own and adds up what it costs there."""

    def __init__(self) -> None:
        self.spent_s, self.peak_bytes = list[float](), 0
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not kwargs
        outer: Future[Any] = Future()
        self._pool.submit(_measured, call, *args).add_done_callback(lambda inner: self._note(inner, outer))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def forget(self) -> None:
        """Start to count: whatever was compiled and imported is."""
        self.spent_s.clear()

    def _note(self, inner: Future[Any], outer: Future[Any]) -> None:
        if (error := inner.exception()) is not None:
            outer.set_exception(error)
            return
        result, spent_s, self.peak_bytes = inner.result()
        self.spent_s.append(spent_s)
        outer.set_result(result)


def week(seed: int, n_times: int) -> np.ndarray:
    """`n_times` samples, (n_times,)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n_times)
    for i in range(1, n_times):
        noise[i] += 0.8 * noise[i - 1]
    return np.asarray(40.0 + 5.0 * np.sin(2.0 * np.pi * np.arange(n_times) * STEP_S / DAY_S) + noise)


def detector(number: int) -> AnomalyDetector:
    """One metric at the defaults, but for a window of a week, and no shadow: each retraining ends in a decision."""
    spec = {
        "target_service": "shop", "prometheus_query": f"metric_{number}", "query_offset": "0s",
        "training": {"window": "7d", "warm_up": "6d", "shadow": "0s"},
    }  # fmt: skip
    document = {"apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": {"name": f"d{number}"}}
    return AnomalyDetector.model_validate({**document, "spec": spec})


def fit_peer(rows: np.ndarray) -> None:
    """What is compared: the fit, and nothing around it."""
    IsolationForest(n_estimators=N_TREES, max_samples=SAMPLE_SIZE, random_state=0).fit(rows)


async def run(n_detectors: int, folder: Path) -> None:
    """Train, and print."""
    history, artifacts = History(f"sqlite:///{folder}/state.db"), ArtifactStore(folder / "models")
    ours, peer = InProcess(), InProcess()
    trainer, source, cohorts = (
        Trainer(Source(), artifacts, history, ours),
        Datasource(url="http://127.0.0.1:9"),
        Cohorts(),
    )
    champions = [_champion(number) for number in range(CHAMPIONS)]
    watches = [watch_of(detector(number), source, cohorts, ()) for number in range(n_detectors + 1)]
    own_s, wall_s, outcomes = list[float](), list[float](), list[str]()
    for number, watch in enumerate(watches):
        revision = Revision("v1", "v1-r0", "0" * 64, END_S - WEEK_S, END_S - DAY_S)
        watch.cohort.install(watch.row_of({}), champions[number % CHAMPIONS], revision)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        learnt = await trainer.learn(watch, END_S)
        own_s.append(time.process_time() - began_cpu_s)
        wall_s.append(time.monotonic() - began_s)
        outcomes.append(learnt.outcome)
        rows = statistics_of(week(number, WEEK_S // STEP_S + WINDOW - 1))
        await asyncio.get_running_loop().run_in_executor(peer, fit_peer, rows)
        if number == 0:  # which compiled and imported
            ours.forget(), peer.forget(), own_s.clear(), wall_s.clear(), outcomes.clear()
        elif sys.stderr.isatty():
            print(f"\r{number} of {n_detectors}", end="", file=sys.stderr)
    _print(ours, peer, own_s, wall_s, outcomes)
    ours.shutdown()
    peer.shutdown()
    history.close()


def _champion(number: int) -> Any:
    frame = Frame(END_S - WEEK_S, STEP_S, ("value",), week(10_000 + number, WEEK_S // STEP_S + 1)[:, None])
    return train_revision(detector(number).spec, frame, np.zeros(frame.n_times, np.bool_))


def _print(ours: InProcess, peer: InProcess, own_s: list[float], wall_s: list[float], outcomes: list[str]) -> None:
    engine_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    promoted = sum(outcome == "promoted" for outcome in outcomes)
    print(f"{len(outcomes):,} detectors of one metric, {WEEK_S // STEP_S:,} steps of a minute; {promoted:,} promoted")
    print(f"{'':<52}{'median':>8}{'range':>16}")
    for name, values in (
        ("a retraining, CPU of the process that fits, s", ours.spent_s),
        ("the same, CPU of the engine beside it, s", own_s),
        ("the same, on the wall, s", wall_s),
        ("scikit-learn's IsolationForest.fit alone, CPU, s", peer.spent_s),
    ):
        print(f"{name:<52}{statistics.median(values):>8.3f}{f'{min(values):.3f} - {max(values):.3f}':>16}")
    per_model_s = sum(ours.spent_s) / len(outcomes)
    ratio = per_model_s / (sum(peer.spent_s) / len(outcomes))
    print(f"ours / scikit-learn's fit, CPU of all: {ratio:.2f}")
    print(
        f"peak memory: {ours.peak_bytes / 1e6:.0f} MB the process that fits, {engine_bytes / 1e6:.0f} MB the engine, "
        f"{peer.peak_bytes / 1e6:.0f} MB scikit-learn"
    )
    print(f"a fleet of 1,000 each day: {per_model_s * 1_000 / DAY_S:.1%} of a core")


def _measured(call: Callable[..., Any], *args: Any) -> tuple[Any, float, int]:
    began_s = time.process_time()
    result = call(*args)
    return result, time.process_time() - began_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else DETECTORS, Path(name)))
