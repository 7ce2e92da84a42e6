"""The real engine in simulated time: every thread and every fit runs at once, and weeks pass in seconds.

What is not real is the clock and the port to Prometheus (`MetricSource`), which computes its samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from structlog.testing import capture_logs

from foreshock.app.engine import Engine
from foreshock.app.settings import Overrides, load_settings
from foreshock.core.verdicts import Subject
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.store.history import History

DAY_S, HOUR_S = 86_400, 3_600
START_S = 1_700_006_400  # a Wednesday, midnight UTC
TICK_S = 1_800.0
_SETTLED = 30  # turns of the loop after which whoever was woken sleeps again
Samples = Callable[[np.ndarray], np.ndarray]


class AtOnce(Executor):
    """Runs what is submitted before it returns, so that nothing is under way while nobody looks."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
            future.set_exception(error)
        return future


@dataclass
class SimulatedClock:
    """Sleepers wake on a grid of `tick_s`, in order, when `pass_time` says so."""

    time_s: float = START_S
    tick_s: float = TICK_S
    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def now_s(self) -> float:
        return self.time_s

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, duration_s: float) -> None:
        wakes_s = -(-(self.time_s + max(duration_s, 1e-3)) // self.tick_s) * self.tick_s
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (wakes_s, next(self._numbers), future))
        await future

    async def pass_time(self, until_s: float) -> None:
        """Let time pass, and everything happen that is due by then."""
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            self.time_s = self._sleepers[0][0]
            while self._sleepers and self._sleepers[0][0] <= self.time_s:
                future = heapq.heappop(self._sleepers)[2]
                if not future.done():
                    future.set_result(None)
            await _settle()
        self.time_s = until_s


async def _settle() -> None:
    for _ in range(_SETTLED):
        await asyncio.sleep(0)


@dataclass
class ComputedSource:
    """A datasource whose series are functions of time; nothing is there before `since_s`.

    `latency` is the one series of that query without labels, `latency@a` and `latency@b` are two with the label pod.
    """

    clock: SimulatedClock
    series: dict[str, Samples]
    since_s: float = 0.0

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        del deadline_s
        times_s = np.arange(query.start_s, query.end_s + 1, query.step_s)
        shown = (times_s >= self.since_s) & (times_s <= self.clock.now_s())
        found: dict[bytes, np.ndarray] = {}
        for name, samples in self.series.items():
            asked, _, pod = name.partition("@")
            values = np.where(shown, np.asarray(samples(times_s.astype(np.float64)), np.float64), np.nan)
            if asked == query.query and (not pod or np.isfinite(values).any()):
                found[json.dumps({"pod": pod} if pod else {}).encode()] = values.astype(np.float32).astype(np.float64)
        return Matrix(
            query.start_s, query.step_s, np.array(list(found.values())).reshape(len(found), len(times_s)),
            np.array([int.from_bytes(label[-3:-2]) + 1 for label in found], np.uint64), b"".join(found),
            np.cumsum([len(label) for label in found], dtype=np.int64),
        )  # fmt: skip

    async def now_s(self, *, deadline_s: float | None = None) -> float:
        del deadline_s
        return self.clock.now_s()


def noise(times_s: np.ndarray, seed: int = 0) -> np.ndarray:
    """Standard normal, and the same for an instant whoever asks."""
    state = (times_s.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(
        0xBF58476D1CE4E5B9
    )
    with np.errstate(over="ignore"):
        parts = []
        for _ in range(2):
            state ^= state >> np.uint64(30)
            state = state * np.uint64(0x94D049BB133111EB) + np.uint64(1)
            state ^= state >> np.uint64(27)
            parts.append((state >> np.uint64(11)).astype(np.float64) / 2**53)
    return np.sqrt(-2.0 * np.log(np.maximum(parts[0], 1e-12))) * np.cos(2 * np.pi * parts[1])


def daily(times_s: np.ndarray, middle: float, amplitude: float) -> np.ndarray:
    """A day's swing around a middle."""
    return middle + amplitude * np.sin(2 * np.pi * times_s / DAY_S)


def detector(name: str = "checkout", **spec: Any) -> AnomalyDetector:
    """One metric every half an hour, retrained each day from three days on."""
    training = {"window": "21d", "warm_up": "3d", "retrain_interval": "1d", **spec.pop("training", {})}
    fields = {
        "target_service": name, "prometheus_query": "latency", "step": "10m", "interval": "30m", "query_offset": "0s",
        "detection_window": "2h", "keep_firing_for": "1h", "training": training,
    }  # fmt: skip
    return AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": name},
            "spec": fields | spec,
        }
    )


class Simulation:
    """One engine, its database, its series and what it said."""

    def __init__(self, folder: Path, series: dict[str, Samples], *, since_s: float = 0.0) -> None:
        self.settings = load_settings(
            None, {}, Overrides("http://127.0.0.1:9", f"sqlite:///{folder / 'state.db'}", str(folder / "models"), None)
        )
        self.clock, self.stream, self.logs = SimulatedClock(), io.StringIO(), list[Any]()
        self.source = ComputedSource(self.clock, series, since_s)
        self.history = History(self.settings.database)
        self.engine = Engine(self.settings, self.history, clock=self.clock, executor=AtOnce(), events=self.stream)
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        opened.set_result(None)
        self.engine._clients["default"] = self.source, opened  # type: ignore[assignment]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line)["data"] for line in self.stream.getvalue().splitlines()]

    @property
    def said(self) -> list[str]:
        """What the log said, alerts aside."""
        return [line["event"] for line in self.logs if line["event"] != "alert"]

    def day(self, at_s: float) -> float:
        return (at_s - START_S) / DAY_S

    async def to_day(self, day: float) -> None:
        await self.clock.pass_time(START_S + day * DAY_S)

    def score(self, name: str = "checkout", *, shift: float = 12.0) -> float:
        """What the model that a detector has now says of its newest window, were it higher by `shift`."""
        (lane,) = self.engine._lanes.values()
        watch = lane.watches[Subject("default", name)]
        (row,) = watch.row_of_group.values()
        ring = watch.cohort.ring[row]
        ring[-watch.schema.window_steps :] += shift
        block = watch.cohort.judge(np.array([row]), np.array([True]), np.array([False]))
        ring[-watch.schema.window_steps :] -= shift
        return float(block.decisions.scores[0])


@contextlib.asynccontextmanager
async def simulated(folder: Path, series: dict[str, Samples], *, since_s: float = 0.0) -> AsyncIterator[Simulation]:
    """A running engine at `START_S`."""
    asyncio.get_running_loop().set_default_executor(_thread_of(AtOnce()))
    run = Simulation(folder, series, since_s=since_s)
    with capture_logs() as run.logs:
        task = asyncio.create_task(run.engine.run())
        try:
            yield run
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            run.history.close()


def _thread_of(executor: Executor) -> Any:
    """Asyncio insists on a ThreadPoolExecutor by type."""
    from concurrent.futures import ThreadPoolExecutor

    class Pool(ThreadPoolExecutor):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return executor.submit(call, *args, **kwargs)

    return Pool(1)
