"""The alert of the demo as an engineer on call reads it: by amtool, and by Kafka's console consumer."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.servers.alertmanager import NewAlertmanager
from tests.servers.binaries import require
from tests.servers.kafka import Kafka

from foreshock.alerting.event import AnomalyEvent, cloud_event
from foreshock.alerting.sinks.alertmanager import AlertmanagerSettings, AlertmanagerSink
from foreshock.alerting.sinks.base import Sink
from foreshock.alerting.sinks.kafka import KafkaSettings, KafkaSink
from foreshock.alerting.state import advance
from foreshock.app.changes import Cohorts, watch_of
from foreshock.app.clock import SystemClock
from foreshock.app.demo import MANIFESTS
from foreshock.app.shop import Story, shop_series
from foreshock.core.frame import Frame, as_samples
from foreshock.core.verdicts import Anomalous
from foreshock.detectors.model import train
from foreshock.engine.cohort import Revision
from foreshock.engine.decide import judgement, shares
from foreshock.engine.evidence import evidence_of
from foreshock.engine.facts import without_thin_metrics
from foreshock.engine.rebuild import rebuild
from foreshock.lifecycle.train import course_of
from foreshock.manifests.files import load
from foreshock.prometheus.settings import Datasource

STORY = Story(1_750_032_000)  # 2025-06-16T00:00:00Z, a Monday
CONSUME = Path(__file__).parents[3] / "tools/kafka/consume"
COLUMNS = (
    "shop_http_requests_per_second", "shop_http_request_latency_seconds", "shop_http_error_ratio",
    "shop_database_connection_pool_wait_milliseconds", "shop_cache_hit_ratio",
)  # fmt: skip


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The event at the end of the drift, of a model that learnt the week before it; rebuilt from its own evidence."""
    detector = next(each.detector for each in load([MANIFESTS]) if each.detector.metadata.name == "checkout-envelope")
    watch = watch_of(detector, Datasource(url="http://127.0.0.1:9"), Cohorts(), ())
    by_name = {each.name: each for each in shop_series(STORY, STORY.day_start_s - 7 * 86_400, STORY.drift_s[1])}
    values = as_samples(np.column_stack([by_name[name].values for name in COLUMNS]))
    schema, start_s = watch.schema, int(by_name[COLUMNS[0]].times_s[0])
    history = Frame(start_s, schema.step_s, schema.metrics, values).rows(0, 7 * 1_440)
    model = train(history, course_of(detector.spec), np.ones(history.n_times, np.bool_))
    cohort, row = watch.cohort, watch.row_of_group[()]
    cohort.install(row, model, Revision("v1", "v1-r1", "a" * 64, history.start_s, history.end_s))
    cohort.ring[row], cohort.ends_s[row] = values[-schema.context_steps :], STORY.drift_s[1]
    judged = cohort.judge(np.array([row]), np.ones(1, np.bool_), np.zeros(1, np.bool_))
    verdict = judged.decisions.verdict(0)
    assert isinstance(verdict, Anomalous)
    blamed = model.ensemble.contributions(without_thin_metrics(judged.vectors), watch.rules)
    said = judgement(
        watch.subject, STORY.drift_s[1], verdict, schema.metrics, shares(judged.decisions, judged.facts, blamed)[0]
    )
    _, (firing,) = advance(None, said, watch.policy, cluster="demo")
    event = cloud_event(firing, evidence_of(watch, row, judged.vectors[0], firing), cluster="demo", service="checkout")
    evidence = AnomalyEvent.model_validate(event).data.evidence
    assert evidence is not None
    assert evidence.replay is not None
    assert rebuild(evidence.replay, model).score == verdict.score
    return event


def _send(make: Callable[[], Sink], told: dict[str, Any]) -> None:
    async def send() -> None:
        sink = make()
        try:
            await sink.send(told, event_id=told["id"])
        finally:
            await sink.close()

    asyncio.run(send())


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_amtool_shows_what_moved_and_how_to_go_on(told: dict[str, Any], new_alertmanager: NewAlertmanager) -> None:
    """The sentence in one line; in the annotations the evidence, the leading query, the command that explains it."""
    require("amtool", package="prometheus-alertmanager")
    server = new_alertmanager()
    settings = AlertmanagerSettings.model_validate({"name": "oncall", "urls": [server.url]})
    _send(lambda: AlertmanagerSink(settings, SystemClock()), told)
    query = ["amtool", "alert", "query", "alertname=Anomaly", "--alertmanager.url", server.url]
    assert told["data"]["summary"] in _said(*query)
    (shown,) = json.loads(_said(*query, "-o", "json"))
    annotations = shown["annotations"]
    assert "shop_database_connection_pool_wait" in annotations["query"]
    assert "Contributions: pool_wait " in annotations["description"]
    assert " 0%" not in annotations["description"]
    assert annotations["explain"] == f"foreshock explain {told['data']['incident']}"


def test_the_console_consumer_shows_the_whole_evidence(told: dict[str, Any], kafka: Kafka) -> None:
    """One line of JSON, equal to the event that left, under the incident's key: `foreshock explain -` takes it."""
    topic = kafka.new_topic()
    settings = {"name": "bus", "bootstrap_servers": kafka.bootstrap_servers, "topic": topic}
    _send(lambda: KafkaSink(KafkaSettings.model_validate(settings)), told)
    options = ["--max-messages", "1", "--property", "print.key=true", "--property", "key.separator= "]
    key, _, line = _said(CONSUME, kafka.bootstrap_servers, topic, *options).partition(" ")
    assert key == told["data"]["incident"]
    event = AnomalyEvent.model_validate_json(line)
    assert json.loads(line) == told
    assert event.data.contributions[0].metric == "pool_wait"
    assert event.data.evidence is not None
    assert event.data.evidence.replay is not None
