"""A small shop of detectors on a real Prometheus, their models in a folder, and two engines that judge them alike."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.servers.prometheus import Samples

from foreshock.app.changes import Cohorts, watch_of
from foreshock.core.frame import Frame
from foreshock.detectors.model import Model, dump, load
from foreshock.engine.cohort import Judged, Revision
from foreshock.engine.gather import Gathered, Gathers
from foreshock.engine.groups import Group, frames_of
from foreshock.engine.watch import Watch
from foreshock.lifecycle.train import train_revision
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore

STEP_S = 60
END_S = 1_760_000_040 // STEP_S * STEP_S  # a fixed past: nothing here depends on today
HISTORY_STEPS = 2 * 1_440
WINDOW = "30m"


def history() -> dict[str, Samples]:
    """Two days: one metric, three metrics with gaps and a load, one metric of four pods of which one vanishes."""
    chance = random.Random(11)
    times = [END_S + STEP_S * k for k in range(-HISTORY_STEPS, 60)]
    wave = [math.sin(2 * math.pi * time_s / 86_400) for time_s in times]
    series: dict[str, Samples] = {}
    for job in ("one", "two", "three"):
        series[f'wait{{job="{job}"}}'] = [
            (time_s, 40 + 5 * up + chance.gauss(0, 1)) for time_s, up in zip(times, wave, strict=True)
        ]
    load = [900 + 300 * up + chance.gauss(0, 20) for up in wave]
    series['requests{job="shop"}'] = list(zip(times, load, strict=True))
    series['latency{job="shop"}'] = [
        (time_s, 0.2 + each / 9_000 + chance.gauss(0, 0.01))
        for time_s, each in zip(times, load, strict=True)
        if chance.random() > 0.03
    ]
    series['errors{job="shop"}'] = [(time_s, abs(chance.gauss(0, 1e-3)) / 3.0) for time_s in times[::2]]
    for pod in ("a", "b", "c", 'd"\\é'):
        escaped = pod.replace("\\", "\\\\").replace('"', '\\"')
        until_s = END_S - 600 if pod == "c" else END_S + 3600
        series[f'queue{{pod="{escaped}"}}'] = [
            (time_s, 10 + chance.gauss(0, 1)) for time_s in times if time_s <= until_s
        ]
    return series


def detectors() -> list[AnomalyDetector]:
    """Three that share a template, one of three metrics, one of four groups."""
    three = [
        {"name": "requests", "query": 'requests{job="shop"}', "role": "load"},
        {"name": "latency", "query": 'latency{job="shop"}'},
        {"name": "errors", "query": 'errors{job="shop"}'},
    ]
    alone = [_detector(job, metrics=[{"name": "wait", "query": f'wait{{job="{job}"}}'}]) for job in JOBS]
    return [*alone, _detector("shop", metrics=three), _detector("pods", prometheus_query="queue", group_by=["pod"])]


JOBS = ("one", "two", "three")


def _detector(name: str, **spec: object) -> AnomalyDetector:
    return AnomalyDetector.model_validate({
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "target_service": name,
            "detection_window": WINDOW,
            "query_offset": "0s",
            "throttle": {"force_every": 1},
            "training": {"window": "2d", "warm_up": "1d"},
            **spec,
        },
    })  # fmt: skip


async def learn(
    client: PrometheusClient, manifests: Sequence[AnomalyDetector], artifacts: Path
) -> dict[str, dict[Group, tuple[str, Model]]]:
    """Train every detector on the history and keep its models: digest and model by group, by detector."""
    store = ArtifactStore(artifacts)
    learnt: dict[str, dict[Group, tuple[str, Model]]] = {}
    for manifest in manifests:
        spec = manifest.spec
        from_s = END_S - (HISTORY_STEPS - 10) * STEP_S
        matrices = [
            await client.range(RangeQuery(metric.query, from_s, END_S - 1200, STEP_S)) for metric in spec.named_metrics
        ]
        for group, frame in frames_of(manifest, matrices).items():
            model = _trained(manifest, frame)
            arrays, facts = dump(model)
            digest = store.put(arrays, {"model": facts})
            document, kept = store.get(digest)
            learnt.setdefault(manifest.subject.detector, {})[group] = (digest, load(kept, document["model"]))
    return learnt


def _trained(manifest: AnomalyDetector, frame: Frame) -> Model:
    return train_revision(manifest.spec, frame, np.zeros(frame.n_times, np.bool_), provisional=True)


@dataclass(slots=True)
class Engine:
    """Rings and models of all detectors, filled by one way of gathering."""

    gatherer: Gathers
    watches: list[Watch]

    @classmethod
    def of(
        cls,
        gatherer: Gathers,
        source: Datasource,
        manifests: Sequence[AnomalyDetector],
        learnt: dict[str, dict[Group, tuple[str, Model]]],
    ) -> Engine:
        cohorts = Cohorts()
        engine = cls(gatherer, [watch_of(manifest, source, cohorts, ()) for manifest in manifests])
        for watch in engine.watches:
            for group, (digest, model) in learnt.get(watch.subject.detector, {}).items():
                watch.cohort.install(watch.row_of(dict(group)), model, Revision("v1", "v1-r1", digest, 0, END_S))
        return engine

    async def gather(self, at_s: int) -> Gathered:
        return await self.gatherer.gather([(watch, at_s) for watch in self.watches])

    def judge(self, gathered: Gathered) -> dict[str, Judged]:
        """What is said of each detector, by its name."""
        judged = {}
        for watch in self.watches:
            if watch not in gathered.failures and len(watch.rows):
                flags = np.zeros(len(watch.rows), np.bool_)
                described = gathered.described.get(watch.cohort)
                judged[watch.subject.name] = watch.cohort.judge(watch.rows, ~flags, flags, described)
        return judged
