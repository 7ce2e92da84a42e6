"""Blame goes from who is slow to whom it waits for."""

from __future__ import annotations

import pytest

from foreshock.diagnosis.origins import rank


def test_without_calls_the_most_blamed_leads() -> None:
    """The order is that of the blame, and shares add up to 1."""
    ranked = rank({"a": 1.0, "b": 3.0, "c": 0.0})
    assert [name for name, _ in ranked] == ["b", "a", "c"]
    assert sum(share for _, share in ranked) == pytest.approx(1.0)


def test_a_caller_hands_its_blame_to_the_callee_that_is_blamed_too() -> None:
    """A front that is a little louder than the store it waits for is not the origin; without that call it is."""
    blame = {"front": 0.5, "store": 0.4, "mail": 0.1}
    assert rank(blame)[0][0] == "front"
    assert rank(blame, [("front", "store"), ("front", "mail")])[0][0] == "store"


def test_a_quiet_callee_is_not_blamed() -> None:
    """What is called and is well keeps out of it, and a circle of calls ends."""
    assert rank({"front": 1.0, "store": 0.0}, [("front", "store"), ("store", "front"), ("x", "y")])[0][0] == "front"
    assert rank({"a": 0.0, "b": 0.0})[0][1] == pytest.approx(0.5)
