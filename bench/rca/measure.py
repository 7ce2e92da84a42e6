"""Train once a case, judge its rows by the functions of production, and rank who is blamed for each incident."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bench.rca.cases import Case, Incident
from numpy.typing import NDArray

from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.diagnosis.origins import rank
from foreshock.engine.decide import decide, shares
from foreshock.engine.facts import facts_of, without_thin_metrics
from foreshock.features.schema import Schema

FIRST_ROWS = 5
_BUDGET_PER_S = 1 / (7 * 86_400)
_KEPT_ROWS = 3  # windows of history before the judged rows, so that the first of them are whole


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the first right name stands in each ranking, 1 is the first; chance is of a random order."""

    dataset: str
    case: str
    kind: str
    n_causes: int
    n_units: int
    detected: bool
    place: int
    place_with_calls: int
    place_of_constant: int
    chance_at_1: float
    chance_at_3: float


class Trained:
    """The newest model, so that cases with one history share it."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._model: Model | None = None

    def of(self, case: Case, course: Course) -> Model:
        """The model of a case's history."""
        key = (case.dataset + "|".join(case.columns), hash(case.history.tobytes()))
        if key != self._key or self._model is None:
            frame = Frame(0, case.step_s, course.schema.metrics, as_samples(case.history))
            self._model, self._key = train(frame, course, np.ones(frame.n_times, np.bool_)), key
        return self._model


def outcomes(case: Case, trained: Trained, algorithm: str) -> list[Outcome]:
    """One outcome an incident of the case."""
    window_s = max(3_600, 12 * case.step_s)
    names = tuple(f"m{k}" for k in range(len(case.columns)))
    schema = Schema(names, case.step_s, window_s)
    rules = Rules.none(len(names))
    model = trained.of(case, Course(schema, rules, algorithm, _BUDGET_PER_S, None, "UTC"))
    kept = min(len(case.history), schema.context_steps)
    values = np.concatenate([case.history[-kept:], case.judged])
    start_s = (len(case.history) - kept) * case.step_s
    frame = Frame(start_s, case.step_s, names, as_samples(values))
    units = sorted({unit for unit in case.units if unit})
    constant = _constant(case, units)
    result = []
    for incident in case.incidents:
        last = kept + incident.end
        rows = frame.rows(max(0, kept + incident.start - schema.context_steps), last)
        scores, blame = _judged(model, rules, rows, rows.n_times - (incident.end - incident.start))
        chosen = _chosen(scores)
        by_unit = _by_unit(case, blame[chosen].mean(axis=0), units)
        ranked = [name for name, _ in rank(by_unit)]
        walked = [name for name, _ in rank(by_unit, case.calls)]
        right = incident.causes & set(units)
        if not right:
            continue
        result.append(
            Outcome(
                case.dataset, case.name, incident.kind, len(right), len(units), bool((scores >= 1.0).any()),
                _place(ranked, right), _place(walked, right), _place(constant, right),
                _chance(len(right), len(units), 1), _chance(len(right), len(units), 3),
            )
        )  # fmt: skip
    return result


def _judged(model: Model, rules: Rules, rows: Frame, first: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    vectors = model.vectors(rows, first)
    facts = facts_of(model, rules, vectors, rows, first)
    decisions = decide(facts)
    blamed = shares(decisions, facts, model.ensemble.contributions(without_thin_metrics(vectors), rules))
    return np.nan_to_num(decisions.scores, nan=-1.0), blamed


def _chosen(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first five anomalous rows, or the peak of what was not detected."""
    found = np.flatnonzero(scores >= 1.0)[:FIRST_ROWS]
    return found if len(found) else np.array([int(scores.argmax())])


def _by_unit(case: Case, blame: NDArray[np.float64], units: list[str]) -> dict[str, float]:
    result = dict.fromkeys(units, 0.0)
    for unit, share in zip(case.units, blame, strict=True):
        if unit:
            result[unit] += float(share)
    return result


def _constant(case: Case, units: list[str]) -> list[str]:
    """The best fixed order that knows this case's labels: the most frequent cause first."""
    counts = {unit: sum(unit in each.causes for each in case.incidents) for unit in units}
    return sorted(units, key=lambda unit: -counts[unit])


def _place(ranked: list[str], right: frozenset[str] | set[str]) -> int:
    return next(place for place, name in enumerate(ranked, start=1) if name in right)


def _chance(n_right: int, n_units: int, k: int) -> float:
    """The probability that k names drawn at random hold a right one."""
    missed = 1.0
    for drawn in range(min(k, n_units)):
        missed *= max(0, n_units - n_right - drawn) / (n_units - drawn)
    return 1.0 - missed


__all__ = ["Incident", "Outcome", "Trained", "outcomes"]
