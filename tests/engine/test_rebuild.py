"""An alert is judged again from its own evidence, bit for bit, whatever algorithm found it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.alerts import N_METRICS, alert, event_of, rebuilt, trained

from foreshock.alerting.bundle import pack, unpack
from foreshock.core.errors import Damaged
from foreshock.core.verdicts import Anomalous, Cause
from foreshock.engine.rebuild import rebuild
from foreshock.manifests.detector import Algorithm


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@given(
    metric=st.integers(0, N_METRICS - 1),
    by=st.floats(-500, 2000, width=32),
    rows=st.integers(1, 60),
    missing=st.integers(0, 14),
)
@settings(max_examples=8, deadline=None)
def test_the_score_is_reproduced_bit_for_bit(algorithm: str, metric: int, by: float, rows: int, missing: int) -> None:
    """Samples, through JSON and back, give the very score, cause and shares of the fleet's block, gaps and all."""
    watch, models, ring = trained(algorithm)
    ring = ring.copy()
    ring[-rows:, metric] = (ring[-rows:, metric] + by).astype(np.float32)
    if missing:
        ring[-missing:, (metric + 1) % N_METRICS] = np.nan
    judged, firing = alert(watch, ring)
    if firing is None:
        return
    again = rebuilt(event_of(watch, judged, firing), models[0])
    assert again.score == firing.score
    assert again.verdict == judged.decisions.verdict(0)
    assert again.contributions == firing.contributions
    assert np.array_equal(again.vector, judged.vectors[0], equal_nan=True)
    assert again.frame is not None


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_a_window_that_another_process_described_is_judged_from_its_vector(algorithm: str) -> None:
    """Where the ring does not hold what was judged, no samples go along, and the vector gives the same score."""
    watch, models, ring = trained(algorithm)
    ring = ring.copy()
    ring[-12:, 0] += 200.0
    judged, firing = alert(watch, ring)
    assert firing is not None
    watch.cohort.ring[0] = np.nan
    event = event_of(watch, judged, firing)
    assert event.data.evidence is not None
    assert event.data.evidence.replay is not None
    assert event.data.evidence.replay.samples is None
    again = rebuilt(event, models[0])
    assert (again.score, again.contributions, again.frame) == (firing.score, firing.contributions, None)


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_the_bundle_names_the_spike(algorithm: str) -> None:
    """The spiked metric's statistics lead, the expected value is the old one, and every fact has its place."""
    watch, models, ring = trained(algorithm)
    ring = ring.copy()
    ring[-12:, 2] += 200.0
    judged, firing = alert(watch, ring)
    assert firing is not None
    bundle = event_of(watch, judged, firing).data.evidence
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
    watch, models, ring = trained("ensemble")
    ring = ring.copy()
    ring[-10:, 3] = np.nan
    judged, firing = alert(watch, ring)
    assert firing is not None
    again = rebuilt(event_of(watch, judged, firing), models[0])
    assert isinstance(again.verdict, Anomalous)
    assert again.verdict.cause is Cause.ABSENT
    assert (again.score, again.contributions[0].metric) == (firing.score, "m3_seconds")


def test_an_altered_sample_is_noticed() -> None:
    """One sample that is not what it was gives another score: the reproduction is no tautology."""
    watch, models, ring = trained("ensemble")
    ring = ring.copy()
    ring[-12:, 0] += 200.0
    judged, firing = alert(watch, ring)
    assert firing is not None
    event = event_of(watch, judged, firing)
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
