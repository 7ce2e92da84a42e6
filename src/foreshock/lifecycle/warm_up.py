"""Whether a history is long enough to page by: its rows, the hours and weekdays that they cover, what there is. Pure.

A baseline of 7 days knows an hour of the day when it has seen it on several of them, and a weekday when it was there
for it. Rows alone would call a week of nights a week.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Frame
from foreshock.engine.groups import Group
from foreshock.features.calendar import DAY_S, civil_days, civil_seconds
from foreshock.lifecycle.train import HOUR_S, WARM
from foreshock.manifests.detector import DetectorSpec
from foreshock.store.records import ModelRecord

LEAST_S = DAY_S  # however little Prometheus holds: what has not seen one whole day pages nobody
_SHOWN_AFTER = 2  # warm-ups: what a history of that length never had is not missing, the service is not there then
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How far a detector is; it is over at a `share` of 1."""

    share: float
    measured_s: int
    needed_s: int  # training.warm_up, or what Prometheus holds where that is less
    left_s: float
    lacking: str = ""  # the hours or weekdays that the history does not cover, in words
    held_s: int | None = None  # what Prometheus holds, where that is known to be less than training.warm_up

    @property
    def is_over(self) -> bool:
        """Whether what was learnt may page."""
        return self.share >= 1.0


def warm_up_of(spec: DetectorSpec, frames: Mapping[Group, Frame], records: Sequence[ModelRecord]) -> WarmUp:
    """How far the group is that has most of it; `records` of the line, newest first, say what was held before."""
    first_s, last_s = min(frame.start_s for frame in frames.values()), max(frame.end_s for frame in frames.values())
    held_s = held_at_most_s(spec, records, first_s, last_s)
    if held_s is not None and held_s >= spec.training.warm_up:
        held_s = None
    needed_s = spec.training.warm_up if held_s is None else max(LEAST_S, held_s)
    furthest = max((_of(spec, frame, needed_s) for frame in frames.values()), key=lambda each: each.share)
    return replace(furthest, held_s=held_s)


def held_at_most_s(spec: DetectorSpec, records: Sequence[ModelRecord], first_s: int, last_s: int) -> int | None:
    """How much history Prometheus holds, where it was seen to let go of some; None where nothing says that.

    It has let go of what the last training saw and this one does not, although it asked for it. A history of which more
    than half is gone was lost and grows again: that is not all there will be.
    """
    before = records[0] if records else None
    if before is None:
        return None
    known = before.details.get("held_s")
    asked_from_s = last_s - spec.training.window
    length_s, was_s = last_s - first_s, before.trained_to_s - before.trained_from_s
    if first_s > max(before.trained_from_s, asked_from_s) + spec.step and 2 * length_s >= was_s:
        return length_s
    return None if known is None else int(known)


def _of(spec: DetectorSpec, frame: Frame, needed_s: int) -> WarmUp:
    seen = np.asarray(np.isfinite(frame.values).any(axis=1))
    measured_s = int(seen.sum()) * frame.step_s
    share, left_s = measured_s / (WARM * needed_s), max(0.0, WARM * needed_s - measured_s)
    lacking, covered, wait_s = "", 1.0, 0.0
    span_s = frame.n_times * frame.step_s
    n_days = int(WARM * needed_s / DAY_S)  # on which a history of that length has seen every hour
    if n_days and 2 * frame.step_s <= HOUR_S:
        day_s, week_s = civil_seconds(frame.times_s, spec.time_zone)
        days = civil_days(frame.times_s, spec.time_zone)
        is_young = span_s < _SHOWN_AFTER * needed_s
        on_days = _days_of_hours(seen, days - days[0], day_s // HOUR_S, HOUR_S // (2 * frame.step_s))
        wanted = is_young | (on_days > 0)
        covered = float(np.minimum(1.0, on_days[wanted] / n_days).mean())
        few = wanted & (on_days < n_days)
        if few.any():
            lacking, wait_s = _hours(few), float(n_days - on_days[few].min()) * DAY_S
        if needed_s >= 7 * DAY_S:
            per_day_s = np.bincount(week_s[seen] // DAY_S, minlength=7) * frame.step_s
            least_s = min(DAY_S, 2 * float(np.median(per_day_s[per_day_s > 0]))) / 2 if per_day_s.any() else 1.0
            absent = (per_day_s < least_s) & (is_young | (per_day_s > 0))
            covered = min(covered, 1.0 - float(absent.sum()) / 7)
            if absent.any():
                today = int(week_s[-1]) // DAY_S
                ahead = max((int(day) - today) % 7 or 7 for day in np.flatnonzero(absent))
                wait_s = max(wait_s, ahead * DAY_S + DAY_S / 2 - float(day_s[-1]))
                names = [_WEEKDAYS[day] for day in np.flatnonzero(absent)]
                lacking = _listed(names)
    if share < 1.0:  # what is not covered yet is still to come
        lacking = ""
    return WarmUp(min(share, covered) if share >= 1.0 else share, measured_s, needed_s, max(left_s, wait_s), lacking)


def _days_of_hours(
    seen: NDArray[np.bool_], days: NDArray[np.int64], hours: NDArray[np.int64], least_rows: int
) -> NDArray[np.int64]:
    """On how many days each hour of the day was measured for at least half, (24,)."""
    rows = np.bincount((days * 24 + hours)[seen], minlength=24 * (int(days[-1]) + 1))
    return np.asarray((rows.reshape(-1, 24) >= max(1, least_rows)).sum(axis=0))


def _hours(few: NDArray[np.bool_]) -> str:
    """The hours as spans, such as 22:00 to 03:00."""
    if few.all():
        return "most hours of the day"
    begins = [int(hour) for hour in np.flatnonzero(few & ~np.roll(few, 1))]
    spans = []
    for begin in begins:
        length = next(k for k in range(1, 25) if not few[(begin + k) % 24])
        spans.append(f"{begin:02d}:00 to {(begin + length) % 24:02d}:00")
    return _listed(spans)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
