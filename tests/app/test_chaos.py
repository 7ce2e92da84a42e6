"""Row 17: an operator that is killed at random points tells the same story as one that never was.

`FORESHOCK_KILLS=100 make unit ARGS=tests/app/test_chaos.py` kills it a hundred times; `FORESHOCK_TEST_SEED` gives a
seed back.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.app.chaos_driver import MANIFEST, METRIC
from tests.servers.binaries import require
from tests.servers.kubernetes import ControlPlane, new_namespace

from foreshock.app.shop import Series, openmetrics_lines
from foreshock.core.frame import Frame
from foreshock.lifecycle.replay import Alert, replay
from foreshock.manifests.detector import AnomalyDetector
from foreshock.operator.resources import ANOMALIES, MODELS
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running
from foreshock.store.history import History

KILLS = int(os.environ.get("FORESHOCK_KILLS", "10"))
SEED = int(os.environ.get("FORESHOCK_TEST_SEED") or random.randrange(1_000_000))
WINDOWS = 30 + 7 * KILLS
FAULT_EVERY, FAULT_FOR = 36, 8  # minutes


@dataclass(frozen=True, slots=True)
class Past:
    """Yesterday's Prometheus that knows tomorrow: `values` at `times_s`."""

    server: LocalPrometheus
    times_s: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float64]]
    start_s: int


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """A day of calm, then a fault every 36 minutes for as long as the test lives."""
    require("prometheus", "promtool", package="prometheus")
    folder = tmp_path_factory.mktemp("chaos")
    start_s = int(time.time()) // 60 * 60
    times_s = np.arange(start_s - 90_000, start_s + WINDOWS * 60 + 3600, 60)
    values = 40.0 + np.random.default_rng(11).normal(0, 2, times_s.size)
    minute = (times_s - start_s) // 60
    values[(minute > 0) & (minute % FAULT_EVERY >= FAULT_EVERY - FAULT_FOR)] += 300.0
    values = values.astype(np.float32).astype(np.float64)  # as Foreshock rounds what it reads
    (folder / "om").write_text("".join(openmetrics_lines((Series(METRIC, "gauge", "A test.", (), times_s, values),))))
    backfill(folder / "data", folder / "om")
    with running(folder) as server:
        yield Past(server, times_s, values, start_s)


def oracle(past: Past, manifest: AnomalyDetector, trained_to_s: int) -> tuple[Alert, ...]:
    """What `backtest` says of the same samples, with the model of the same hour: no process, no clock, no kill."""
    first = int(np.searchsorted(past.times_s, trained_to_s - manifest.spec.training.window))
    last = int(np.searchsorted(past.times_s, past.start_s + WINDOWS * 60))
    names = tuple(metric.name for metric in manifest.spec.named_metrics)
    frame = Frame(int(past.times_s[first]), 60, names, past.values[first : last + 1, None])
    return replay(manifest, frame, trained_to_s + 1, adapt=False).alerts


def test_a_hundred_deaths_and_one_story(kubernetes: ControlPlane, past: Past, tmp_path: Path) -> None:
    """SIGKILL at random points: incidents, events and their order are the oracle's; only equal events come twice."""
    print(f"FORESHOCK_KILLS={KILLS} FORESHOCK_TEST_SEED={SEED}")
    namespace = new_namespace(kubernetes)
    document = {**MANIFEST, "metadata": {"name": "checkout", "namespace": namespace}}
    kubernetes.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    plan = {
        "kubeconfig": str(kubernetes.kubeconfig), "namespace": namespace, "prometheus": past.server.url,
        "folder": str(tmp_path), "start_s": past.start_s, "windows": WINDOWS, "kills": KILLS, "seed": SEED,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.chaos_driver", json.dumps(plan)],
        capture_output=True, text=True, check=False, timeout=60 + 15 * KILLS,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    print(done.stdout)

    history = History(f"sqlite:///{tmp_path / 'state.db'}")
    (model,) = history.models(subject=AnomalyDetector.model_validate(document).subject)
    expected = oracle(past, AnomalyDetector.model_validate(document), model.trained_to_s)
    assert len(expected) >= 2
    incidents = {each.incident_id: each for each in history.incidents(namespace=namespace)}
    assert {key: (each.started_at_s, each.ended_at_s) for key, each in incidents.items()} == {
        each.incident_id: (each.started_at_s, each.ended_at_s) for each in expected
    }
    for alert in [each for each in expected if each.ended_at_s is not None]:  # of an open one the row says how it began
        assert incidents[alert.incident_id].peak_score == pytest.approx(alert.peak_score, rel=1e-6)

    events = [event for file in sorted(tmp_path.glob("events-*")) for event in _whole_lines(file)]
    first = list({event["id"]: event for event in events}.values())
    wanted = []
    for alert in expected:
        wanted.append((alert.incident_id, "firing"))
        if alert.ended_at_s is not None:
            wanted.append((alert.incident_id, "resolved"))
    assert [(event["data"]["incident"], event["data"]["status"]) for event in first] == wanted
    assert all(event == next(one for one in first if one["id"] == event["id"]) for event in events)
    twice = Counter(event["id"] for event in events)
    print(f"{len(events)} events, {len(twice)} different")

    shown = kubernetes.request("GET", ANOMALIES.path(namespace))["items"]
    assert {each["spec"]["incident"]: each["status"]["state"] for each in shown} == {
        key: "firing" if each.ended_at_s is None else "resolved" for key, each in incidents.items()
    }
    assert len(kubernetes.request("GET", MODELS.path(namespace))["items"]) == 1


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The events of one life; the last line may be cut off by its death, and was not delivered then."""
    lines = file.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]
