"""Lets an operator live and die, again and again, on a clock that jumps from window to window.

Run as a process of its own with a plan in JSON. It forks, so that a life begins in milliseconds; each life is a real
process with a real API server, Prometheus, database and sink. Time stands still while nobody lives, as if every restart
were quicker than an interval: what is judged is then the same as without any death, and so must be what is told.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.app.hurried import HurriedClock

from foreshock.app.metrics import Metrics
from foreshock.app.operator import Operator
from foreshock.app.settings import Overrides, load_settings
from foreshock.engine.cycle import Summary
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.lease import Timing
from foreshock.prometheus.client import PrometheusClient

METRIC = "pool_wait"
MANIFEST = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyDetector",
    "spec": {
        "target_service": "checkout", "prometheus_query": METRIC, "detection_window": "10m", "query_offset": "0s",
        "keep_firing_for": "5m", "training": {"window": "1d", "warm_up": "12h", "retrain_interval": "7d"},
    },
}  # fmt: skip
TIMING = Timing(duration_s=1.0, renew_deadline_s=0.8, retry_s=0.1)  # of the real clock, which goes on
FIRST_LIFE_WITHIN_S, LAST_LIFE_WITHIN_S = 60.0, 300.0
AFTER_THE_WINDOW_S = 1.0


class Life:
    """One process: judges a window, says so, and jumps to the next one."""

    def __init__(self, plan: dict[str, Any], number: int, now_s: float, say: int) -> None:
        self.plan, self.say = plan, say
        self.end_s = plan["start_s"] + plan["windows"] * 60
        self.committed_to_s = 0
        self.clock = HurriedClock()
        self.clock.skip(now_s - self.clock.now_s())
        self.events = (Path(plan["folder"]) / f"events-{number:04}").open("a", buffering=1)

    async def live(self, *, until_trained: bool = False) -> None:
        plan = self.plan
        folder = Path(plan["folder"])
        settings = load_settings(
            None, {}, Overrides(plan["prometheus"], f"sqlite:///{folder}/state.db", f"{folder}/models", "127.0.0.1:0")
        )
        config = load_kubeconfig(Path(plan["kubeconfig"]))
        config.context.namespace = plan["namespace"]

        async def now_s(_: object, **__: object) -> float:
            return self.clock.now_s()

        PrometheusClient.now_s = now_s  # type: ignore[method-assign]  # the datasource lives in the same time
        async with ApiServer(config, timeout_s=5) as api:
            self.operator = Operator(
                settings, api, namespaces=(plan["namespace"],), clock=self.clock, metrics=Metrics(),
                events=self.events, executor=lambda: ThreadPoolExecutor(1), timing=TIMING, status_every_s=0.1,
                on_cycle=self.judged,
            )  # fmt: skip
            running = asyncio.create_task(self.operator.run())
            done = self.has_trained if until_trained else self.is_over
            while not running.done() and not await asyncio.to_thread(done):  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def judged(self, _: Summary) -> None:
        """A window was judged and committed: its time is over, but not before there is a model."""
        watch = self.watch
        if watch is None or not any(each is not None for each in watch.cohort.revisions):
            return
        self.committed_to_s, next_s = watch.judged_at_s, watch.judged_at_s + 60
        os.write(self.say, f"{next_s}\n".encode())
        if next_s <= self.end_s:
            self.clock.skip(next_s + AFTER_THE_WINDOW_S - self.clock.now_s())

    @property
    def watch(self) -> Any:
        engine = self.operator.engine
        lanes = engine._lanes.values() if engine is not None else ()
        return next((watch for lane in lanes for watch in lane.watches.values()), None)

    def has_trained(self) -> bool:
        return bool(self.watch and any(each is not None for each in self.watch.cohort.revisions))

    def is_over(self) -> bool:
        """Everything is judged, delivered and shown."""
        reporter = self.operator.reporter
        if reporter is None or self.committed_to_s < self.end_s:
            return False
        incidents = self.operator._history.incidents(namespace=self.plan["namespace"])
        waiting = reporter.waiting + sum(each.rows for each in self.operator._history.backlog())
        shown = sorted(each.state for each in self.operator.anomalies.objects.values())
        return not waiting and shown == sorted(each.status.value for each in incidents)


def fork(plan: dict[str, Any], number: int, now_s: float, *, until_trained: bool = False) -> tuple[int, int]:
    """Start a life: its process, and the pipe in which it says which windows are over."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            asyncio.run(Life(plan, number, now_s, writer).live(until_trained=until_trained))
            code = 0
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    return child, reader


def heard(reader: int, now_s: float) -> float:
    """The newest window that was said to be over."""
    text = b""
    while got := os.read(reader, 65_536):
        text += got
    os.close(reader)
    whole = text.split(b"\n")[:-1]
    return max([now_s, *(int(line) + AFTER_THE_WINDOW_S for line in whole)])


def main(plan: dict[str, Any]) -> None:
    """One life that trains, as many that are killed, and one that comes to the end."""
    chance, now_s = random.Random(plan["seed"]), plan["start_s"] + AFTER_THE_WINDOW_S
    child, reader = fork(plan, 0, now_s, until_trained=True)
    wait_for_end(child, FIRST_LIFE_WITHIN_S)
    heard(reader, now_s)  # nothing is over yet: every window is judged by the model
    for number in range(1, plan["kills"] + 1):
        child, reader = fork(plan, number, now_s)
        windows = chance.randrange(0, 14)
        ends_s = time.monotonic() + 30
        text = b""
        while text.count(b"\n") < windows and time.monotonic() < ends_s:
            if select.select([reader], [], [], 0.5)[0]:
                got = os.read(reader, 4096)
                if not got:
                    break
                text += got
        time.sleep(chance.uniform(0.0, 0.15) if windows else chance.uniform(0.0, 2.5))  # the kill falls anywhere
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and status:  # one that came to the end of the story ends well
            sys.exit(f"life {number} ended by itself with {status}")
        said = [int(line) + AFTER_THE_WINDOW_S for line in text.split(b"\n")[:-1]]
        now_s = heard(reader, max([now_s, *said]))
        print(f"seed={plan['seed']} life={number} windows={len(said)} minute={(now_s - plan['start_s']) // 60:.0f}")
    child, reader = fork(plan, plan["kills"] + 1, now_s)
    wait_for_end(child, LAST_LIFE_WITHIN_S)
    os.close(reader)


def wait_for_end(child: int, within_s: float) -> None:
    """Until a life ends by itself, and well."""
    ends_s = time.monotonic() + within_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                sys.exit(f"a life ended with {status}")
            return
        if time.monotonic() > ends_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit("a life does not come to its end")
        time.sleep(0.05)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
