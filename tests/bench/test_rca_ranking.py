"""Blame goes from who is unusual to whom it waits for."""

from __future__ import annotations

from bench.rca.ranking import Suspect, rank

CALLS = [("front", "orders"), ("orders", "store"), ("front", "mail")]


def _scores(**scores: float) -> dict[str, Suspect]:
    return {name: Suspect(score) for name, score in scores.items()}


def test_without_calls_the_worst_leads() -> None:
    """The order is that of the scores; equal ones are in the order of their names."""
    assert rank(_scores(a=1.0, b=3.0, c=0.0, d=0.0)) == ["b", "a", "c", "d"]


def test_a_caller_hands_on_to_the_callee_that_is_part_of_it_too() -> None:
    """The front is the loudest and waits for the orders, which wait for the store; without the calls it leads."""
    suspects = _scores(front=90.0, orders=8.0, store=2.0, mail=0.4)
    assert rank(suspects, CALLS) == ["store", "orders", "front", "mail"]
    assert rank(suspects)[0] == "front"


def test_a_quiet_callee_is_handed_nothing() -> None:
    """What is called and is well keeps out of it, and hides what it calls itself; a circle of calls ends."""
    assert rank(_scores(front=9.0, orders=0.5, store=2.0), CALLS) == ["front", "store", "orders"]
    circle = [("a", "b"), ("b", "a"), ("a", "a"), ("a", "nowhere")]
    assert rank(_scores(a=3.0, b=2.0), circle) == ["b", "a"]


def test_what_was_anomalous_long_before_is_not_part_of_it() -> None:
    """However bad it is, an older trouble comes after what is new, and before what is well only by its score."""
    suspects = {"old": Suspect(50.0, is_new=False), "new": Suspect(1.2), "well": Suspect(0.9)}
    assert rank(suspects, [("new", "old")]) == ["new", "old", "well"]
