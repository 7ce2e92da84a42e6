"""Robust z-score: the largest distance of any metric from its median, in median absolute deviations."""

from __future__ import annotations

import numpy as np
from bench.quality.measure import Scores
from bench.quality.peers.base import Fitted, RowPeer

_NORMAL = 1.4826  # a median absolute deviation times this is the standard deviation of a normal distribution


def _fit(rows: Scores) -> Fitted:
    middle = np.median(rows, axis=0)
    spread = _NORMAL * np.median(np.abs(rows - middle), axis=0)
    deviation = rows.std(axis=0)
    # more than half of a counter's values may be equal: then the standard deviation, and 1 for a constant
    spread = np.where(spread > 0, spread, np.where(deviation > 0, deviation, 1.0))
    return lambda fresh: np.asarray((np.abs(fresh - middle) / spread).max(axis=1))


ROBUST_Z = RowPeer("robust-z", _fit)
