"""An alert is judged again from its own evidence, bit for bit, whatever algorithm found it."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.alerting.bundle import pack, unpack
from foreshock.alerting.event import AnomalyEvent, cloud_event
from foreshock.alerting.state import AlertPolicy, Transition, advance
from foreshock.core.errors import Damaged
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Anomalous, Cause
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
from foreshock.manifests.rules import AVAILABLE_ALGORITHMS

STEP_S, PER_DAY, N_DAYS, N_METRICS, N_MEMBERS = 300, 288, 8, 6, 3


def _detector(algorithm: str) -> AnomalyDetector:
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


def _history(seed: int) -> Array:
    random = np.random.default_rng(seed)
    n = N_DAYS * PER_DAY
    common = random.normal(0, 1, n)
    columns = [
        100 + 10 * np.sin(2 * np.pi * np.arange(n) / PER_DAY) + common + 0.3 * random.normal(0, 1, n)
        for _ in range(N_METRICS)
    ]
    return np.asarray(np.column_stack(columns), np.float32).astype(np.float64)


@cache
def _trained(algorithm: str) -> tuple[Watch, tuple[Model, ...], Array]:
    """Three members of one fleet; the last context of each is in its ring."""
    manifest = _detector(algorithm)
    course = course_of(manifest.spec)
    cohort = Cohort(course.schema)
    models, watch, last = [], None, None
    for seed in range(N_MEMBERS):
        member = Watch(manifest, course.schema, rules_of(manifest.spec.named_metrics), Rhythm(300, 0, 0), cohort, ())
        values = _history(seed)
        model = train(Frame(0, STEP_S, course.schema.metrics, values), course, np.ones(len(values), np.bool_))
        row = member.row_of_group[()]
        cohort.install(row, model, Revision("v1", "v1-r1", "a" * 64, 0, 1, rows_used=9, rows_excluded={"incident": 2}))
        models.append(model)
        watch, last = watch or member, values[-course.schema.context_steps :]
        cohort.ring[row], cohort.ends_s[row] = last, (N_DAYS * PER_DAY - 1) * STEP_S
    assert watch is not None
    assert last is not None
    return watch, tuple(models), cohort.ring[watch.row_of_group[()]].copy()


def _alert(watch: Watch, ring: Array) -> tuple[Judged, Transition | None]:
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


def _event(watch: Watch, judged: Judged, firing: Transition) -> AnomalyEvent:
    event = cloud_event(firing, evidence_of(watch, 0, judged.vectors[0], firing), cluster="test", service="checkout")
    return AnomalyEvent.model_validate_json(json.dumps(event))


def _rebuilt(event: AnomalyEvent, model: Model) -> Rebuilt:
    assert event.data.evidence is not None
    assert event.data.evidence.replay is not None
    return rebuild(event.data.evidence.replay, model)


@pytest.mark.parametrize("algorithm", AVAILABLE_ALGORITHMS)
@given(
    metric=st.integers(0, N_METRICS - 1),
    by=st.floats(-500, 2000, width=32),
    rows=st.integers(1, 60),
    missing=st.integers(0, 14),
)
@settings(max_examples=8, deadline=None)
def test_the_score_is_reproduced_bit_for_bit(algorithm: str, metric: int, by: float, rows: int, missing: int) -> None:
    """Samples, through JSON and back, give the very score, cause and shares of the fleet's block, gaps and all."""
    watch, models, ring = _trained(algorithm)
    ring = ring.copy()
    ring[-rows:, metric] = (ring[-rows:, metric] + by).astype(np.float32)
    if missing:
        ring[-missing:, (metric + 1) % N_METRICS] = np.nan
    judged, firing = _alert(watch, ring)
    if firing is None:
        return
    again = _rebuilt(_event(watch, judged, firing), models[0])
    assert again.score == firing.score
    assert again.verdict == judged.decisions.verdict(0)
    assert again.contributions == firing.contributions
    assert np.array_equal(again.vector, judged.vectors[0], equal_nan=True)
    assert again.frame is not None


@pytest.mark.parametrize("algorithm", AVAILABLE_ALGORITHMS)
def test_a_window_that_another_process_described_is_judged_from_its_vector(algorithm: str) -> None:
    """Where the ring does not hold what was judged, no samples go along, and the vector gives the same score."""
    watch, models, ring = _trained(algorithm)
    ring = ring.copy()
    ring[-12:, 0] += 200.0
    judged, firing = _alert(watch, ring)
    assert firing is not None
    watch.cohort.ring[0] = np.nan
    event = _event(watch, judged, firing)
    assert event.data.evidence is not None
    assert event.data.evidence.replay is not None
    assert event.data.evidence.replay.samples is None
    again = _rebuilt(event, models[0])
    assert (again.score, again.contributions, again.frame) == (firing.score, firing.contributions, None)


@pytest.mark.parametrize("algorithm", AVAILABLE_ALGORITHMS)
def test_the_bundle_names_the_spike(algorithm: str) -> None:
    """The spiked metric's statistics lead, the expected value is the old one, and every fact has its place."""
    watch, models, ring = _trained(algorithm)
    ring = ring.copy()
    ring[-12:, 2] += 200.0
    judged, firing = _alert(watch, ring)
    assert firing is not None
    bundle = _event(watch, judged, firing).data.evidence
    assert bundle is not None
    assert bundle.feature_contributions[0].feature.startswith("m2_seconds.")
    assert (
        0.99 < sum(each.share for each in bundle.feature_contributions) <= 1.0 + 1e-9
        or len(bundle.feature_contributions) == 20
    )
    expected, observed = bundle.expected["m2_seconds.mean"], judged.vectors[0][2][0]
    assert expected is not None
    assert abs(expected - 100) < 20 < observed - expected
    assert bundle.units["m2_seconds"] == "s"
    assert bundle.data_availability["m2_seconds"] == 1.0
    assert bundle.training is not None
    assert (bundle.training.rows_used, bundle.training.rows_excluded) == (9, {"incident": 2})
    assert bundle.calibration is not None
    assert bundle.calibration.false_alarm_budget == "1/7d"
    assert {each.channel for each in bundle.calibration.channels} == {one.name for one in models[0].ensemble.channels}
    assert bundle.broken_pairs
    assert bundle.broken_pairs[0].metric == "m2_seconds"
    assert bundle.broken_pairs[0].before > 0.4 > bundle.broken_pairs[0].now


def test_absence_is_rebuilt_as_absence() -> None:
    """A metric that is gone is gone in the evidence: cause and score come from the gaps."""
    watch, models, ring = _trained("ensemble")
    ring = ring.copy()
    ring[-10:, 3] = np.nan
    judged, firing = _alert(watch, ring)
    assert firing is not None
    again = _rebuilt(_event(watch, judged, firing), models[0])
    assert isinstance(again.verdict, Anomalous)
    assert again.verdict.cause is Cause.ABSENT
    assert (again.score, again.contributions[0].metric) == (firing.score, "m3_seconds")


def test_an_altered_sample_is_noticed() -> None:
    """One sample that is not what it was gives another score: the reproduction is no tautology."""
    watch, models, ring = _trained("ensemble")
    ring = ring.copy()
    ring[-12:, 0] += 200.0
    judged, firing = _alert(watch, ring)
    assert firing is not None
    event = _event(watch, judged, firing)
    assert event.data.evidence is not None
    replay = event.data.evidence.replay
    assert replay is not None
    assert replay.samples is not None
    shape = ring.shape
    altered = unpack(replay.samples, "<f4", shape).astype(np.float32)
    altered[-1, 0] += 1.0
    packed = pack(altered)
    assert rebuild(replay.model_copy(update={"samples": packed}), models[0]).score != firing.score
    with pytest.raises(Damaged, match="do not fit"):
        rebuild(replay.model_copy(update={"samples": pack(altered[1:])}), models[0])
    with pytest.raises(Damaged, match="damaged"):
        rebuild(replay.model_copy(update={"samples": "no base64"}), models[0])
