"""Every "may we?" is a tuple of pure functions, read from top to bottom; the first objection is the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class Objection:
    """Why not: a documented `reason`, and a `message` that states the fact and never the chain that asked."""

    reason: str
    message: str


Policy = Callable[[Facts], Objection | None]


def first_objection(chain: tuple[Policy[Facts], ...], facts: Facts) -> Objection | None:
    """The first objection of the chain, or None where nobody objects."""
    return next((objection for policy in chain if (objection := policy(facts)) is not None), None)
