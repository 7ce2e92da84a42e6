"""The Numenta Anomaly Benchmark by its own rules: windows, a sigmoid over the position, one threshold for all files.

A window pays for its earliest alarm, most at its left edge (1) and nothing at its right edge; without one it costs 1.
Each alarm outside costs up to 0.11 (the standard profile), less shortly after a window. The first rows of a file, 15 %
and 750 at most, are on probation and count for nothing. The sum over all files is normalised: 0 is a detector that is
silent, 100 one that alarms once at the left edge of every window.

NAB counts every row above the threshold, so that an alarm of three hours costs 36 times what one of five minutes costs.
People see one. The adapter reports a row only when the score crosses the threshold after `REFRACTORY_ROWS` rows below
it: an onset, and then silence for as long as the alarm is on. The same for all files; published detectors are printed
with it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bench.quality.measure import Scores
from numpy.typing import NDArray

PROBATION_SHARE, MOST_PROBATION_ROWS = 0.15, 750
REFRACTORY_ROWS = 12
_NOBODY = -1
_FAR = 3.0  # widths after a window from which an alarm costs all of its weight
_MOST_THRESHOLDS = 600


@dataclass(frozen=True, slots=True)
class Profile:
    """What alarms and misses weigh."""

    found: float = 1.0
    false_alarm: float = 0.11
    missed: float = 1.0


STANDARD = Profile()


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """One file, ready to be scored: rows on probation are left out."""

    worth: Scores  # what an alarm at each row adds: positive inside a window, negative outside
    window: NDArray[np.int64]  # which window each row lies in, -1 for none
    n_windows: int  # that have a row after the probation


def probation_rows(n_rows: int) -> int:
    """Rows at the start that count for nothing."""
    return min(int(PROBATION_SHARE * n_rows), MOST_PROBATION_ROWS)


def sigmoid(position: Scores) -> Scores:
    """1 far left of a window's right edge, 0 on it, -1 far to the right; -1 is the left edge, in widths."""
    return np.where(position > _FAR, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, _FAR))) - 1.0)


def sheet(n_rows: int, windows: Sequence[tuple[int, int]], profile: Profile = STANDARD) -> Sheet:
    """Prepare a file; `windows` are (first row, last row), both inside, in order."""
    rows = np.arange(n_rows)
    worth, window = np.full(n_rows, -1.0), np.full(n_rows, _NOBODY)
    for first, last in windows:
        after = rows > last  # of the windows before a row, the nearest one counts
        worth[after] = sigmoid((rows[after] - last) / max(1, last - first))
    worth *= profile.false_alarm
    for number, (first, last) in enumerate(windows):
        inside = rows[first : last + 1]
        window[inside] = number
        worth[inside] = profile.found * sigmoid((inside - last - 1) / (last - first + 1.0)) / sigmoid(np.array(-1.0))
    start = probation_rows(n_rows)
    kept = window[start:]
    return Sheet(worth[start:], kept, len(np.unique(kept[kept != _NOBODY])))


def raw_score(sheets: Sequence[Sheet], alarms: Sequence[NDArray[np.bool_]], profile: Profile = STANDARD) -> float:
    """The sum over all files; `alarms` are the rows after each file's probation."""
    total = 0.0
    for page, flags in zip(sheets, alarms, strict=True):
        outside = flags & (page.window == _NOBODY)
        total += float(page.worth[outside].sum())
        inside = flags & (page.window != _NOBODY)
        for number in np.unique(page.window[page.window != _NOBODY]):
            total += max([-profile.missed, *page.worth[inside & (page.window == number)]])
    return total


def normalised(raw: float, n_windows: int, profile: Profile = STANDARD) -> float:
    """0 for silence, 100 for perfection."""
    silent, perfect = -profile.missed * n_windows, profile.found * n_windows
    return 100.0 * (raw - silent) / (perfect - silent)


def onsets(flags: NDArray[np.bool_], refractory: int = REFRACTORY_ROWS) -> NDArray[np.bool_]:
    """The adapter: rows that follow `refractory` rows without any flag."""
    rows = np.flatnonzero(flags)
    result = np.zeros(len(flags), np.bool_)
    if len(rows):
        result[rows[np.concatenate([[True], np.diff(rows) > refractory])]] = True
    return result


def score_at(
    sheets: Sequence[Sheet], scores: Sequence[Scores], threshold: float, *, adapted: bool, profile: Profile = STANDARD
) -> float:
    """The normalised score at one threshold for all files; NaN is no alarm."""
    flags = [np.nan_to_num(each, nan=-np.inf) >= threshold for each in scores]
    alarms = [onsets(each) for each in flags] if adapted else flags
    return normalised(raw_score(sheets, alarms, profile), sum(page.n_windows for page in sheets), profile)


def best(
    sheets: Sequence[Sheet], scores: Sequence[Scores], *, adapted: bool, profile: Profile = STANDARD
) -> tuple[float, float]:
    """The best common threshold and its score, as NAB itself chooses it: with the labels."""
    if not adapted:
        return _best_exactly(sheets, scores, profile)
    pooled = np.concatenate([each[np.isfinite(each)] for each in scores])
    ranked = np.unique(pooled)[::-1]
    ranks = np.unique(np.geomspace(1, max(1, len(ranked)), _MOST_THRESHOLDS).astype(np.int64)) - 1
    tried = ranked[ranks] if len(ranked) else ranked
    found = [(score_at(sheets, scores, at, adapted=True, profile=profile), float(at)) for at in tried]
    score, threshold = max([(0.0, np.inf), *found])
    return threshold, score


def _best_exactly(sheets: Sequence[Sheet], scores: Sequence[Scores], profile: Profile) -> tuple[float, float]:
    """All thresholds in one pass: rows by falling score, each adding what it changes."""
    gains = np.concatenate([_gains(*pair, profile) for pair in zip(sheets, scores, strict=True)])
    known = np.concatenate([np.nan_to_num(each, nan=-np.inf) for each in scores])
    n_windows = sum(page.n_windows for page in sheets)
    order = np.argsort(-known, kind="stable")
    totals = np.cumsum(gains[order]) - profile.missed * n_windows
    ends = np.append(known[order][1:] != known[order][:-1], True)  # ties are all above a threshold, or none is
    at = int(np.argmax(np.where(ends, totals, -np.inf)))
    if totals[at] <= -profile.missed * n_windows:
        return np.inf, 0.0
    return float(known[order][at]), normalised(float(totals[at]), n_windows, profile)


def _gains(page: Sheet, scores: Scores, profile: Profile) -> Scores:
    """What each row adds to the sum once the threshold falls to its score."""
    gains = page.worth.copy()
    known = np.nan_to_num(scores, nan=-np.inf)
    for number in np.unique(page.window[page.window != _NOBODY]):
        rows = np.flatnonzero(page.window == number)
        rows = rows[np.argsort(-known[rows], kind="stable")]
        running = np.maximum.accumulate(np.maximum(page.worth[rows], -profile.missed))
        gains[rows] = np.diff(np.concatenate([[-profile.missed], running]))
    return gains
