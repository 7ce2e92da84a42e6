"""What a plain forest is fitted on: statistics of windows of an hour."""

from __future__ import annotations

import numpy as np

WINDOW = 60


def statistics_of(series: np.ndarray) -> np.ndarray:
    """Twelve statistics of each full window of a series, (n_windows, 12)."""
    windows = np.lib.stride_tricks.sliding_window_view(series, WINDOW)
    low, median, high = np.quantile(windows, [0.25, 0.5, 0.75], axis=1)
    columns = (
        windows.mean(axis=1),
        median,
        windows.std(axis=1),
        windows[:, -1] - windows[:, -2],
        high - low,
        windows.min(axis=1),
        windows.max(axis=1),
        low,
        high,
        windows[:, -1],
        windows[:, -5:].mean(axis=1),
        windows[:, -5:].std(axis=1),
    )
    return np.column_stack(columns)
