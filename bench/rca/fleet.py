"""One detector a service, as a team would have them: who is blamed when several are anomalous at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bench.rca.cases import Case, Incident, rules_of
from bench.rca.measure import BUDGET_PER_S, Outcome, outcome_of, window_s_of
from bench.rca.ranking import Suspect, rank

from foreshock.alerting.state import AlertPolicy, AlertState, Kind, Transition, advance
from foreshock.core.frame import Array, Frame, as_samples
from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Course, Model, train
from foreshock.engine.decide import Decisions, decide, judgement, shares
from foreshock.engine.facts import facts_of, without_thin_metrics
from foreshock.engine.neighbours import Neighbours
from foreshock.features.schema import Schema

_NEW_ROWS = 3  # who has been anomalous for longer than this before an incident is no part of it
_LEAST_MEASURED = 0.02  # of the history, for a metric that somebody would watch


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """What the detector of one service says of the judged rows; `blame` is (n_rows, n_metrics)."""

    name: str
    metrics: tuple[str, ...]
    decisions: Decisions
    blame: Array

    @property
    def scores(self) -> Array:
        """0 where nothing can be said."""
        return np.asarray(np.nan_to_num(self.decisions.scores, nan=0.0))


class Fleet:
    """The detectors of all services of a dataset, so that cases with one history share them."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._models: dict[tuple[tuple[str, ...], int], Model] = {}

    def outcomes(self, case: Case) -> list[Outcome]:
        """One outcome an incident: by score, along the calls, and as alerts of production would have named it."""
        services = [found for unit in case.guess if (found := self._service(case, unit)) is not None]
        named = _named_by_alerts(case, services)
        result = []
        for incident, origin in zip(case.incidents, named, strict=True):
            suspects = {each.name: _suspect(each.scores, incident) for each in services}
            missing = [unit for unit in case.guess if unit not in suspects]
            detected = any(each.is_part for each in suspects.values())
            found = outcome_of(
                case, incident, "one a service", [*rank(suspects), *missing], detected=detected,
                with_calls=[*rank(suspects, case.calls), *missing] if case.calls else None, named_by_alert=origin,
            )  # fmt: skip
            if found is not None:
                result.append(found)
        return result

    def _service(self, case: Case, unit: str) -> Service | None:
        """Judge all rows by the metrics of one service; None for one that its history hardly knows."""
        measured = np.isfinite(case.history).mean(axis=0) > _LEAST_MEASURED
        chosen = [k for k, each in enumerate(case.units) if each == unit and measured[k]]
        if not chosen:
            return None
        columns = tuple(case.columns[k] for k in chosen)
        schema = Schema(tuple(f"m{k}" for k in range(len(chosen))), case.step_s, window_s_of(case))
        rules, history = rules_of(columns), case.history[:, chosen]
        key = (columns, hash(history.tobytes()))
        if key not in self._models:
            frame = Frame(0, case.step_s, schema.metrics, as_samples(history))
            course = Course(schema, rules, self._algorithm, BUDGET_PER_S, None, "UTC")
            self._models[key] = train(frame, course, np.ones(frame.n_times, np.bool_))
        model, kept = self._models[key], min(len(history), schema.context_steps)
        values = np.concatenate([history[-kept:], case.judged[:, chosen]])
        rows = Frame((len(history) - kept) * case.step_s, case.step_s, schema.metrics, as_samples(values))
        vectors = model.vectors(rows, kept)
        facts = facts_of(model, rules, vectors, rows, kept)
        decisions = decide(facts)
        blame = shares(decisions, facts, model.ensemble.contributions(without_thin_metrics(vectors), rules))
        return Service(unit, columns, decisions, blame)


def _suspect(scores: Array, incident: Incident) -> Suspect:
    """How bad a service became during an incident, and whether it was well shortly before."""
    inside = scores[incident.start : incident.end]
    before = scores[max(0, incident.start - _NEW_ROWS - 1) : incident.start] >= 1.0
    goes_on = inside[0] >= 1.0 and len(before) > _NEW_ROWS and bool(before.all())
    return Suspect(float(inside.max()), is_new=not goes_on)


def _named_by_alerts(case: Case, services: list[Service]) -> list[str]:
    """The likely origin in the last alert that fired within each incident; empty where none did."""
    policy = AlertPolicy("critical", interval_s=case.step_s)
    states: dict[Subject, AlertState] = {}
    named = [""] * len(case.incidents)
    for row in range(len(case.judged)):
        now: dict[Subject, AlertState] = {}
        moved: list[Transition] = []
        for each in services:
            subject, verdict = Subject("shop", each.name), each.decisions.verdict(row)
            said = judgement(subject, (row + 1) * case.step_s, verdict, each.metrics, each.blame[row])
            now[subject], transitions = advance(states.get(subject), said, policy, cluster="bench")
            moved += transitions
        neighbours = Neighbours(states, now, is_whole_cluster=False)
        for transition in sorted(moved, key=lambda each: (each.started_at_s, str(each.subject))):
            met = neighbours.meet(transition, window_s_of(case), case.step_s)
            if transition.kind is Kind.FIRING:
                origin = (met.origin or transition.subject.detector).removeprefix("shop/")
                named = [
                    origin if incident.start <= row < incident.end else before
                    for incident, before in zip(case.incidents, named, strict=True)
                ]
        states |= now
    return named
