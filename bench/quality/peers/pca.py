"""PCA residual: how far a row lies from the plane that holds nine tenths of the variance."""

from __future__ import annotations

import numpy as np
from bench.quality.measure import Scores
from bench.quality.peers.base import Fitted, RowPeer

_KEPT = 0.9


def _fit(rows: Scores) -> Fitted:
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = (rows - middle) / spread
    variance, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    falling = np.argsort(-variance)
    share = np.cumsum(variance[falling]) / max(float(variance.sum()), 1e-12)
    # of a single metric nothing would remain: then the distance from the mean itself
    n_axes = min(int(np.searchsorted(share, _KEPT)) + 1, rows.shape[1] - 1)
    plane = axes[:, falling[:n_axes]]

    def residual(fresh: Scores) -> Scores:
        at = (fresh - middle) / spread
        return np.asarray(np.linalg.norm(at - at @ plane @ plane.T, axis=1))

    return residual


PCA = RowPeer("pca-residual", _fit)
