"""The figures of the root-cause benchmark: places, chances, and an incident that is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench.rca.cases import Case, Incident, rules_of
from bench.rca.fleet import Fleet
from bench.rca.measure import Trained, _chance, outcomes
from bench.rca.report import BEGIN, END, table, write_into


def test_chance_is_that_of_names_drawn_at_random() -> None:
    """One of ten, one of three drawn of ten, and certainty where all are right."""
    assert _chance(1, 10, 1) == pytest.approx(0.1)
    assert _chance(1, 10, 3) == pytest.approx(0.3)
    assert _chance(4, 4, 1) == 1.0


def _case(column: int) -> Case:
    """Three services, of which one metric jumps for ten rows."""
    random = np.random.default_rng(2)
    values = random.normal(10, 1, (1_400, 4))
    values[1_330:1_340, column] += 30
    names = ("a|x", "a|y", "b|x", "c|x")
    units = tuple(name.split("|")[0] for name in names)
    incident = Incident(130, 140, frozenset({units[column]}))
    return Case(
        "made", "up", 300, names, units, values[:1_200], values[1_200:], (incident,), ("a", "b", "c"), (("a", "b"),),
        joint=(0, 1, 2, 3),
    )  # fmt: skip


@pytest.mark.parametrize("column", range(4))
def test_the_injected_cause_is_found_first(column: int) -> None:
    """A column that jumps is named first, whichever it is."""
    (outcome,) = outcomes(_case(column), Trained(), "ensemble")
    assert (outcome.detected, outcome.place, outcome.place_with_calls) == (True, 1, 0)
    assert "| made, one detector | 1 | 1.00 | 1.00 |" in table([outcome])


def test_a_fleet_names_the_injected_service_in_its_alert() -> None:
    """With a detector a service, the one with the jump leads all three rankings."""
    (outcome,) = Fleet("ensemble").outcomes(_case(2))
    assert (outcome.place, outcome.place_with_calls, outcome.named_by_alert) == (1, 1, "b")
    assert outcome.alert_is_right


def test_rules_are_those_that_a_user_would_write() -> None:
    """Requests are a load, latency is bad when high and availability when low; a service needs something to judge."""
    rules = rules_of(("s|requests|Sum", "s|latency|p99", "s|availability|Average", "s|other"))
    assert rules.is_load.tolist() == [True, False, False, False]
    assert rules.direction.tolist() == [0.0, 1.0, -1.0, 0.0]
    assert not rules_of(("s|requests|Sum",)).is_load.any()


def test_the_tables_go_between_the_markers_alone(tmp_path: Path) -> None:
    """What a page says before and after stays; a page without markers is refused by name."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(page, "new\n")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no line"):
        write_into(page, "new")
