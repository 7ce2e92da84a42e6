"""What a user would have lived through: segments found, false alarms, delays. Rows in, counts out.

Rows from 6 before a labelled segment to an hour after it belong to nobody: a window still sees the segment. Of the
rest, anomalous rows less than an hour apart are one episode: one false alarm, and one more for each further hour that
it goes on. A segment is found when a row inside is anomalous, unless the alarm was already on in the hour before and
did not begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]

HOUR_S, WEEK_S = 3_600, 604_800
TOLERANCE_ROWS = 6
_MOST_THRESHOLDS = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case by one detector at one threshold; rows count from the first judged one."""

    starts: tuple[int, ...]  # of the segments
    found: tuple[bool, ...]
    delays: tuple[int, ...]  # rows from the start to the first anomalous row inside, of the found segments
    episodes: tuple[tuple[int, int], ...]  # first and last row of each false episode
    false_alarms: int
    quiet_rows: int  # rows that belong to no segment
    stray_rows: int  # of those, the anomalous ones


def runs(flags: Flags) -> list[tuple[int, int]]:
    """Stretches of True as (first row, row after the last)."""
    edge = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    firsts, ends = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


class Ruler:
    """The labels of one case, prepared once for many thresholds."""

    def __init__(self, labels: Flags, step_s: int) -> None:
        self.hour = max(1, HOUR_S // step_s)
        self.segments = runs(labels)
        nobody = np.zeros(len(labels), np.bool_)
        for first, end in self.segments:
            nobody[max(0, first - TOLERANCE_ROWS) : end + max(TOLERANCE_ROWS, self.hour)] = True
        self.quiet = ~nobody

    def outcome(self, flags: Flags) -> Outcome:
        """Count what these anomalous rows amount to."""
        stray = flags & self.quiet
        episodes = self._episodes(np.flatnonzero(stray))
        hits = [self._hit(flags, stray, first, end) for first, end in self.segments]
        return Outcome(
            starts=tuple(first for first, _ in self.segments),
            found=tuple(hit is not None for hit in hits),
            delays=tuple(hit for hit in hits if hit is not None),
            episodes=tuple(episodes),
            false_alarms=sum(1 + (last - first) // self.hour for first, last in episodes),
            quiet_rows=max(1, int(self.quiet.sum())),
            stray_rows=int(stray.sum()),
        )

    def _episodes(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        if not len(rows):
            return []
        cuts = np.flatnonzero(np.diff(rows) > self.hour)
        firsts = rows[np.concatenate([[0], cuts + 1])]
        lasts = rows[np.concatenate([cuts, [len(rows) - 1]])]
        return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

    def _hit(self, flags: Flags, stray: Flags, first: int, end: int) -> int | None:
        """Rows until the segment is seen, or None."""
        inside = np.flatnonzero(flags[first:end])
        if not len(inside):
            return None
        low = max(0, first - TOLERANCE_ROWS)
        if stray[max(0, low - self.hour) : low].any() and not self._begins(flags, low, end):
            return None
        return int(inside[0])

    def _begins(self, flags: Flags, low: int, end: int) -> bool:
        """Whether an alarm begins within [low, end): an anomalous row after an hour of silence."""
        return any(not flags[max(0, row - self.hour) : row].any() for row in low + np.flatnonzero(flags[low:end]))


def measured(flags: Flags, labels: Flags, step_s: int) -> Outcome:
    """The outcome at one threshold."""
    return Ruler(labels, step_s).outcome(flags)


def oracle_found(scores: Scores, labels: Flags, step_s: int) -> int:
    """Segments found at the best threshold of this case with one false alarm a week: nobody can use it.

    At least one false alarm is granted to a case shorter than a week. 400 thresholds are tried, dense at the top.
    """
    ruler = Ruler(labels, step_s)
    if not ruler.segments:
        return 0
    weeks = int(ruler.quiet.sum()) * step_s / WEEK_S
    known = np.nan_to_num(scores, nan=-np.inf)
    ranked = np.unique(known[np.isfinite(known)])[::-1]
    ranks = np.unique(np.geomspace(1, max(1, len(ranked)), _MOST_THRESHOLDS).astype(np.int64)) - 1
    best = 0
    for threshold in ranked[ranks]:
        outcome = ruler.outcome(known >= threshold)
        if outcome.false_alarms <= max(1.0, weeks):
            best = max(best, sum(outcome.found))
    return best


def average_precision(scores: Scores, labels: Flags) -> float:
    """Mean precision over the labelled rows, by falling score; ties share a rank. NaN scores come last."""
    known = np.nan_to_num(scores, nan=-np.inf)
    if not labels.any():
        return float("nan")
    order = np.argsort(-known, kind="stable")
    ranked = labels[order]
    last_of_tie = np.append(known[order][1:] != known[order][:-1], True)
    hits = np.cumsum(ranked)[last_of_tie]
    shown = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(np.concatenate([[0], hits])) * hits / shown) / labels.sum())
