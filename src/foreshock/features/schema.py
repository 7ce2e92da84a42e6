"""The names, order and meaning of the numbers that describe one metric over one window, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

RAW = (  # in the metric's own unit; `rate_of_change` per second, `data_availability` from 0 to 1
    "mean",
    "median",
    "standard_deviation",
    "rate_of_change",
    "inter_quartile_range",
    "minimum",
    "maximum",
    "data_availability",
)
DEVIATION = (  # of the residual: value less expected value, in units of its usual scale at this phase of the season
    "deviation_mean",
    "deviation_median",
    "deviation_standard_deviation",
    "deviation_rate_of_change",
    "deviation_inter_quartile_range",
    "deviation_minimum",
    "deviation_maximum",
    "deviation_last",
    "deviation_recent",
    "deviation_long",
    "deviation_change",  # of the last sample against the one `CHANGE_S`, or one step at least, before it
    "deviation_before",  # of the sample that the last minutes began after
)
RELATION = (  # what the other metrics do not explain of the residual, lightly smoothed
    "relation_recent",
    "relation_mean",
    "relation_standard_deviation",
)
CONTEXT = (  # in the metric's own unit: what was expected, by how much the metric missed it, and what it did
    "expected_mean",
    "expected_recent",
    "gap_recent",
    "gap_mean",
    "gap_long",
    "gap_root_mean_square",
    "usual_distance",
    "sample_change",  # of the last sample against the same one as `deviation_change`
)
STATISTICS = RAW + DEVIATION + RELATION + CONTEXT
INDEX = {name: position for position, name in enumerate(STATISTICS)}

VERSION = 5  # of what the statistics mean; models of another version are trained again
CHANGE_S = 300  # minutes: shorter, and noise hides a change; longer, and a slow one passes for sudden
GAP_STEPS = 5  # longer gaps stay missing (design.md section 4)
HALF = 0.5  # of a window that must be measured to judge it
FEW_METRICS = 5  # up to here the metrics one by one say more than all together do (decision 0009)
LONG_WINDOWS = 6  # the slow scale is this many detection windows: a drift of hours stands out of it


@dataclass(frozen=True, slots=True)
class Schema:
    """What a vector was computed from; two schemas with one fingerprint give comparable vectors."""

    metrics: tuple[str, ...]
    step_s: int
    window_s: int

    @property
    def window_steps(self) -> int:
        return self.window_s // self.step_s

    @property
    def recent_steps(self) -> int:
        """Five minutes, but never fewer than three steps: a lone sample is noise."""
        return max(3, min(300 // self.step_s, self.window_steps))

    @property
    def long_steps(self) -> int:
        return LONG_WINDOWS * self.window_steps

    @property
    def context_steps(self) -> int:
        """How many rows one vector needs: the slow scale, and what smooths and fills its oldest row."""
        return self.long_steps + self.recent_steps + GAP_STEPS + 1

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the names, the order and the times; a model refuses vectors of another fingerprint."""
        parts = [VERSION, list(STATISTICS), list(self.metrics), self.step_s, self.window_s, GAP_STEPS, LONG_WINDOWS]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
