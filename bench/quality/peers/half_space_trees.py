"""river's HalfSpaceTrees with its defaults behind its MinMaxScaler: scores a row, then learns it.

Frozen stops learning after the training rows. Calibrated on the scores of the second half of the training rows, each
given before it was learnt; adaptive on the newest 14 days, once a day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from bench.quality.cases import Case
from bench.quality.detector import Answer, Budget, Mode
from bench.quality.measure import Scores
from bench.quality.peers.base import BOTH, filled
from bench.quality.peers.threshold import scale_of
from river.anomaly import HalfSpaceTrees
from river.preprocessing import MinMaxScaler

_DAY_S = 86_400
_RECALIBRATE_DAYS = 14
_EVERY_ROWS = 500


@dataclass(frozen=True, slots=True)
class Trees:
    """One stream, one pass."""

    name: str = "river-hst"
    modes: tuple[Mode, ...] = BOTH

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """Calibrated scores of the judged rows."""
        raw = _stream(filled(case.values, case.train_rows), case.train_rows, mode, progress)
        first, n = case.train_rows, len(raw)
        raw[: first // 2] = np.nan
        every = max(1, _DAY_S // case.step_s) if mode is Mode.ADAPT else n
        newest = max(1, _RECALIBRATE_DAYS * _DAY_S // case.step_s)
        result = {budget: np.full(n - first, np.nan) for budget in budgets}
        for at in range(first, n, every):
            until = min(n, at + every)
            past = raw[max(0, at - newest) : at] if mode is Mode.ADAPT else raw[:at]
            for budget in budgets:
                result[budget][at - first : until - first] = scale_of(past, case.step_s, budget)(raw[at:until])
        return {budget: Answer(scores) for budget, scores in result.items()}


def _stream(values: Scores, train_rows: int, mode: Mode, progress: Callable[[float], None]) -> Scores:
    trees, scaler = HalfSpaceTrees(seed=0), MinMaxScaler()
    scores = np.full(len(values), np.nan)
    for at, row in enumerate(values.tolist()):
        learns = mode is Mode.ADAPT or at < train_rows
        named = dict(enumerate(row))
        if learns:
            scaler.learn_one(named)
        scaled = scaler.transform_one(named)
        scores[at] = trees.score_one(scaled)
        if learns:
            trees.learn_one(scaled)
        if at % _EVERY_ROWS == 0:
            progress(at / len(values))
    return scores


HALF_SPACE_TREES = Trees()
