"""The figures of the root-cause benchmark: places, chances, and an incident that is made up."""

from __future__ import annotations

import numpy as np
import pytest
from bench.rca.__main__ import table
from bench.rca.cases import Case, Incident
from bench.rca.measure import Trained, _chance, outcomes


def test_chance_is_that_of_names_drawn_at_random() -> None:
    """One of ten, one of three drawn of ten, and certainty where all are right."""
    assert _chance(1, 10, 1) == pytest.approx(0.1)
    assert _chance(1, 10, 3) == pytest.approx(0.3)
    assert _chance(4, 4, 1) == 1.0


@pytest.mark.parametrize("column", range(4))
def test_the_injected_cause_is_found_first(column: int) -> None:
    """A column that jumps is named first, whichever it is, and its unit leads the ranking with calls."""
    random = np.random.default_rng(2)
    values = random.normal(10, 1, (1_400, 4))
    values[1_330:1_340, column] += 30
    names = ("a|x", "a|y", "b|x", "c|x")
    units = tuple(name.split("|")[0] for name in names)
    incident = Incident(130, 140, frozenset({units[column]}))
    case = Case("made", "up", 300, names, units, values[:1_200], values[1_200:], (incident,), (("a", "b"),))
    (outcome,) = outcomes(case, Trained(), "ensemble")
    assert (outcome.detected, outcome.place, outcome.place_with_calls) == (True, 1, 1)
    assert "| made | 1 | 1.00 | 1.00 |" in table([outcome])
