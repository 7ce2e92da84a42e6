"""Measure how late an alert is: from the sample being in Prometheus to the alert being in Kafka and Alertmanager.

python -m bench.delivery

`foreshock run` as users start it, with an interval of a minute and the default query offset, on a real Prometheus with
a sample of each series every 15 s; real broker, real Alertmanager. Every series breaks at a moment of its own. The
newest sample of a judgement is the last one that its window holds; the oldest is the first one that no earlier
judgement had seen: it waited for the whole interval, and its figure is the promise.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bench.row import Row
from confluent_kafka import Consumer

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers import alertmanager as alertmanagers
from tests.servers import kafka as brokers
from tests.servers.alertmanager import Alertmanager
from tests.servers.kafka import Kafka
from tests.servers.processes import launch

from foreshock.app.shop import Series, openmetrics_lines
from foreshock.prometheus.local_server import backfill, running

DETECTORS, GROUPS = 8, 8  # each detector has a phase of its own, each group a series that breaks at its own moment
INTERVAL_S, OFFSET_S, SCRAPE_S = 60, 30, 15
HISTORY_S = 86_400 + 3_600
LEARNING_S = 90  # until the first series breaks
BREAKING_S = 60
PROMISE_S = INTERVAL_S + OFFSET_S + 2


@dataclass(slots=True)
class Arrivals:
    """When each event was first seen, UTC seconds, and the events by id."""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    in_kafka_s: dict[str, float] = field(default_factory=dict)
    in_alertmanager_s: dict[str, float] = field(default_factory=dict)


def series(number: int, group: int, now_s: int) -> Series:
    """Two hours and a day that are quiet, and a break; scraped every 15 s at an instant of its own."""
    chance = np.random.default_rng(number * GROUPS + group)
    ahead_s = LEARNING_S + BREAKING_S + 600
    times_s = np.arange(now_s - HISTORY_S, now_s + ahead_s, SCRAPE_S) + int(chance.integers(SCRAPE_S))
    values = 40.0 + chance.normal(0.0, 2.0, times_s.size)
    values[times_s >= now_s + LEARNING_S + chance.uniform(0.0, BREAKING_S)] += 400.0
    return Series(f"wait_{number}", "gauge", "A bench.", (("pool", str(group)),), times_s, values)


def manifest(number: int) -> dict[str, Any]:
    spec = {
        "target_service": "checkout", "prometheus_query": f"wait_{number}", "group_by": ["pool"], "interval": "1m",
        "detection_window": "10m", "seasonality": [], "algorithm": "level",
        "training": {"window": "1d", "warm_up": "1d"},
    }  # fmt: skip
    metadata = {"name": f"wait-{number}"}
    return {"apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": metadata, "spec": spec}


def run() -> list[Row]:
    """The figures, in four minutes."""
    with tempfile.TemporaryDirectory(prefix="foreshock-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        now_s = int(time.time())
        every = [series(number, group, now_s) for number in range(DETECTORS) for group in range(GROUPS)]
        lines = openmetrics_lines(tuple(every))
        (folder / "history.om").write_text(_one_family_each("".join(lines)))
        backfill(folder / "prometheus/data", folder / "history.om")
        prometheus = stack.enter_context(running(folder / "prometheus"))
        for each in ("kafka", "alertmanager"):
            (folder / each).mkdir()
        kafka = stack.enter_context(brokers.serving(folder / "kafka"))
        alertmanager = stack.enter_context(alertmanagers.serving(folder / "alertmanager"))
        topic = kafka.new_topic()
        stack.enter_context(_foreshock(folder, prometheus.url, kafka, topic, alertmanager))
        arrivals = _watch(
            kafka, topic, alertmanager, until_s=now_s + LEARNING_S + BREAKING_S + INTERVAL_S + OFFSET_S + 45
        )
        times_s = {f"{one.name}/{dict(one.labels)['pool']}": one.times_s for one in every}
    return [row for sink in ("Kafka", "Alertmanager") for row in _rows(sink, arrivals, times_s)]


def _one_family_each(text: str) -> str:
    """Several series of one family share its head."""
    seen, kept = set[str](), []
    for line in text.splitlines():
        if line.startswith("# ") and line != "# EOF":
            if line in seen:
                continue
            seen.add(line)
        kept.append(line)
    return "\n".join([*kept, ""])


@contextmanager
def _foreshock(folder: Path, url: str, kafka: Kafka, topic: str, alertmanager: Alertmanager) -> Iterator[None]:
    settings = {
        "datasources": [{"name": "default", "url": url}],
        "sinks": [
            {"name": "bus", "type": "kafka", "bootstrap_servers": kafka.bootstrap_servers, "topic": topic},
            {"name": "oncall", "type": "alertmanager", "urls": [alertmanager.url]},
        ],
        "default_sinks": ["bus", "oncall"],
        "database": f"sqlite:///{folder}/state.db",
        "artifacts": str(folder / "models"),
        "listen": "127.0.0.1:0",
    }
    (folder / "foreshock.yaml").write_text(yaml.safe_dump(settings))
    documents = [manifest(number) for number in range(DETECTORS)]
    (folder / "detectors.yaml").write_text(yaml.safe_dump_all(documents))
    command = [str(Path(sys.executable).with_name("foreshock")), "run", str(folder / "detectors.yaml")]
    server = launch([*command, "--config", str(folder / "foreshock.yaml")], folder / "foreshock.log")
    try:
        yield
        if not server.is_running:
            raise SystemExit(f"foreshock run ended: {server.last_words()}")
    finally:
        server.stop(signal.SIGINT)


def _watch(kafka: Kafka, topic: str, alertmanager: Alertmanager, *, until_s: float) -> Arrivals:
    arrivals, looked_s = Arrivals(), 0.0
    consumer = Consumer({
        "bootstrap.servers": kafka.bootstrap_servers, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 20, "enable.auto.commit": False,
    })  # fmt: skip
    consumer.subscribe([topic])
    try:
        while time.time() < until_s and len(arrivals.in_alertmanager_s) < DETECTORS * GROUPS:
            message = consumer.poll(0.05)
            if message is not None and message.error() is None:
                event = json.loads(message.value())
                arrivals.events[event["id"]] = event
                arrivals.in_kafka_s.setdefault(event["id"], time.time())
            if time.time() - looked_s > 0.2:
                looked_s = time.time()
                for alert in alertmanager.alerts():
                    taken_s = datetime.fromisoformat(alert["updatedAt"]).timestamp()
                    arrivals.in_alertmanager_s.setdefault(alert["annotations"]["event_id"], taken_s)
    finally:
        consumer.close()
    return arrivals


def _rows(sink: str, arrivals: Arrivals, times_s: dict[str, Any]) -> list[Row]:
    seen = arrivals.in_kafka_s if sink == "Kafka" else arrivals.in_alertmanager_s
    newest, oldest = [], []
    for event_id, arrived_s in seen.items():
        event = arrivals.events[event_id]
        samples = times_s[f"{event['data']['queries'][0]['query'].partition('{')[0]}/{event['data']['group']['pool']}"]
        judged_s = datetime.fromisoformat(event["time"]).timestamp()
        new = samples[(samples > judged_s - INTERVAL_S) & (samples <= judged_s)]
        newest.append(arrived_s - float(new[-1]))
        oldest.append(arrived_s - float(new[0]))
    if len(newest) < DETECTORS * GROUPS // 2:
        raise SystemExit(f"only {len(newest)} of {DETECTORS * GROUPS} alerts came: the machine is too busy to measure")
    if (latest := _quantile(oldest, 0.99)) > PROMISE_S:
        raise SystemExit(f"p99 in {sink} is {latest:.1f} s, beyond the {PROMISE_S} s that were promised")
    return [
        Row(f"{sink}, newest sample, p50 of {len(newest)} alerts", statistics.median(newest), "s"),
        Row(f"{sink}, newest sample, p99", _quantile(newest, 0.99), "s"),
        Row(f"{sink}, oldest new sample, p50", statistics.median(oldest), "s"),
        Row(f"{sink}, oldest new sample, p99; below {PROMISE_S} s", _quantile(oldest, 0.99), "s"),
    ]


def _quantile(values: list[float], share: float) -> float:
    """The nearest rank, which is one of the values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:<60}{row.value:>8.2f} {row.unit}")
