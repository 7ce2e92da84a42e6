"""What may teach: an incident that passed may not, what stayed must."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.core.frame import Frame
from foreshock.lifecycle.train import DAY_S, maintenance_rows, teaching_rows
from foreshock.manifests.detector import AnomalyDetector

STEP_S, N_ROWS, PERSISTENCE_S = 300, 7 * 288, 43_200


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


def test_maintenance_teaches_nothing_and_is_counted_by_its_reason() -> None:
    """Every time of a schedule, in the detector's civil time; a row of two maintenances counts once."""
    detector = AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": "a"},
            "spec": {
                "target_service": "a",
                "prometheus_query": "a",
                "time_zone": "Asia/Tokyo",
                "maintenance": [
                    {"schedule": "0 12 * * *", "duration": "1h", "reason": "backup"},
                    {"start": "1970-01-03T03:30:00Z", "end": "1970-01-03T04:30:00Z"},
                ],
            },
        }
    )
    frame = Frame(0, STEP_S, ("a",), np.zeros((N_ROWS, 1)))
    rows = maintenance_rows(detector.spec, frame)
    assert {reason: int(each.sum()) for reason, each in rows.items()} == {"backup": 7 * 12, "": 6}
    assert rows["backup"][36:48].all()  # noon in Tokyo is three in the morning in UTC
    teaches = teaching_rows(detector.spec, frame, np.zeros(N_ROWS, np.bool_))
    assert teaches.sum() == N_ROWS - 7 * 12 - 6
