"""VUS-PR, the volume under the precision-recall surface, as TSB-AD computes it (Paparrizos et al., VLDB 2022).

Labels are widened by 0 to `window` rows with a falling slope; for each width, precision and recall over 250 thresholds
give an area, and the volume is the mean area. `window` is the strongest period in the first metric's autocorrelation.
Here every width costs one pass over the sorted rows, where TSB-AD's own code takes one for each threshold.
"""

from __future__ import annotations

import numpy as np
from bench.quality.measure import Flags, Scores, runs
from numpy.typing import NDArray

_THRESHOLDS = 250
_MOST_LAGS, _FIRST_LAG, _LONGEST_PERIOD, _NO_PERIOD = 400, 3, 300, 125  # TSB-AD's own
_MOST_ROWS = 20_000


def vus_pr(scores: Scores, labels: Flags, window: int) -> float:
    """The volume, 0 to 1; NaN where nothing is labelled. NaN scores rank last."""
    if not labels.any():
        return float("nan")
    known = np.where(np.isfinite(scores), scores, np.nanmin(scores) if np.isfinite(scores).any() else 0.0)
    order = np.argsort(-known, kind="stable")
    ranked = known[order]
    picks = np.linspace(0, len(known) - 1, _THRESHOLDS).astype(np.int64)
    thresholds = ranked[picks]
    flagged = np.searchsorted(-ranked, -thresholds, side="right")  # rows at or above each threshold
    segments = runs(labels)
    inside = np.cumsum(labels[order])[flagged - 1]
    areas = []
    for width in range(window + 1):
        widened, merged = _widened(labels, segments, width), _merged(segments, width, len(labels))
        areas.append(_area(known, order, flagged, thresholds, widened, merged, inside))
    return float(np.mean(areas))


def _area(
    scores: Scores,
    order: NDArray[np.int64],
    flagged: NDArray[np.int64],
    thresholds: Scores,
    widened: Scores,
    merged: list[tuple[int, int]],
    inside: NDArray[np.int64],
) -> float:
    hits = np.cumsum(widened[order])[flagged - 1]
    positives = float(inside[-1])  # the lowest threshold flags every row
    peaks = np.array([scores[first : last + 1].max() for first, last in merged])
    exist = (peaks[None, :] >= thresholds[:, None]).mean(axis=1)
    # neither the narrow labels nor the wide ones: the mean of both, so that recall is neither too large nor too small
    relevant = (positives + positives + hits - inside) / 2
    recall = np.minimum(hits / relevant, 1.0) * exist
    precision = hits / flagged
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


def _widened(labels: Flags, segments: list[tuple[int, int]], width: int) -> Scores:
    result = labels.astype(np.float64)
    for first, end in segments:
        last = end - 1
        after = np.arange(last + 1, min(last + width // 2 + 1, len(labels)))
        result[after] += np.sqrt(1 - (after - last) / max(1, width))
        before = np.arange(max(first - width // 2, 0), first)
        result[before] += np.sqrt(1 - (first - before) / max(1, width))
    return np.minimum(1.0, result)


def _merged(segments: list[tuple[int, int]], width: int, n_rows: int) -> list[tuple[int, int]]:
    """Widened segments as (first, last), those that meet joined."""
    half = width // 2
    result = [(max(segments[0][0] - half, 0), segments[0][1] - 1 + half)]
    for first, end in segments[1:]:
        if result[-1][1] < first - half:
            result.append((first - half, end - 1 + half))
        else:
            result[-1] = (result[-1][0], end - 1 + half)
    result[-1] = (result[-1][0], min(result[-1][1], n_rows - 1))
    return result


def period_of(series: Scores) -> int:
    """The lag of the highest local maximum of the autocorrelation, between 6 and 303; 125 where there is none."""
    known = series[:_MOST_ROWS]
    known = np.where(np.isfinite(known), known, np.nanmean(known) if np.isfinite(known).any() else 0.0)
    centred = known - known.mean()
    lags = min(_MOST_LAGS, len(centred) - 1)
    power = float(centred @ centred)
    if power <= 0.0 or lags <= _FIRST_LAG:
        return _NO_PERIOD
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlation = np.fft.irfft(spectrum * np.conj(spectrum))[_FIRST_LAG : lags + 1] / power
    middle = correlation[1:-1]
    peaks = np.flatnonzero((middle > correlation[:-2]) & (middle > correlation[2:])) + 1
    if not len(peaks):
        return _NO_PERIOD
    best = int(peaks[np.argmax(correlation[peaks])])
    return best + _FIRST_LAG if _FIRST_LAG <= best <= _LONGEST_PERIOD else _NO_PERIOD
