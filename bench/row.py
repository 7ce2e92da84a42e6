"""One line of the table of `bench.main`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: `ratio` says how many times `ratio_to` (a peer) takes of what we take."""

    name: str
    value: float
    unit: str
    ratio_to: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
