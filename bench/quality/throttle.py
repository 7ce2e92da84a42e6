"""The throttle on against off, on the same models: what it costs in segments, and what share of windows it lets by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from bench.quality.summary import Row


@dataclass(frozen=True, slots=True)
class Effect:
    """One detector on one dataset: `off` judges every window in full, `on` is what production does."""

    dataset: str
    detector: str
    mode: str
    budget: str
    cases: int
    segments: int
    found_off: int
    found_on: int
    lost: int  # segments that only `off` finds
    per_week_off: float
    per_week_on: float
    delay_off_s: float  # median
    delay_on_s: float
    asked: int
    let_through: int

    @property
    def pass_ratio(self) -> float:
        return self.let_through / self.asked if self.asked else float("nan")


def effects(rows: Iterable[Row]) -> list[Effect]:
    """A line a dataset, detector, mode and budget whose runs have a throttle to compare with."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row.get("asked") is not None:
            groups.setdefault((row["dataset"], row["detector"], row["mode"], row["budget"]), []).append(row)
    return [_effect(key, group) for key, group in groups.items()]


def _effect(key: tuple[str, str, str, str], rows: list[Row]) -> Effect:
    off = np.array([each for row in rows for each in row["found_each"]], np.bool_)
    on = np.array([each for row in rows for each in row["throttled_found_each"]], np.bool_)
    weeks = sum(row["weeks"] for row in rows)
    return Effect(
        *key,
        cases=len(rows),
        segments=len(off),
        found_off=int(off.sum()),
        found_on=int(on.sum()),
        lost=int((off & ~on).sum()),
        per_week_off=sum(row["false_alarms"] for row in rows) / weeks,
        per_week_on=sum(row["throttled_false_alarms"] for row in rows) / weeks,
        delay_off_s=_median([delay for row in rows for delay in row["delays_s"]]),
        delay_on_s=_median([delay for row in rows for delay in row["throttled_delays_s"]]),
        asked=sum(row["asked"] for row in rows),
        let_through=sum(row["let_through"] for row in rows),
    )


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")
