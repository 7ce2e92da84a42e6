"""Broker down for a scaled hour, Alertmanager killed, webhook answering 500, our process killed at random points.

python -m tests.alerting.chaos --kills 100 [--seed 7]

Afterwards every event has to be at every sink, repeats under the same id, beginning before end, and Alertmanager has to
show exactly what is open. Prints the seed and the figures; exits 1 with a sentence where something is missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.alerting.life import OPEN_FOR, SINKS, FastClock, Orders, live
from tests.alerting.sinks.events import transitions
from tests.servers import alertmanager as alertmanagers
from tests.servers import kafka as brokers
from tests.servers.alertmanager import Alertmanager
from tests.servers.kafka import Kafka
from tests.servers.processes import until

from foreshock.store.history import History

HOUR_S = 3_600.0
DRAINED_WITHIN_S = 120.0


@dataclass
class Gate:
    """A webhook receiver, and before Alertmanager a witness of what it took; both in order."""

    alertmanager_url: str
    webhook_status: int = 200
    hooked: list[str] = field(default_factory=list)  # event ids
    alerted: list[str] = field(default_factory=list)  # event ids
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def open(self) -> Iterator[None]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/hook":
                    status = gate.webhook_status
                    if status == 200:
                        gate.hooked.append(json.loads(body)["id"])
                else:
                    status = gate.forward(self.path, body)
                    if status == 200:
                        gate.alerted += [one["annotations"]["event_id"] for one in json.loads(body)]
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            self.server.shutdown()
            self.server.server_close()

    def forward(self, path: str, body: bytes) -> int:
        request = urllib.request.Request(
            f"{self.alertmanager_url}{path}", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 502


@dataclass
class Chaos:
    """One run: lives that are killed, servers that come and go."""

    kafka: Kafka
    alertmanager: Alertmanager
    gate: Gate
    topic: str
    chance: random.Random
    orders: Orders

    def run(self, kills: int) -> int:
        """The number of incidents that were committed."""
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(["tests.alerting.life"])
        committed, begun = processes.Value("l", 0), processes.Value("l", 0)
        began_s = 0.0
        for number in range(kills):
            if number == kills // 6:
                began_s = time.monotonic()
                self.kafka.kill()
            if number == kills // 4:
                self.gate.webhook_status = 500
            life = processes.Process(target=live, args=(self.orders, committed, begun))
            life.start()
            until(lambda number=number: begun.value > number, within_s=60, what="a life begins")  # type: ignore[misc]
            if self.chance.random() < 0.2:
                self.alertmanager.kill()
            life.join(self.chance.uniform(0.05, 0.5) if self.chance.random() < 0.8 else self.chance.uniform(0.5, 2.5))
            if life.exitcode is not None:
                sys.exit(f"a life ended by itself with {life.exitcode}")
            life.kill()
            life.join()
            if not self.alertmanager.server.is_running and self.chance.random() < 0.7:
                self.alertmanager.restart()
            if number == kills * 2 // 3:
                down_s = time.monotonic() - began_s
                print(f"broker down {down_s:.1f} s, scaled {down_s * self.orders.clock.factor / 60:.0f} min")
                self.kafka.restart()
            if number == kills // 2:
                self.gate.webhook_status = 200
        self.alertmanager.kill()  # whatever stands now, only a re-send can bring back
        self.alertmanager.restart()
        print(f"{committed.value} of {self.orders.most} incidents were committed by lives that were killed")
        last = processes.Process(target=live, args=(self.orders, committed, begun))
        last.start()
        drained_s = time.monotonic()
        while self.what_is_missing(committed.value):
            if time.monotonic() - drained_s > DRAINED_WITHIN_S:
                sys.exit(f"after {DRAINED_WITHIN_S:.0f} s: {self.what_is_missing(committed.value)}")
            time.sleep(0.3)
        print(f"drained {time.monotonic() - drained_s:.1f} s after the last kill")
        last.kill()
        last.join()
        return int(committed.value)

    def what_is_missing(self, n_committed: int) -> str:
        """Why it is not over yet, or nothing."""
        history = History(self.orders.url)
        try:
            backlog = history.backlog()
        finally:
            history.close()
        if n_committed < self.orders.most or backlog:
            return f"{n_committed} of {self.orders.most} incidents, {backlog}"
        open_now = {
            transitions(number)[0].incident_id for number in range(self.orders.most - OPEN_FOR, self.orders.most)
        }
        firing = self.alertmanager.firing()
        return "" if firing == open_now else f"{len(firing)} alerts fire, {len(open_now)} incidents are open"

    def check(self) -> None:
        """Exit where an event is missing somewhere, came under another id, or an end before its beginning."""
        expected = {one.event_id for number in range(self.orders.most) for one in transitions(number)}
        expected -= {transitions(self.orders.most - 1 - number)[1].event_id for number in range(OPEN_FOR)}
        records = self.kafka.records(self.topic)
        wrong = [one for one in records if json.loads(one.value)["id"] != one.headers["event_id"]]
        took = {
            "bus": [one.headers["event_id"] for one in records],
            "oncall": self.gate.alerted,
            "hook": self.gate.hooked,
        }
        if wrong or {one.key for one in records} != {one.split("/")[0] for one in expected}:
            sys.exit("a record of Kafka has another id or key than its event")
        for sink, ids in took.items():
            if set(ids) != expected:
                sys.exit(
                    f"{sink}: {len(expected - set(ids))} events are missing, {len(set(ids) - expected)} are foreign"
                )
            first = {one: place for place, one in reversed(list(enumerate(ids)))}
            for number in range(self.orders.most - OPEN_FOR):
                firing, resolved = transitions(number)
                if first[firing.event_id] > first[resolved.event_id]:
                    sys.exit(f"{sink}: incident {number} ended before it began")
            most = max(Counter(ids).values())
            print(f"{sink}: {len(expected)} events, {len(ids) - len(expected)} repeats, at most {most} of one")


def main(arguments: list[str] | None = None) -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args(arguments)
    print(f"seed={options.seed} kills={options.kills}", flush=True)
    with tempfile.TemporaryDirectory(prefix="foreshock-chaos-") as folder:
        for name in ("kafka", "alertmanager"):
            (Path(folder) / name).mkdir()
        with (
            brokers.serving(Path(folder) / "kafka") as kafka,
            alertmanagers.serving(Path(folder) / "alertmanager") as alertmanager,
        ):
            gate = Gate(alertmanager.url)
            topic = kafka.new_topic()
            with gate.open():
                sinks = (
                    {"type": "kafka", "bootstrap_servers": kafka.bootstrap_servers, "topic": topic, "timeout_s": 1},
                    {"type": "alertmanager", "urls": [gate.url], "timeout_s": 2, "resend_s": 0.5},
                    {"type": "webhook", "url": f"{gate.url}/hook", "allow_private": True, "timeout_s": 2},
                )
                named = tuple({"name": name, **sink} for name, sink in zip(SINKS, sinks, strict=True))
                # The half of the lives, each of 0.3 s and more, is to be an hour
                clock = FastClock(HOUR_S / (options.kills * 0.15), time.time())
                orders = Orders(f"sqlite:///{folder}/foreshock.db", named, clock, most=options.kills * 6)
                chaos = Chaos(kafka, alertmanager, gate, topic, random.Random(options.seed), orders)
                incidents = chaos.run(options.kills)
                chaos.check()
                print(f"{incidents} incidents, {options.kills} kills: nothing is missing")


if __name__ == "__main__":
    main()
