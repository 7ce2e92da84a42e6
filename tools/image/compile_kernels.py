"""Compiles every kernel into NUMBA_CACHE_DIR, by a small day of production: a training, judgements, an explanation.

Run while the image is built, with NUMBA_CPU_NAME=generic. `tests/test_image.py` checks that none is missing.
"""

from __future__ import annotations

import json

import numpy as np

from foreshock.core.frame import Frame, as_samples
from foreshock.core.verdicts import Subject
from foreshock.detectors.autoencoder import N_NUMBERS, reconstruction_error
from foreshock.engine.cohort import Cohort, Revision
from foreshock.extractor import warm
from foreshock.lifecycle.replay import Replay, replay
from foreshock.lifecycle.train import rules_of
from foreshock.manifests.detector import API_VERSION, KIND, AnomalyDetector
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import read_matrix

_DAYS, _STEP_S = 4, 60
_DAY_S = 86_400


def main() -> None:
    """Learn, judge a day with a fault at its end, judge a fleet, and read an answer of Prometheus."""
    detector = AnomalyDetector.model_validate({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "kernels"},
        "spec": {
            "target_service": "kernels", "detection_window": "10m", "seasonality": ["1d"],
            "metrics": [{"name": "load", "query": "a", "role": "load"}, {"name": "wait", "query": "b"}],
            "training": {"window": "3d", "warm_up": "1d"},
        },
    })  # fmt: skip
    random = np.random.default_rng(1)
    times_s = np.arange(0, _DAYS * _DAY_S, _STEP_S)
    values = 50.0 + 10.0 * np.sin(2 * np.pi * times_s / _DAY_S)[:, None] + random.normal(0.0, 1.0, (len(times_s), 2))
    values[-120:, 1] += 40.0
    values[1000:1003] = np.nan
    played = replay(detector, Frame(0, _STEP_S, ("load", "wait"), as_samples(values)), 3 * _DAY_S, cluster="kernels")
    if not played.alerts:
        raise SystemExit("the fault was not found: the kernels are not those of production")
    _judge_a_fleet(detector, played)
    warm.warm_up()
    # no detector above asks for this algorithm; a window and a fleet give it the same types
    layers = [np.zeros((1, n + 1, m), np.float32) for n, m in ((N_NUMBERS, 8), (8, 1), (1, 8), (8, N_NUMBERS))]
    reconstruction_error(np.zeros((1, N_NUMBERS)), np.zeros(1, np.int64), *layers, 4.0)
    series = {"metric": {"a": 'é"'}, "values": [[60 * minute, f"{minute * 1.5e-3!r}"] for minute in range(10)]}
    answer = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
    read_matrix(json.dumps(answer).encode(), RangeQuery("a", 0, 540, 60))


def _judge_a_fleet(detector: AnomalyDetector, played: Replay) -> None:
    """Two subjects in one block, which is how a cycle judges."""
    model, end_s = played.models[0], played.frame.end_s
    cohort = Cohort(model.schema)
    subjects = [Subject("kernels", name) for name in ("one", "two")]
    rows = np.array([cohort.add(each, rules_of(detector.spec.named_metrics), 2.0) for each in subjects])
    for row in rows:
        cohort.install(int(row), model, Revision("v1", "v1-r1", "", 0, end_s))
    cohort.advance(rows, end_s)
    n_steps = model.schema.context_steps
    start_s = end_s - (n_steps - 1) * _STEP_S
    for metric in range(2):
        block = np.repeat(played.frame.values[None, -n_steps:, metric], len(rows), axis=0)
        cohort.put(rows, np.full(len(rows), metric), start_s, block)
    judged = cohort.judge(rows, np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_))
    if not judged.decisions.anomalous.all():
        raise SystemExit("the fleet was not judged: the kernels are not those of production")


if __name__ == "__main__":
    main()
