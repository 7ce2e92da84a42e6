"""PyOD's IForest and ECOD with their defaults, on the metrics of one row."""

from __future__ import annotations

import numpy as np
from bench.quality.measure import Scores
from bench.quality.peers.base import Fitted, RowPeer
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest

_BATCH_ROWS = 288


def _iforest(rows: Scores) -> Fitted:
    model = IForest(random_state=0)
    model.fit(rows)
    return lambda fresh: np.asarray(model.decision_function(fresh))


def _ecod(rows: Scores) -> Fitted:
    model = ECOD()
    model.fit(rows)

    def batches(fresh: Scores) -> Scores:
        # ECOD ranks new rows among the training rows and one another: batches keep it from seeing far ahead
        return np.concatenate(
            [model.decision_function(fresh[at : at + _BATCH_ROWS]) for at in range(0, len(fresh), _BATCH_ROWS)]
        )

    return batches


PYOD_IFOREST = RowPeer("pyod-iforest", _iforest)
PYOD_ECOD = RowPeer("pyod-ecod", _ecod)
