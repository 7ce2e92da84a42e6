"""Turns the `load` of a scenario into a `Frame`: pure, and equal for equal text."""

from __future__ import annotations

import zlib

import numpy as np
from tests.scenarios.language import Scenario, Segment, SeriesText

from foreshock.core.frame import Array, Frame, as_samples

START_S = 1_756_684_800  # 2025-09-01T00:00:00Z, a Monday in the past: a backfilled Prometheus takes no future
_WANDER_MEMORY_S = 6 * 3600
_DAY_S = 86_400
_PEAK_S = 14 * 3600


def frame_of(scenario: Scenario) -> Frame:
    """All series of the scenario, as they would be read from a datasource."""
    truths: dict[str, Array] = {}
    columns = []
    for series in scenario.series:
        truth, missing = _Generator(series, scenario, truths).run()
        truths[series.name] = truth  # whoever follows a series follows what happened, not what was measured
        columns.append(np.where(missing, np.nan, truth))
    return Frame(START_S, scenario.step_s, scenario.metrics, as_samples(np.stack(columns, axis=1)))


class _Generator:
    """One series; its noise depends on the seed and its name alone, so a new neighbour changes nothing."""

    def __init__(self, series: SeriesText, scenario: Scenario, truths: dict[str, Array]) -> None:
        self.series, self.step_s, self.truths = series, scenario.step_s, truths
        self.times_s = np.arange(series.duration_s // self.step_s) * float(self.step_s)
        seeds = [scenario.seed, zlib.crc32(series.name.encode())]
        self.shocks, self.slow_shocks = np.random.default_rng(seeds).standard_normal((2, self.times_s.size))
        self.base = series.segments[0]
        self.offset = 0.0
        self.last_value = 0.0
        self.settings = {"noise": 0.0, "ar": 0.0, "wander": 0.0, "nightly": 0.0}
        self.noise_factor = 1.0

    def run(self) -> tuple[Array, np.ndarray]:
        truth = np.empty(self.times_s.size)
        spread = np.empty(self.times_s.size)
        wander = np.empty(self.times_s.size)
        memory = np.empty(self.times_s.size)
        missing = np.zeros(self.times_s.size, dtype=bool)
        first = 0
        for segment in self.series.segments:
            rows = slice(first, first + segment.duration_s // self.step_s)
            self.settings.update({key: value for key, value in segment.numbers.items() if key in _MODIFIERS})
            truth[rows] = self._truth(segment, rows)
            spread[rows] = self.settings["noise"] * self._noise_factor(segment, rows)
            wander[rows], memory[rows] = self.settings["wander"], self.settings["ar"]
            missing[rows] = self._missing(segment, rows)
            first = rows.stop
        slow = np.full(self.times_s.size, np.exp(-self.step_s / _WANDER_MEMORY_S))
        noise = spread * _autoregressive(self.shocks, memory) + wander * _autoregressive(self.slow_shocks, slow)
        return truth + noise, missing

    def _truth(self, segment: Segment, rows: slice) -> Array:
        """The segment without noise; what stays of it is kept for the next one."""
        times_s, numbers = self.times_s[rows], segment.numbers
        progress = np.arange(1, times_s.size + 1) / times_s.size
        if segment.shape in {"flat", "daily", "follows"}:
            self.base, self.offset = segment, 0.0
        elif segment.shape in {"hold", "ramp to"}:
            begin, end = self.last_value, numbers.get("value", self.last_value)
            self.base, self.offset = Segment("flat", segment.duration_s, {"level": end}), 0.0
            self.last_value = end
            return begin + (end - begin) * progress + self._nightly(times_s)
        added: Array | float = self.offset
        if segment.shape in {"step", "ramp by"}:
            added = self.offset + numbers["value"] * (progress if segment.shape == "ramp by" else 1.0)
            self.offset += numbers["value"]
        elif segment.shape == "spike":
            added = self.offset + numbers["value"]
        plain = self._base(rows) + added
        self.last_value = float(plain[-1])
        if segment.shape == "times":
            plain = plain * numbers["value"]
        elif segment.shape == "burst":
            edge = np.minimum(1.0, np.minimum(progress, 1.0 - progress) / 0.1)
            plain = plain * (1.0 + (numbers["value"] - 1.0) * edge)
        return plain + self._nightly(times_s)

    def _base(self, rows: slice) -> Array:
        numbers, times_s = self.base.numbers, self.times_s[rows]
        if self.base.shape == "follows":
            return numbers["times"] * self.truths[self.base.other][rows] + numbers["plus"]
        if self.base.shape == "flat":
            return np.full(times_s.size, numbers["level"])
        daily = numbers["amplitude"] * np.cos(2 * np.pi * (times_s - numbers.get("peak_s", _PEAK_S)) / _DAY_S)
        return numbers["level"] + daily + numbers.get("weekly", 0.0) * np.cos(2 * np.pi * times_s / (7 * _DAY_S))

    def _nightly(self, times_s: Array) -> Array:
        if not self.settings["nightly"]:
            return np.zeros(times_s.size)
        since_s = (times_s - self.settings["nightly_at_s"]) % _DAY_S
        return np.where(since_s < self.settings["nightly_lasting_s"], self.settings["nightly"], 0.0)

    def _noise_factor(self, segment: Segment, rows: slice) -> Array | float:
        if "noise" in segment.numbers:
            self.noise_factor = 1.0
        if segment.shape != "spread":
            return self.noise_factor
        begin, self.noise_factor = self.noise_factor, segment.numbers["value"]
        return np.linspace(begin, self.noise_factor, rows.stop - rows.start)

    def _missing(self, segment: Segment, rows: slice) -> np.ndarray | bool:
        if segment.shape != "gaps":
            return segment.shape == "missing"
        since_s = (self.times_s[rows] - self.times_s[rows.start]) % segment.numbers["every_s"]
        return since_s >= segment.numbers["every_s"] - segment.numbers["gap_s"]


_MODIFIERS = {"noise", "ar", "wander", "nightly", "nightly_at_s", "nightly_lasting_s"}


def _autoregressive(shocks: Array, memory: Array) -> Array:
    """Unit noise that keeps the share `memory` of its last value; plain where that is zero."""
    if not memory.any():
        return shocks
    values = shocks.copy()
    fresh = np.sqrt(1.0 - memory**2)
    for row in range(1, values.size):
        values[row] = memory[row] * values[row - 1] + fresh[row] * shocks[row]
    return values
