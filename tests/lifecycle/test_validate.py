"""What a candidate is rejected for, on counted findings."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.core.frame import Frame
from foreshock.lifecycle.feedback import stretched
from foreshock.lifecycle.train import rules_of, train_revision
from foreshock.lifecycle.validate import Findings, Trial, crept, examine, misses_faults, misses_known, over_budget
from foreshock.manifests.detector import AnomalyDetector


def test_a_first_model_is_not_rejected_for_alarms_that_may_be_an_incident() -> None:
    """A service is in trouble when its detector is made: the first model judges, whatever it says of the last days."""
    assert over_budget(Findings(alarms=3, expected_alarms=0.14)) is None


@pytest.mark.parametrize(("alarms", "champion_alarms", "objects"), [(3, 0, True), (3, 3, False), (1, 0, False)])
def test_more_alarms_than_chance_and_than_the_champion_reject(
    alarms: int, champion_alarms: int, *, objects: bool
) -> None:
    """Poisson, 1 %: of 0.14 allowed, three are no chance and one may be; a champion that had as many is no better."""
    found = Findings(alarms=alarms, champion_alarms=champion_alarms, expected_alarms=0.14, has_champion=True)
    assert (over_budget(found) is not None) is objects


@pytest.mark.parametrize(
    ("lost", "by_chance", "confirmed", "objects"),
    [(2, 0.1, 0, True), (2, 3.0, 0, False), (4, 3.0, 0, True), (1, 3.0, 1, True)],
)
def test_incidents_that_a_budget_explains_are_no_loss(
    lost: int, by_chance: float, confirmed: int, *, objects: bool
) -> None:
    """Two alarms of three weeks are what a budget of one a week means; a confirmed one is always a loss."""
    found = Findings(
        known=lost, known_lost=lost, known_by_chance=by_chance, confirmed_lost=confirmed, has_champion=True
    )  # fmt: skip
    assert (misses_known(found) is not None) is objects


@pytest.mark.parametrize(("away", "shaken", "objects"), [(6.0, False, True), (6.0, True, False), (4.0, False, False)])
def test_a_creep_is_followed_once_people_know(away: float, *, shaken: bool, objects: bool) -> None:
    """Beyond five deviations only where the champion has alarmed of it more often than its budget explains."""
    assert (crept(Findings(crept=away, crept_metric="m", shaken=shaken)) is not None) is objects


@pytest.mark.parametrize(("factor", "objects"), [(1.0, False), (1.5, False), (4.0, True)])
def test_faults_are_missed_by_more_than_a_threshold_is_unsure_of(factor: float, *, objects: bool) -> None:
    """After a day thresholds differ by a half through chance alone; four times as high is deaf."""
    document = {
        "apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": {"name": "checkout"},
        "spec": {"target_service": "checkout", "prometheus_query": "wait", "training": {"warm_up": "12h"}},
    }  # fmt: skip
    spec = AnomalyDetector.model_validate(document).spec
    values = 40.0 + np.random.default_rng(1).normal(0, 2, (1_440, 1))
    history = Frame(1_790_000_040, 60, tuple(each.name for each in spec.named_metrics), values)
    champion = train_revision(spec, history, np.zeros(1_440, np.bool_))
    trial = Trial(history, rules_of(spec.named_metrics), spec.false_alarm_budget.per_s)
    found = examine(stretched(champion, factor), champion, champion, trial)
    assert found.champion_found > 20
    assert (misses_faults(found) is not None) is objects
