"""A fleet of three in one cohort, trained once an algorithm, and what its alerts say."""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from foreshock.alerting.event import AnomalyEvent, cloud_event
from foreshock.alerting.state import AlertPolicy, Transition, advance
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Anomalous
from foreshock.detectors.model import Model, train
from foreshock.engine.cohort import Cohort, Judged, Revision
from foreshock.engine.decide import judgement, shares
from foreshock.engine.evidence import evidence_of
from foreshock.engine.facts import without_thin_metrics
from foreshock.engine.rebuild import Rebuilt, rebuild
from foreshock.engine.schedule import Rhythm
from foreshock.engine.watch import Watch
from foreshock.lifecycle.train import course_of, rules_of
from foreshock.manifests.detector import AnomalyDetector

STEP_S, PER_DAY, N_DAYS, N_METRICS, N_MEMBERS = 300, 288, 8, 6, 3


def detector(algorithm: str) -> AnomalyDetector:
    metrics = [{"name": f"m{k}_seconds", "query": f"m{k}"} for k in range(N_METRICS)]
    metrics[1] |= {"direction": "up", "min_deviation": 0.5, "valid_range": {"max": 1000}}
    document = {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {
            "target_service": "checkout",
            "metrics": metrics,
            "algorithm": algorithm,
            "step": "5m",
            "interval": "5m",
        },
    }
    return AnomalyDetector.model_validate(document)


def history(seed: int) -> Array:
    random = np.random.default_rng(seed)
    n = N_DAYS * PER_DAY
    common = random.normal(0, 1, n)
    columns = [
        100 + 10 * np.sin(2 * np.pi * np.arange(n) / PER_DAY) + common + 0.3 * random.normal(0, 1, n)
        for _ in range(N_METRICS)
    ]
    return np.asarray(np.column_stack(columns), np.float32).astype(np.float64)


@cache
def trained(algorithm: str) -> tuple[Watch, tuple[Model, ...], Array]:
    """Three members of one fleet; the last context of each is in its ring."""
    manifest = detector(algorithm)
    course = course_of(manifest.spec)
    cohort = Cohort(course.schema)
    models, watch, last = [], None, None
    for seed in range(N_MEMBERS):
        member = Watch(manifest, course.schema, rules_of(manifest.spec.named_metrics), Rhythm(300, 0, 0), cohort, ())
        values = history(seed)
        model = train(Frame(0, STEP_S, course.schema.metrics, values), course, np.ones(len(values), np.bool_))
        row = member.row_of_group[()]
        cohort.install(row, model, Revision("v1", "v1-r1", "a" * 64, 0, 1, rows_used=9, rows_excluded={"incident": 2}))
        models.append(model)
        watch, last = watch or member, values[-course.schema.context_steps :]
        cohort.ring[row], cohort.ends_s[row] = last, (N_DAYS * PER_DAY - 1) * STEP_S
    assert watch is not None
    assert last is not None
    return watch, tuple(models), cohort.ring[watch.row_of_group[()]].copy()


def alert(watch: Watch, ring: Array) -> tuple[Judged, Transition | None]:
    """What a cycle would make of the first member's ring, all members judged in one block."""
    cohort = watch.cohort
    cohort.ring[0] = ring
    rows = np.arange(N_MEMBERS)
    judged = cohort.judge(rows, np.ones(N_MEMBERS, np.bool_), np.zeros(N_MEMBERS, np.bool_))
    verdict = judged.decisions.verdict(0)
    if not isinstance(verdict, Anomalous):
        return judged, None
    one, model = slice(0, 1), cohort.models[0]
    assert model is not None
    blamed = model.ensemble.contributions(without_thin_metrics(judged.vectors[one]), watch.rules)
    row_shares = shares(judged.decisions.take(one), judged.facts.take(one), blamed)[0]
    said = judgement(watch.subject, int(judged.ends_s[0]), verdict, watch.schema.metrics, row_shares)
    _, (firing,) = advance(None, said, AlertPolicy("critical", 0, 0, 300), cluster="test")
    return judged, firing


def event_of(watch: Watch, judged: Judged, firing: Transition) -> AnomalyEvent:
    event = cloud_event(firing, evidence_of(watch, 0, judged.vectors[0], firing), cluster="test", service="checkout")
    return AnomalyEvent.model_validate_json(json.dumps(event))


def rebuilt(event: AnomalyEvent, model: Model) -> Rebuilt:
    assert event.data.evidence is not None
    assert event.data.evidence.replay is not None
    return rebuild(event.data.evidence.replay, model)
