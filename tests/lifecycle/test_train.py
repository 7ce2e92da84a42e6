"""What may teach: an incident that passed may not, what stayed must."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.core.frame import Frame
from foreshock.lifecycle.train import DAY_S, PERSISTENCE_S, teaching_rows
from foreshock.manifests.detector import AnomalyDetector

STEP_S, N_ROWS = 300, 7 * 288


def _teaches(*incidents: tuple[int, int]) -> np.ndarray:
    detector = AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": "a"},
            "spec": {"target_service": "a", "prometheus_query": "a"},
        }
    )
    fired = np.zeros(N_ROWS, np.bool_)
    for first, end in incidents:
        fired[first:end] = True
    frame = Frame(0, STEP_S, ("a",), np.zeros((N_ROWS, 1)))
    return teaching_rows(detector.spec, frame, fired)


def test_an_incident_of_six_hours_does_not_teach() -> None:
    """What passed within the persistence is kept out, and nothing else is."""
    teaches = _teaches((500, 572))
    assert not teaches[500:572].any()
    assert teaches.sum() == N_ROWS - 72


def test_what_lasted_teaches_again() -> None:
    """Twelve hours of it, in pieces less than an hour apart, are how the service is now."""
    half = PERSISTENCE_S // STEP_S // 2
    assert _teaches((500, 500 + half), (505 + half, 510 + 2 * half)).all()


@pytest.mark.parametrize(("hours", "all_teach"), [(4, False), (7, True)])
def test_a_day_that_is_mostly_incident_is_a_new_regime(hours: int, *, all_teach: bool) -> None:
    """When more than a quarter of the last day fired, leaving it out would leave the present out."""
    last_day = N_ROWS - DAY_S // STEP_S
    pieces = [(last_day + 24 * k, last_day + 24 * k + 12) for k in range(hours)]
    assert _teaches(*pieces).all() == all_teach
