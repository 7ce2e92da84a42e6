"""What is asked of Prometheus: queries on an aligned grid, cut to the server's limit. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

MAX_POINTS = 11_000
"""Prometheus refuses more points of one series in one answer: 400, "exceeded maximum resolution"."""


@dataclass(frozen=True, slots=True)
class InstantQuery:
    """One query evaluated at one instant, in UTC seconds."""

    query: str
    at_s: int

    def form(self, timeout_s: float) -> dict[str, str]:
        """The fields to POST to `/api/v1/query`; the server gives up after `timeout_s` as we do."""
        return {"query": self.query, "time": str(self.at_s), "timeout": _timeout(timeout_s)}


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """One query evaluated at `start_s`, `start_s + step_s`, … `end_s`, both ends included, in UTC seconds.

    `limit` is how many series the server may return at most, and 0 is no limit; it warns where there are more.
    """

    query: str
    start_s: int
    end_s: int
    step_s: int
    limit: int = 0

    def __post_init__(self) -> None:
        if self.step_s < 1 or self.end_s < self.start_s or (self.end_s - self.start_s) % self.step_s:
            raise ValueError(f"{self.start_s} to {self.end_s} is no whole number of steps of {self.step_s} s")

    @classmethod
    def aligned(cls, query: str, from_s: float, to_s: float, step_s: int) -> RangeQuery:
        """The multiples of `step_s` that lie in `[from_s, to_s]`: whoever asks gets the same rows.

        Raises:
            ValueError: there is no such instant.
        """
        return cls(query, int(-(-from_s // step_s)) * step_s, int(to_s // step_s) * step_s, step_s)

    @property
    def n_times(self) -> int:
        return (self.end_s - self.start_s) // self.step_s + 1

    def form(self, timeout_s: float) -> dict[str, str]:
        """The fields to POST to `/api/v1/query_range`; the server gives up after `timeout_s` as we do."""
        return {
            "query": self.query,
            "start": str(self.start_s),
            "end": str(self.end_s),
            "step": str(self.step_s),
            "timeout": _timeout(timeout_s),
            **({"limit": str(self.limit)} if self.limit else {}),
        }


def now_form(timeout_s: float) -> dict[str, str]:
    """The fields to POST to `/api/v1/query` for the server's own time."""
    return {"query": "time()", "timeout": _timeout(timeout_s)}


def split(query: RangeQuery, max_points: int = MAX_POINTS) -> tuple[RangeQuery, ...]:
    """Pieces of at most `max_points` instants each which together ask for exactly the instants of `query`."""
    return tuple(_pieces(query, max_points))


def _pieces(query: RangeQuery, max_points: int) -> Iterator[RangeQuery]:
    length_s = max_points * query.step_s
    for start_s in range(query.start_s, query.end_s + 1, length_s):
        yield replace(query, start_s=start_s, end_s=min(start_s + length_s - query.step_s, query.end_s))


def _timeout(timeout_s: float) -> str:
    return f"{max(1, int(timeout_s * 1000))}ms"
