"""Mahalanobis distance of the metrics of one row, with the covariance shrunk as Ledoit and Wolf (2004) do."""

from __future__ import annotations

import numpy as np
from bench.quality.measure import Scores
from bench.quality.peers.base import Fitted, RowPeer
from sklearn.covariance import LedoitWolf


def _fit(rows: Scores) -> Fitted:
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    shape = LedoitWolf(assume_centered=True).fit((rows - middle) / spread)
    return lambda fresh: np.asarray(np.sqrt(np.maximum(0.0, shape.mahalanobis((fresh - middle) / spread))))


MAHALANOBIS = RowPeer("mahalanobis", _fit)
