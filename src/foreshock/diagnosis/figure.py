"""The geometry of a chart: instants and values become percentages of a plot, and arrays become SVG paths.

A plot is stretched to the width of the page, so that coordinates are relative and every text is HTML beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array

WIDTH, HEIGHT = 1000.0, 100.0  # the view box of every plot
LINE_BUCKETS = 700  # two points each: less than 1,500 in a line
BAND_BUCKETS = 350

_NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIME_STEPS_S = (60, 300, 600, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800, 2_419_200)


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at `percent` of the axis, from the left or from the top."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time within the plot, in percent of its width."""

    left: float
    width: float


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Maps UTC seconds between `from_s` and `to_s` to the width of a plot."""

    from_s: float
    to_s: float

    def percent(self, instant_s: float) -> float:
        """The place of an instant, 0 to 100; what lies outside is put on the edge."""
        share = (instant_s - self.from_s) / max(self.to_s - self.from_s, 1.0)
        return round(100 * min(1.0, max(0.0, share)), 3)

    def span(self, start_s: float, end_s: float) -> Span:
        """The part of a stretch that is visible."""
        left = self.percent(start_s)
        return Span(left, round(self.percent(end_s) - left, 3))

    def ticks(self, most: int = 8) -> list[Tick]:
        """Labels at round UTC times, at most `most` of them; dates where a day begins."""
        length_s = max(self.to_s - self.from_s, 1.0)
        step_s = next((step for step in _TIME_STEPS_S if length_s / step <= most), math.ceil(length_s / most))
        first = math.ceil(self.from_s / step_s)
        instants = [float(index * step_s) for index in range(first, math.floor(self.to_s / step_s) + 1)]
        return [Tick(self.percent(instant), _tick_text(instant)) for instant in instants]


def _tick_text(instant_s: float) -> str:
    moment = datetime.fromtimestamp(instant_s, UTC)
    return f"{moment.day} {moment:%b}" if instant_s % 86_400 == 0 else f"{moment:%H:%M}"


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """Maps values between `low` and `high` to the height of a plot; `logarithmic` is log(1 + value), for scores."""

    low: float
    high: float
    logarithmic: bool = False

    def percent(self, value: float) -> float:
        """The place of a value, 0 at the top and 100 at the bottom; what lies outside is put on the edge."""
        return round(float(self.heights(np.array([value]))[0]) / HEIGHT * 100, 2)

    def heights(self, values: Array, height: float = HEIGHT) -> Array:
        """(n,) values to (n,) heights in a box of that height, NaN where there is no value."""
        scaled = np.clip(values, self.low, self.high)
        low, high = self.low, self.high
        if self.logarithmic:
            scaled, low, high = np.log1p(scaled), math.log1p(low), math.log1p(high)
        return height * (1.0 - (scaled - low) / (high - low))

    def ticks(self, most: int = 4) -> list[float]:
        """Round values within the axis, at most about `most`."""
        if self.logarithmic:
            decades = [float(f"{digit}e{power}") for power in range(16) for digit in (1, 3)]
            inside = [value for value in decades if value <= self.high]
            return [0.0, *inside[:: math.ceil(len(inside) / most)]]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(nice * power for nice in _NICE_STEPS if nice * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def axis_of_metric(values: Array, lower: Array, upper: Array) -> ValueAxis:
    """An axis that holds all values and what was expected of them; a band much wider than these only in part."""
    measured = values[np.isfinite(values)]
    middle = 0.5 * (lower + upper)
    limits = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    if measured.size == 0 and limits.size == 0:
        return ValueAxis(0.0, 1.0)
    # with the middle: else a metric that stayed while it was to go is drawn as if it had been expected to stay
    low, high = _extent(np.concatenate([measured, middle[np.isfinite(middle)]]) if measured.size else limits)
    room = 1.5 * max(high - low, 0.05 * max(abs(low), abs(high)))
    if limits.size:
        low, high = max(min(low, limits.min()), low - room), min(max(high, limits.max()), high + room)
    padding = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    nothing_below_zero = low >= 0 and (measured.size == 0 or measured.min() >= 0)
    return ValueAxis(max(0.0, low - padding) if nothing_below_zero else low - padding, high + padding)


def axis_of_scores(scores: Array) -> ValueAxis:
    """From 0 to the highest score, 1.3 at least; logarithmic above 4, so that the threshold stays visible."""
    highest = max(1.3, float(np.nanmax(scores, initial=0.0)) * 1.08)
    return ValueAxis(0.0, highest, logarithmic=highest > 4)


def _extent(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


Box = tuple[float, float]  # width and height of the plot's own coordinates


def line_path(
    times_s: Array, values: Array, time_axis: TimeAxis, value_axis: ValueAxis, box: Box = (WIDTH, HEIGHT)
) -> str:
    """The path of a line that is broken where nothing was measured; every extreme of the full series is on it."""
    times_s, values = thin(times_s, values, LINE_BUCKETS)
    points = [_points(*part, time_axis, value_axis, box) for part in _measured_parts(times_s, values)]
    # A lone point has no length; a tiny stroke with round caps makes it a dot.
    return " ".join(f"M{part[0]}h.01" if len(part) == 1 else f"M{'L'.join(part)}" for part in points)


def band_path(
    times_s: Array, lower: Array, upper: Array, time_axis: TimeAxis, value_axis: ValueAxis, box: Box = (WIDTH, HEIGHT)
) -> str:
    """The closed outline between two limits, in as many pieces as there are stretches with both."""
    times_s, lower, upper = _averaged(times_s, lower, upper)
    pieces = []
    for part_s, rows in _measured_parts(times_s, np.where(np.isfinite(lower + upper), np.arange(times_s.size), np.nan)):
        index = rows.astype(int)
        above = _points(part_s, upper[index], time_axis, value_axis, box)
        below = _points(part_s, lower[index], time_axis, value_axis, box)
        pieces.append(f"M{'L'.join([*above, *reversed(below)])}Z")
    return " ".join(pieces)


def thin(times_s: Array, values: Array, buckets: int) -> tuple[Array, Array]:
    """At most two points a bucket, its lowest and its highest in their order; a bucket without any keeps one NaN."""
    if values.size <= 2 * buckets:
        return times_s, values
    size = math.ceil(values.size / buckets)
    padded = np.pad(values, (0, -values.size % size), constant_values=np.nan).reshape(-1, size)
    empty = np.isnan(padded)
    lowest = np.where(empty, np.inf, padded).argmin(axis=1)
    highest = np.where(empty, -np.inf, padded).argmax(axis=1)
    starts = size * np.arange(padded.shape[0])
    chosen = np.unique(np.concatenate([starts + lowest, starts + highest]))
    return times_s[chosen], values[chosen]


def _averaged(times_s: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Bucket means of both limits: they are smooth, unlike what they enclose."""
    if times_s.size <= 2 * BAND_BUCKETS:
        return times_s, lower, upper
    size = math.ceil(times_s.size / BAND_BUCKETS)
    starts = np.arange(0, times_s.size, size)
    counts = np.diff([*starts, times_s.size])
    return (
        np.add.reduceat(times_s, starts) / counts,
        np.add.reduceat(lower, starts) / counts,
        np.add.reduceat(upper, starts) / counts,
    )


def _measured_parts(times_s: Array, values: Array) -> list[tuple[Array, Array]]:
    """The stretches without NaN, and without a jump in time that is longer than three usual steps."""
    measured = np.flatnonzero(np.isfinite(values))
    if measured.size == 0:
        return []
    usual_s = np.median(np.diff(times_s)) if times_s.size > 1 else 0.0
    jumps = (np.diff(measured) > 1) | (np.diff(times_s[measured]) > 3 * usual_s)
    parts = np.split(measured, np.flatnonzero(jumps) + 1)
    return [(times_s[part], values[part]) for part in parts]


def _points(times_s: Array, values: Array, time_axis: TimeAxis, value_axis: ValueAxis, box: Box) -> list[str]:
    length_s = max(time_axis.to_s - time_axis.from_s, 1.0)
    across = box[0] * np.clip((times_s - time_axis.from_s) / length_s, 0.0, 1.0)
    down = value_axis.heights(values, box[1])
    return [f"{x:.1f},{y:.1f}" for x, y in zip(across.tolist(), down.tolist(), strict=True)]


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The first and last row of every stretch in which the mask is true."""
    edges = np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
