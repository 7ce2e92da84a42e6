"""A peer that fits on rows and scores rows: held-out scores by four-block cross-fitting, frozen or refitted daily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from bench.quality.cases import Case
from bench.quality.detector import Answer, Budget, Mode
from bench.quality.measure import Scores
from bench.quality.peers.threshold import scale_of

_BLOCKS = 4
_DAY_S = 86_400
_RECALIBRATE_DAYS = 14
BOTH = (Mode.ADAPT, Mode.FROZEN)


class Fitted(Protocol):
    """What fitting gives: raw scores of rows, higher for stranger ones."""

    def __call__(self, rows: Scores, /) -> Scores: ...


@dataclass(frozen=True, slots=True)
class RowPeer:
    """`describe` turns values (n_times, n_metrics) into the rows that `fit` learns from, each from its own past."""

    name: str
    fit: Callable[[Scores], Fitted]
    describe: Callable[[Scores, int], Scores] = lambda values, _step_s: values
    modes: tuple[Mode, ...] = BOTH

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """Calibrated scores of the judged rows.

        Frozen: fitted once on the training rows, calibrated on their cross-fitted scores. Adaptive: every day fitted
        anew on as many of the newest rows as there were training rows, calibrated on the newest 14 days of held-out
        scores; rows that fired teach and calibrate like all others.
        """
        rows = self.describe(filled(case.values, case.train_rows), case.step_s)
        first, n = case.train_rows, len(rows)
        held_out = np.concatenate([self._cross_fit(rows[:first]), np.full(n - first, np.nan)])
        result = {budget: np.full(n - first, np.nan) for budget in budgets}
        every = max(1, _DAY_S // case.step_s) if mode is Mode.ADAPT else n
        newest = max(1, _RECALIBRATE_DAYS * _DAY_S // case.step_s)
        for at in range(first, n, every):
            until = min(n, at + every)
            held_out[at:until] = self.fit(rows[at - first : at])(rows[at:until])
            past = held_out[:at] if mode is Mode.FROZEN else held_out[max(0, at - newest) : at]
            for budget in budgets:
                result[budget][at - first : until - first] = scale_of(past, case.step_s, budget)(held_out[at:until])
            progress((until - first) / (n - first))
        return {budget: Answer(scores) for budget, scores in result.items()}

    def _cross_fit(self, rows: Scores) -> Scores:
        """Each quarter scored by a model that was fitted on the other three."""
        scores = np.empty(len(rows))
        for block in np.array_split(np.arange(len(rows)), _BLOCKS):
            others = np.ones(len(rows), np.bool_)
            others[block] = False
            scores[block] = self.fit(rows[others])(rows[block])
        return scores


def filled(values: Scores, train_rows: int) -> Scores:
    """What was not measured keeps its last value; before the first one it has the median of the training rows."""
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    seen = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    middle = np.zeros(values.shape[1])
    for column in range(values.shape[1]):
        train = values[:train_rows, column][known[:train_rows, column]]
        middle[column] = np.median(train) if len(train) else 0.0
    return np.where(last >= 0, seen, middle)
