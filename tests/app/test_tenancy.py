"""Row 25, end to end: training and backtest on a real Prometheus read the series of the manifest's namespace."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.app.hurried import until
from tests.servers.prometheus import NewPrometheus

from foreshock.app.changes import Cohorts, watch_of
from foreshock.app.engine import Engine, lane_key
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.cli.main import main
from foreshock.lifecycle.trainer import Trainer
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History

NOW_S = int(time.time()) // 60 * 60


@pytest.fixture
def shared(new_prometheus: NewPrometheus) -> LocalPrometheus:
    """Two days of one metric of two namespaces: a bare query returns both, which no detector can use."""
    random = np.random.default_rng(5)
    times_s = range(NOW_S - 2 * 86_400, NOW_S, 60)
    return new_prometheus(
        {
            f'pool_wait{{namespace="{namespace}"}}': [
                (float(at_s), float(value))
                for at_s, value in zip(times_s, level + random.normal(0, 1, len(times_s)), strict=True)
            ]
            for namespace, level in (("shop", 40.0), ("bank", 4000.0))
        }
    )


def manifest(namespace: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": "wait", "namespace": namespace},
        "spec": {
            "target_service": "checkout",
            "prometheus_query": "pool_wait",
            "detection_window": "10m",
            "training": {"window": "2d", "warm_up": "1d"},
            **spec,
        },
    }


def configured(server: LocalPrometheus, folder: Path) -> dict[str, object]:
    return {
        "datasources": [{"url": server.url, "namespace_label": "namespace"}],
        "database": f"sqlite:///{folder}/state.db",
        "artifacts": str(folder / "models"),
    }


def test_backtest_reads_one_namespace_and_shows_what_it_asked(
    shared: LocalPrometheus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bare query, of which Prometheus has two series, is judged on the one of its namespace; the report says so."""
    (tmp_path / "detector.yaml").write_text(yaml.safe_dump(manifest("shop")))
    (tmp_path / "foreshock.yaml").write_text(yaml.safe_dump(configured(shared, tmp_path)))
    report = tmp_path / "report.html"
    arguments = ["backtest", str(tmp_path / "detector.yaml"), "--config", str(tmp_path / "foreshock.yaml")]
    assert main([*arguments, "--from=-2h", "--report", str(report), "--output", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["detectors"]
    assert entry["verdicts"]["normal"] > 100
    assert "pool_wait{namespace=&#34;shop&#34;}" in report.read_text()
    assert "bank" not in report.read_text()


def test_backtest_refuses_a_query_for_another_namespace(
    shared: LocalPrometheus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one sentence that names the detector, and nothing is asked."""
    wanted = manifest("shop", prometheus_query='pool_wait{namespace="bank"}')
    (tmp_path / "detector.yaml").write_text(yaml.safe_dump(wanted))
    (tmp_path / "foreshock.yaml").write_text(yaml.safe_dump(configured(shared, tmp_path)))
    arguments = ["backtest", str(tmp_path / "detector.yaml"), "--config", str(tmp_path / "foreshock.yaml")]
    assert main([*arguments, "--from=-2h", "--output", "json"]) == 1
    said = capsys.readouterr().err
    assert 'shop/wait: the query asks for namespace="bank", and detectors of the namespace shop read only' in said


async def test_training_reads_one_namespace(shared: LocalPrometheus, tmp_path: Path) -> None:
    """The model of a bare query is learnt from the namespace's series; the evidence names the query that was sent."""
    settings = Settings.model_validate(configured(shared, tmp_path))
    source = settings.datasource(None)
    watch = watch_of(AnomalyDetector.model_validate(manifest("shop")), source, Cohorts(), ())
    assert [metric.query for metric in watch.metrics] == ['pool_wait{namespace="shop"}']
    history = History(settings.database)
    with ThreadPoolExecutor(1) as executor:
        async with PrometheusClient(source) as client:
            trainer = Trainer(client, ArtifactStore(settings.artifacts_folder), history, executor)
            learnt = await trainer.learn(watch, float(NOW_S))
    history.close()
    assert learnt.ready, learnt.message


def test_namespaces_that_are_told_apart_are_judged_apart() -> None:
    """No query serves two of them, and a slow one delays its own cycle alone; without the setting they share."""
    apart = Datasource(url="http://a", namespace_label="namespace")
    assert [lane_key(apart, each) for each in ("shop", "bank")] == [("default", "shop"), ("default", "bank")]
    assert {lane_key(Datasource(url="http://a"), each) for each in ("shop", "bank")} == {("default", None)}


async def test_the_query_time_of_each_namespace_is_shown(shared: LocalPrometheus, tmp_path: Path) -> None:
    """What the queries of a namespace take is a metric with its name, from the engine's own requests."""
    settings = Settings.model_validate(configured(shared, tmp_path))
    history, metrics = History(settings.database), Metrics()
    engine = Engine(settings, history, metrics=metrics, executor=ThreadPoolExecutor(1))
    engine.put(AnomalyDetector.model_validate(manifest("shop")))
    running = asyncio.create_task(engine.run())
    labels = {"datasource": "default", "namespace": "shop"}
    try:
        await until(
            lambda: (metrics.registry.get_sample_value("foreshock_namespace_query_seconds_total", labels) or 0.0) > 0.0
        )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        history.close()
