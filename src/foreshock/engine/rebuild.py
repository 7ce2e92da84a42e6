"""Judge again what was judged: from the evidence of an event and its model, by the functions of production. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.alerting.bundle import ReplayFacts, unpack
from foreshock.core.errors import Damaged
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Anomalous, Contribution, Subject, Verdict
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine.cohort import Cohort, Described, Revision
from foreshock.engine.decide import judgement, shares
from foreshock.engine.evidence import RULES
from foreshock.engine.facts import without_thin_metrics
from foreshock.features.schema import STATISTICS


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """What the model says of the stored window; `frame` is None where only the vector was stored."""

    verdict: Verdict
    contributions: tuple[Contribution, ...]
    vector: Array
    frame: Frame | None
    expected: Array | None  # (n_times, n_metrics)
    usual: Array | None

    @property
    def score(self) -> float | None:
        """The score, or None where nothing can be said."""
        return self.verdict.score if isinstance(self.verdict, Anomalous) else getattr(self.verdict, "score", None)


def rebuild(replay: ReplayFacts, model: Model) -> Rebuilt:
    """Put the stored samples into a cohort of one and judge them as a cycle does.

    Raises:
        Damaged: the evidence does not fit the model, or is not what was stored.

    """
    schema = model.schema
    if (schema.step_s, schema.window_s) != (replay.step_s, replay.window_s):
        raise Damaged("The model was trained on another step or window than this evidence has: it is not its model.")
    n_metrics = len(schema.metrics)
    cohort = Cohort(schema)
    row = cohort.add(Subject("", ""), rules_of(replay, n_metrics), 0.0)
    cohort.install(row, model, Revision("", "", "", 0, 0))
    cohort.ends_s[row] = replay.end_s
    described, frame, expected, usual = None, None, None, None
    if replay.samples is not None:
        cohort.ring[row] = unpack(replay.samples, "<f4", (schema.context_steps, n_metrics))
        start_s = replay.end_s - (schema.context_steps - 1) * schema.step_s
        frame = Frame(start_s, schema.step_s, schema.metrics, cohort.ring[row].copy())
        expected, usual = model.baseline.expect(frame)
    elif replay.vector is not None:
        vector = unpack(replay.vector, "<f8", (1, n_metrics, len(STATISTICS)))
        described = Described(np.array([row]), vector, unpack(replay.gaps, "<f8", (1, n_metrics)))
    else:
        raise Damaged("This evidence holds neither samples nor a vector: its window was too large to be kept.")
    judged = cohort.judge(np.array([row]), np.array([True]), np.array([False]), described)
    verdict = judged.decisions.verdict(0)
    row_shares = None
    if isinstance(verdict, Anomalous):
        blamed = model.ensemble.contributions(without_thin_metrics(judged.vectors), cohort.rules[row])
        row_shares = shares(judged.decisions, judged.facts, blamed)[0]
    said = judgement(cohort.subjects[row], replay.end_s, verdict, schema.metrics, row_shares)
    return Rebuilt(verdict, said.contributions, judged.vectors[0], frame, expected, usual)


def rules_of(replay: ReplayFacts, n_metrics: int) -> Rules:
    """The manifest's rules as they were when the window was judged."""
    columns = unpack(replay.rules, "<f8", (n_metrics, len(RULES))).T
    parts = dict(zip(RULES, columns, strict=True))
    return Rules(**{**parts, "is_load": parts["is_load"].astype(np.bool_)})
