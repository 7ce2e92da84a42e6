"""Which of the services that are blamed together the trouble came from: blame flows from callers to what they call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from foreshock.core.frame import Array

_FOLLOWED = 0.85  # of the blame at each step; the rest stays with whom the model blames (Brin and Page, 1998)
_STEPS = 100


def rank(blame: Mapping[str, float], calls: Iterable[tuple[str, str]] = ()) -> list[tuple[str, float]]:
    """The services, the likeliest origin first, with their share of the blame after the walk; shares add up to 1.

    `calls` are (caller, callee). A random walk goes from a caller to what it calls in proportion to their blame, and
    stays where the callees are blamed less: who is slow because of another hands the blame on (Kim et al., 2013).
    Without calls the order is that of the blame.
    """
    names = sorted(blame, key=lambda name: (-blame[name], name))
    weights = np.array([max(0.0, blame[name]) for name in names])
    if not weights.sum():
        weights = np.ones(len(names))
    weights = weights / max(weights.sum(), 1e-300)
    moves = _moves(names, weights, calls)
    result = weights
    for _ in range(_STEPS):
        result = _FOLLOWED * result @ moves + (1.0 - _FOLLOWED) * weights
    order = np.argsort(-result, kind="stable")
    return [(names[k], float(result[k])) for k in order]


def _moves(names: list[str], weights: Array, calls: Iterable[tuple[str, str]]) -> Array:
    place = {name: k for k, name in enumerate(names)}
    moves = np.zeros((len(names), len(names)))
    for caller, callee in calls:
        if caller in place and callee in place and caller != callee:
            moves[place[caller], place[callee]] = weights[place[callee]]
    for k in range(len(names)):
        moves[k, k] = max(0.0, weights[k] - moves[k].max(initial=0.0))
        total = moves[k].sum()
        moves[k] = moves[k] / total if total > 0 else np.eye(len(names))[k]
    return moves
