"""When each detector is due: its query decides the phase, so that all who share one are due at once. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


def phase_s(datasource: str, templates: Sequence[str], interval_s: int, step_s: int) -> int:
    """Where in its interval a query is evaluated: spread by hash, on the step, so that fleets do not stampede.

    >>> phase_s("default", ("sum(rate(x[5m]))",), 60, 60)
    0
    """
    key = "\0".join((datasource, *sorted(templates), str(interval_s)))
    offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % interval_s
    return offset // step_s * step_s if step_s <= interval_s else 0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """One grid of instants, `phase_s + k * interval_s`; `offset_s` is how much later their data is there."""

    interval_s: int
    phase_s: int
    offset_s: int

    def latest_s(self, now_s: float) -> int:
        """The newest instant of the grid whose data is there at `now_s`."""
        return int((now_s - self.offset_s - self.phase_s) // self.interval_s) * self.interval_s + self.phase_s

    def next_due_s(self, judged_at_s: int) -> int:
        """When the instant after `judged_at_s` can be judged."""
        return judged_at_s + self.interval_s + self.offset_s

    def index(self, at_s: int) -> int:
        """The number of an instant on the grid: the same in every process."""
        return (at_s - self.phase_s) // self.interval_s

    def missed(self, judged_at_s: int, at_s: int) -> int:
        """How many instants lie between two judged ones and were not judged."""
        return max(0, (at_s - judged_at_s) // self.interval_s - 1)
