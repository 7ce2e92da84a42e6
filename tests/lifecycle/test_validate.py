"""What a candidate is rejected for, on counted findings."""

from __future__ import annotations

import pytest

from foreshock.lifecycle.validate import Findings, crept, misses_known, over_budget


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
