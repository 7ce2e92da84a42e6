"""From facts to verdicts, one rule for all: production, `backtest` and validation call these functions. Pure.

A fleet has the same shape as a history: rows. Row i of every array is one window; the outcome is a code and a score,
and only windows that somebody must hear of become `Judgement`s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.core.verdicts import (
    Anomalous,
    Cause,
    Contribution,
    Ignorance,
    Inconclusive,
    Judgement,
    Normal,
    Subject,
    Verdict,
)
from foreshock.features.schema import GAP_STEPS, HALF

Codes = NDArray[np.int8]
NORMAL = 0
_CAUSES = (Cause.SCORE, Cause.OUT_OF_RANGE, Cause.ABSENT)
_IGNORANCE = tuple(Ignorance)
_FIRST_CAUSE, _FIRST_IGNORANCE = 1, 1 + len(_CAUSES)

ALWAYS_THERE = 0.95  # share of the training that a metric must have been measured for its absence to be news
LEAST_ABSENCE_S = 900
_JUST_ANOMALOUS = 1.01  # what leaves its valid range, as vmanomaly scores it


def code_of(reason: Cause | Ignorance) -> int:
    """The code that stands for a reason in the arrays."""
    if isinstance(reason, Cause):
        return _FIRST_CAUSE + _CAUSES.index(reason)
    return _FIRST_IGNORANCE + _IGNORANCE.index(reason)


def ignorance_of(code: int) -> Ignorance | None:
    """Why a window of this code is inconclusive, or None where it is not."""
    return _IGNORANCE[code - _FIRST_IGNORANCE] if code >= _FIRST_IGNORANCE else None


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """All that a decision looks at, for n windows of n_metrics metrics each."""

    scores: Array  # (n,) calibrated
    availability: Array  # (n, n_metrics) share of the window that was measured, 0 where nothing was
    gap_steps: Array  # (n, n_metrics) steps since the newest sample
    out_of_range: NDArray[np.bool_]  # (n, n_metrics)
    usual_availability: Array  # (n, n_metrics) or (n_metrics,) share of the training that was measured
    degraded: NDArray[np.bool_]  # (n,) the datasource warned that its answer is partial
    step_s: int
    window_s: int

    def take(self, rows: slice) -> Facts:
        """The facts of some of the windows."""
        usual = np.broadcast_to(self.usual_availability, self.availability.shape)
        return Facts(
            self.scores[rows], self.availability[rows], self.gap_steps[rows], self.out_of_range[rows], usual[rows],
            self.degraded[rows], self.step_s, self.window_s,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """One code and one score a window; a score below 1 is normal, NaN where nothing can be said."""

    codes: Codes
    scores: Array

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        return (self.codes >= _FIRST_CAUSE) & (self.codes < _FIRST_IGNORANCE)

    @property
    def inconclusive(self) -> NDArray[np.bool_]:
        return self.codes >= _FIRST_IGNORANCE

    def take(self, rows: slice) -> Decisions:
        """The decisions about some of the windows."""
        return Decisions(self.codes[rows], self.scores[rows])

    def verdict(self, row: int) -> Verdict:
        """The verdict of one window."""
        code, score = int(self.codes[row]), float(self.scores[row])
        if code == NORMAL:
            return Normal(score)
        if code < _FIRST_IGNORANCE:
            return Anomalous(score, _CAUSES[code - _FIRST_CAUSE])
        return Inconclusive(_IGNORANCE[code - _FIRST_IGNORANCE])


def decide(facts: Facts) -> Decisions:
    """Judge every window; what is there is judged first, so that a missing metric never hides a failing one.

    Read from the bottom: each rule overrules those before it.
    """
    n = len(facts.scores)
    codes, scores = np.full(n, NORMAL, np.int8), facts.scores.copy()
    always = np.broadcast_to(facts.usual_availability >= ALWAYS_THERE, facts.availability.shape)
    missing = facts.availability <= 0.0
    stale = facts.gap_steps > GAP_STEPS
    thin = facts.availability < HALF
    absent_steps = max(LEAST_ABSENCE_S, facts.window_s / 2) / facts.step_s
    absent = always & (facts.gap_steps > absent_steps)

    def ignorant(where: NDArray[np.bool_] | np.bool_, reason: Ignorance) -> None:
        codes[where], scores[where] = code_of(reason), np.nan

    ignorant((thin & always).any(axis=1) | thin.all(axis=1), Ignorance.TOO_FEW_SAMPLES)
    ignorant((stale & always).any(axis=1) | stale.all(axis=1), Ignorance.STALE)
    ignorant(missing.all(axis=1), Ignorance.NO_DATA)
    gone = absent.any(axis=1)
    codes[gone] = code_of(Cause.ABSENT)
    scores[gone] = np.nan_to_num(facts.gap_steps, posinf=1e6).max(axis=1)[gone] / absent_steps
    outside = facts.out_of_range.any(axis=1)
    codes[outside] = code_of(Cause.OUT_OF_RANGE)
    scores[outside] = np.fmax(facts.scores[outside], _JUST_ANOMALOUS)
    beyond = facts.scores >= 1.0
    codes[beyond], scores[beyond] = code_of(Cause.SCORE), facts.scores[beyond]
    ignorant(facts.degraded, Ignorance.PARTIAL_RESPONSE)
    return Decisions(codes, scores)


def shares(decisions: Decisions, facts: Facts, contributions: Array) -> Array:
    """Who is to blame for each window, (n, n_metrics), rows adding up to 1: the absent, the outside, or the model's."""
    always = np.broadcast_to(facts.usual_availability >= ALWAYS_THERE, facts.availability.shape)
    blamed = np.where((decisions.codes == code_of(Cause.ABSENT))[:, None], always * facts.gap_steps, contributions)
    blamed = np.where((decisions.codes == code_of(Cause.OUT_OF_RANGE))[:, None], facts.out_of_range * 1.0, blamed)
    total = blamed.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # where nothing is unusual, nobody is more to blame
        return np.asarray(np.where(total > 0.0, blamed / total, 1.0 / blamed.shape[1]))


def judgement(
    subject: Subject, at_s: int, verdict: Verdict, metrics: tuple[str, ...], row_shares: Array | None
) -> Judgement:
    """Put one window into words; contributions only where it is anomalous, largest first."""
    if not isinstance(verdict, Anomalous) or row_shares is None:
        return Judgement(subject, at_s, verdict)
    order = np.argsort(-row_shares, kind="stable")
    return Judgement(subject, at_s, verdict, tuple(Contribution(metrics[k], float(row_shares[k])) for k in order))
