"""Train once a case, judge its rows by the functions of production, and rank who is blamed for each incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from bench.rca.cases import Case, Incident
from numpy.typing import NDArray

from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.engine.decide import decide, shares
from foreshock.engine.facts import facts_of, without_thin_metrics
from foreshock.features.schema import Schema

FIRST_ROWS = 5
BUDGET_PER_S = 1 / (7 * 86_400)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the first right name stands in each ranking, 1 is the first and 0 means that there is no such ranking.

    `way` is "one detector" or "one a service"; `named_by_alert` is None where no alerts were simulated, and chance is
    of a random order.
    """

    dataset: str
    case: str
    way: str
    kind: str
    n_causes: int
    n_units: int
    detected: bool
    place: int
    place_with_calls: int
    named_by_alert: str | None
    alert_is_right: bool
    place_of_guess: int
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


def window_s_of(case: Case) -> int:
    """The default detection window, and never fewer than twelve steps."""
    return max(3_600, 12 * case.step_s)


def outcomes(case: Case, trained: Trained, algorithm: str) -> list[Outcome]:
    """One outcome an incident, as one detector over all metrics of the case blames their owners."""
    case = _joint(case)
    names = tuple(f"m{k}" for k in range(len(case.columns)))
    schema = Schema(names, case.step_s, window_s_of(case))
    rules = Rules.none(len(names))
    model = trained.of(case, Course(schema, rules, algorithm, BUDGET_PER_S, None, "UTC"))
    kept = min(len(case.history), schema.context_steps)
    values = np.concatenate([case.history[-kept:], case.judged])
    start_s = (len(case.history) - kept) * case.step_s
    frame = Frame(start_s, case.step_s, names, as_samples(values))
    result = []
    for incident in case.incidents:
        last = kept + incident.end
        rows = frame.rows(max(0, kept + incident.start - schema.context_steps), last)
        scores, blame = _judged(model, rules, rows, rows.n_times - (incident.end - incident.start))
        by_unit = _by_unit(case, blame[_chosen(scores)].mean(axis=0))
        ranked = sorted(by_unit, key=lambda unit: (-by_unit[unit], unit))
        found = outcome_of(case, incident, "one detector", ranked, detected=bool((scores >= 1.0).any()))
        if found is not None:
            result.append(found)
    return result


def _joint(case: Case) -> Case:
    """The case with the columns alone that one detector takes."""
    chosen = list(case.joint)
    columns, units = (tuple(each[k] for k in chosen) for each in (case.columns, case.units))
    return replace(case, columns=columns, units=units, history=case.history[:, chosen], judged=case.judged[:, chosen])


def outcome_of(
    case: Case,
    incident: Incident,
    way: str,
    ranked: Sequence[str],
    *,
    detected: bool,
    with_calls: Sequence[str] | None = None,
    named_by_alert: str | None = None,
) -> Outcome | None:
    """The places in one incident's rankings; None where the data hold nothing of the cause."""
    right = incident.causes & set(case.guess)
    if not right:
        return None
    n_units = len(case.guess)
    return Outcome(
        case.dataset, case.name, way, incident.kind, len(right), n_units, detected,
        _place(ranked, right), 0 if with_calls is None else _place(with_calls, right),
        named_by_alert, named_by_alert in right, _place(case.guess, right),
        _chance(len(right), n_units, 1), _chance(len(right), n_units, 3),
    )  # fmt: skip


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


def _by_unit(case: Case, blame: NDArray[np.float64]) -> dict[str, float]:
    result = dict.fromkeys(case.guess, 0.0)
    for unit, share in zip(case.units, blame, strict=True):
        if unit:
            result[unit] += float(share)
    return result


def _place(ranked: Sequence[str], right: frozenset[str]) -> int:
    return next(place for place, name in enumerate(ranked, start=1) if name in right)


def _chance(n_right: int, n_units: int, k: int) -> float:
    """The probability that k names drawn at random hold a right one."""
    missed = 1.0
    for drawn in range(min(k, n_units)):
        missed *= max(0, n_units - n_right - drawn) / (n_units - drawn)
    return 1.0 - missed
