"""The recipe of the textbook: statistics of a window into scikit-learn's IsolationForest, seasons and all."""

from __future__ import annotations

import numpy as np
from bench.quality.measure import HOUR_S, Scores
from bench.quality.peers.base import Fitted, RowPeer
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.ensemble import IsolationForest

_LEAST_WINDOW_ROWS = 12  # the window that Foreshock uses on the same file


def _window_statistics(values: Scores, step_s: int) -> Scores:
    """Mean, standard deviation, rate of change, minimum and maximum of each metric over the window before each row."""
    window = max(HOUR_S // step_s, _LEAST_WINDOW_ROWS)
    padded = np.concatenate([np.repeat(values[:1], window - 1, axis=0), values])
    windows = sliding_window_view(padded, window, axis=0)
    change = (windows[..., -1] - windows[..., 0]) / ((window - 1) * step_s)
    return np.hstack([windows.mean(axis=-1), windows.std(axis=-1), change, windows.min(axis=-1), windows.max(axis=-1)])


def _fit(rows: Scores) -> Fitted:
    forest = IsolationForest(random_state=0).fit(rows)
    return lambda fresh: np.asarray(-forest.score_samples(fresh))


TEXTBOOK = RowPeer("textbook", _fit, _window_statistics)
