"""Where an instant lies in the civil day and week of a time zone, daylight saving included."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400
WEEK_S = 604_800
_MONDAY_S = 3 * DAY_S  # the epoch was a Thursday
_QUARTER_S = 900  # every offset in use is a multiple of it, and so is every switch


def civil_seconds(times_s: NDArray[np.int64], time_zone: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count seconds since local midnight and since local Monday 00:00, each (n_times,).

    In the doubled hour of autumn the same phase comes twice, in the missing hour of spring it does not come at all.
    """
    local = times_s + _offsets_s(times_s, time_zone)
    return local % DAY_S, (local + _MONDAY_S) % WEEK_S


def civil_days(times_s: NDArray[np.int64], time_zone: str) -> NDArray[np.int64]:
    """Number the local days since the epoch; day 0 was a Thursday."""
    return (times_s + _offsets_s(times_s, time_zone)) // DAY_S


def _offsets_s(times_s: NDArray[np.int64], time_zone: str) -> NDArray[np.int64]:
    if time_zone == "UTC" or not len(times_s):
        return np.zeros(len(times_s), dtype=np.int64)
    zone = ZoneInfo(time_zone)
    quarters, which = np.unique(times_s // _QUARTER_S, return_inverse=True)
    offsets = np.array([_offset_s(int(quarter) * _QUARTER_S, zone) for quarter in quarters], dtype=np.int64)
    return offsets[which]


def _offset_s(instant_s: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(instant_s, UTC).astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0
