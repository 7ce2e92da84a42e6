"""Which sinks are told of an alert now: maintenance, and how many of a fleet's alerts are likely to be false. Pure.

A verdict is a detector's own affair and keeps its budget. A thousand detectors with a budget of one false incident a
week each raise 143 a day: whether one of theirs is worth a page is a question about all of them, and no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from foreshock.alerting.state import Hold

TAIL: Final = 5.0
"""How fast false incidents get rarer with their score: as score ** -5. Scores are calibrated on a tail that falls at
least twice as fast (`detectors.calibrate`), and one that is measured wrongly shall not page."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What the administrator said of the sinks; without an entry a sink hears of everything."""

    told_in_maintenance: frozenset[str] = frozenset()
    max_false_share: Mapping[str, float] = field(default_factory=dict)

    def hold(self, sinks: Collection[str], *, maintenance: str | None, false_share: float) -> Hold | None:
        """Which of a detector's sinks are told at once, or None for all of them."""
        told = tuple(
            sink
            for sink in sinks
            if (maintenance is None or sink in self.told_in_maintenance)
            and false_share <= self.max_false_share.get(sink, 1.0)
        )
        return None if maintenance is None and len(told) == len(sinks) else Hold(maintenance, told)


EVERYTHING: Final = Routing()


def expected_false_share(score: float, others: Iterable[float], false_per_day: float) -> float:
    """The share that is expected to be false among this alert and all that are at least as strong (0 to 1).

    The q-value of Benjamini and Hochberg (1995): `false_per_day` is what the budgets of the fleet allow in a day,
    `others` are the peaks of what fires beside it. Few alerts of a large fleet are likely false, many at once are not,
    and a strong one is believed sooner than a weak one.

    >>> expected_false_share(1.0, (), 1 / 7), expected_false_share(1.0, (), 143.0)
    (0.14285714285714285, 1.0)
    >>> round(expected_false_share(4.0, (), 143.0), 3), round(expected_false_share(2.0, [2.0] * 49, 143.0), 3)
    (0.14, 0.089)
    """
    peaks = sorted((score, *others), reverse=True)
    shares = [false_per_day / (float(max(1.0, peak) ** TAIL) * rank) for rank, peak in enumerate(peaks, 1)]
    return min(1.0, *shares[peaks.index(score) :])
