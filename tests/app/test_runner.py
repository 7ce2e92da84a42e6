"""`foreshock run` on a real Prometheus: learns, alerts once, survives SIGKILL and an outage, and keeps its alert."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from foreshock.app.shop import Series, openmetrics_lines
from foreshock.prometheus.local_server import LocalPrometheus, backfill, start

MANIFEST = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyDetector",
    "metadata": {"name": "checkout"},
    "spec": {
        "target_service": "checkout",
        "metrics": [{"name": "pool_wait", "query": "pool_wait"}, {"name": "errors", "query": "errors"}],
        "detection_window": "10m",
        "query_offset": "0s",
        "training": {"window": "2d", "warm_up": "1d"},
        "keep_firing_for": "1h",
    },
}


def _history(now_s: int, *, broken: bool) -> tuple[Series, ...]:
    """Two days until well after now, so that instants yet to come hold samples; the fault began an hour ago."""
    random = np.random.default_rng(3)
    times_s = np.arange(now_s // 60 * 60 - 2 * 86_400, now_s // 60 * 60 + 1800, 60)
    wait = 40.0 + random.normal(0, 2, times_s.size)
    if broken:
        wait[times_s > now_s - 3600] += 300.0
    errors = 0.01 + random.normal(0, 0.001, times_s.size)
    return (
        Series("pool_wait", "gauge", "A test.", (), times_s, wait),
        Series("errors", "gauge", "A test.", (), times_s, errors),
    )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[[], LocalPrometheus]]:
    """Starts a Prometheus that holds the broken history; a second call starts it again on the same data."""
    file = tmp_path / "shop.om"
    file.write_text("".join(openmetrics_lines(_history(int(time.time()), broken=True))))
    backfill(tmp_path / "prometheus" / "data", file)
    servers: list[LocalPrometheus] = []

    def run() -> LocalPrometheus:
        servers.append(start(tmp_path / "prometheus"))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


class _Run:
    """One `foreshock run` in a folder of its own state."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "detector.yaml").write_text(yaml.safe_dump(MANIFEST))
        self.events = (folder / "events.jsonl").open("a")
        self.log = (folder / "log.jsonl").open("a")
        command = [Path(sys.executable).with_name("foreshock"), "run", folder / "detector.yaml", "--prometheus", url]
        state = ["--database", f"sqlite:///{folder}/state.db", "--artifacts", folder / "models"]
        self.process = subprocess.Popen(
            [*command, *state, "--listen", "127.0.0.1:0"], stdout=self.events, stderr=self.log, cwd=folder
        )

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        self.events.close()
        self.log.close()
        return self.process.wait(20)


def _wait_for(what: Callable[[], bool], folder: Path, within_s: float = 300) -> None:
    ends_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends_s, (folder / "log.jsonl").read_text()[-3000:]
        time.sleep(0.2)


def _firing(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_one_alert_through_sigkill_and_a_restart(shop: Callable[[], LocalPrometheus], tmp_path: Path) -> None:
    """It trains at once from what is there, alerts, and a killed and restarted run neither repeats nor forgets."""
    server, folder = shop(), tmp_path / "run"
    folder.mkdir()
    first = _Run(folder, server.url)
    try:
        _wait_for(lambda: bool(_firing(folder)), folder)
    finally:
        first.stop(signal.SIGKILL)
    event = _firing(folder)[0]
    data = event["data"]
    assert isinstance(data, dict)
    assert data["status"] == "firing"
    assert data["contributions"][0]["metric"] == "pool_wait"
    assert data["model"]["revision"] == "v1-r1"
    server.stop()
    again = shop()
    second = _Run(folder, again.url)
    try:
        _wait_for(lambda: "v1-r1 judges" in (folder / "log.jsonl").read_text(), folder)
        log_length = len((folder / "log.jsonl").read_text())
        again.stop()  # an outage: "no data" must not resolve anything
        _wait_for(lambda: "PrometheusUnavailable" in _said_since(folder, log_length), folder, 150)
    finally:
        assert second.stop(signal.SIGTERM) == 0
    assert [each["id"] for each in _firing(folder)] == [event["id"]]


def _said_since(folder: Path, length: int) -> str:
    return (folder / "log.jsonl").read_text()[length:].replace("DatasourceUnavailable", "PrometheusUnavailable")
