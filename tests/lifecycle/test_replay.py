"""A replay learns what production would have learnt, and when."""

from __future__ import annotations

import numpy as np

from foreshock.core.frame import Frame
from foreshock.lifecycle.replay import relive
from foreshock.manifests.detector import AnomalyDetector

STEP_S, PER_DAY = 300, 288


def _detector(**training: str) -> AnomalyDetector:
    return AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": "a"},
            "spec": {"target_service": "a", "prometheus_query": "a", "algorithm": "level", "step": "5m",
                     "training": {"persistence": "12h", "retrain_interval": "2d", **training}},
        }
    )  # fmt: skip


def _hours_anomalous(detector: AnomalyDetector) -> float:
    """Two weeks, and a level that moves for good an hour into the tenth day, of which two days are judged."""
    values = 100.0 + np.random.default_rng(1).normal(0.0, 1.0, 12 * PER_DAY)
    values[10 * PER_DAY + 12 :] += 40.0
    frame = Frame(0, STEP_S, ("a",), values[:, None])
    lived = relive(detector, frame, 10 * PER_DAY * STEP_S)
    return float(lived.fired.sum() * STEP_S / 3600)


def test_what_has_lasted_is_learnt_before_the_next_training_is_due() -> None:
    """A tenth longer than `training.persistence`, as in production, and not at the end of `retrain_interval`."""
    assert 12.0 < _hours_anomalous(_detector()) < 15.0


def test_without_drift_detection_it_waits_for_the_next_training() -> None:
    """`drift_detection: disabled` promises that nothing is learnt early."""
    assert _hours_anomalous(_detector(drift_detection="disabled")) > 40.0
