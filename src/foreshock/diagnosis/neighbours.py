"""Who else is anomalous at the same time: in which order, in which group, and where it began most likely. Pure.

Two incidents of a namespace are neighbours if their first anomalous windows ended within `reach_s` of each other. A
group gets its identity from the incident that fired first and keeps it; what joins later, or turns out to have begun
earlier, changes the order and never the identity.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from foreshock.core.verdicts import Contribution, Subject
from foreshock.diagnosis.quantities import duration

SHORTEST_S, LONGEST_S = 600, 3_600
MOST_SENTENCES = 10
MOST_CONSIDERED = 50  # of a storm: the earliest ones, one of which is its origin
_SAME_TIME_S = 30
_WORTH_NAMING = 0.2  # share of the second metric


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """One incident that is not over: since when, how bad, and of which group it is once it fired."""

    subject: Subject
    incident_id: str
    onset_s: int  # end of the first anomalous window
    peak_score: float
    contributions: tuple[Contribution, ...] = ()
    fired_at_s: int | None = None  # None while `pending_for` runs
    group_id: str = ""  # empty while it is pending
    group_since_s: int = 0  # onset of the incident that began the group


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """All open incidents, those that may know of each other in the order of their onsets."""

    by_place: dict[str, list[OpenIncident]] = field(default_factory=dict)
    is_whole_cluster: bool = False

    @staticmethod
    def of(incidents: Iterable[OpenIncident], *, is_whole_cluster: bool = False) -> Neighbourhood:
        """Sort what is open; across namespaces only where `is_whole_cluster`."""
        found = Neighbourhood({}, is_whole_cluster)
        for each in incidents:
            found.by_place.setdefault(found._place(each.subject), []).append(each)
        for place in found.by_place.values():
            place.sort(key=lambda each: (each.onset_s, each.subject.detector, each.subject.group))
        return found

    def _place(self, subject: Subject) -> str:
        return "" if self.is_whole_cluster else subject.namespace

    def near(self, mine: OpenIncident, reach_s: int) -> tuple[tuple[OpenIncident, ...], int]:
        """The incidents near to one, in the order of their onsets, and how many more there are."""
        place = self.by_place.get(self._place(mine.subject), [])
        start = bisect_left(place, mine.onset_s - reach_s, key=lambda each: each.onset_s)
        end = bisect_right(place, mine.onset_s + reach_s, key=lambda each: each.onset_s)
        found = [each for each in place[start : min(end, start + MOST_CONSIDERED)] if each.subject != mine.subject]
        more = max(0, end - start - MOST_CONSIDERED)
        return tuple(found), more

    def regroup(self, now: OpenIncident) -> None:
        """Note that an incident fired and belongs to a group."""
        place = self.by_place.get(self._place(now.subject), [])
        for index, each in enumerate(place):
            if each.subject == now.subject:
                place[index] = now
                return


def reach_s(window_s: int) -> int:
    """How far apart two onsets may be: twice the window that must fill with the fault, from ten minutes to an hour.

    >>> reach_s(300), reach_s(900), reach_s(3600)
    (600, 1800, 3600)
    """
    return min(LONGEST_S, max(SHORTEST_S, 2 * window_s))


def group_of(mine: OpenIncident, near: Sequence[OpenIncident], reach_s: int) -> tuple[str, int]:
    """The identity of the group that an incident joins as it fires, and since when that group is; else its own.

    Measured from the onset that began the group, so that no chain of incidents grows for ever.
    """
    groups = sorted(
        (each.group_since_s, each.group_id)
        for each in near
        if each.group_id and abs(each.group_since_s - mine.onset_s) <= reach_s
    )
    return (groups[0][1], groups[0][0]) if groups else (mine.incident_id, mine.onset_s)


def origin_of(incidents: Sequence[OpenIncident], tie_s: int) -> OpenIncident:
    """Where it began most likely: what came first; of those within `tie_s` of the first, what is worst.

    Each is judged once in an interval, so that a difference below that says nothing.
    """
    first_s = min(each.onset_s for each in incidents)
    tied = [each for each in incidents if each.onset_s - first_s <= tie_s]
    return max(tied, key=lambda each: (each.peak_score, -each.onset_s, str(each.subject)))


def sentences(
    mine: OpenIncident, near: Sequence[OpenIncident], origin: OpenIncident, *, more: int = 0
) -> tuple[str, ...]:
    """One sentence a neighbour, the likely origin first, then in the order of their onsets; bounded."""
    ordered = sorted(near, key=lambda each: (each.subject != origin.subject, each.onset_s, str(each.subject)))
    said = [_sentence(each, mine, is_origin=each.subject == origin.subject) for each in ordered[:MOST_SENTENCES]]
    left = len(ordered) - len(said) + more
    return (*said, f"and {left} more") if left else tuple(said)


def _sentence(each: OpenIncident, mine: OpenIncident, *, is_origin: bool) -> str:
    has_waited = each.fired_at_s is not None and each.fired_at_s > each.onset_s
    verb = "is pending, from" if each.fired_at_s is None else "began" if has_waited else "fired"
    apart_s = each.onset_s - mine.onset_s
    if abs(apart_s) < _SAME_TIME_S:
        when = "the same time" if each.fired_at_s is None else "at the same time"
    else:
        when = f"{duration(abs(apart_s))} {'earlier' if apart_s < 0 else 'later'}"
    named = [one for place, one in enumerate(each.contributions[:2]) if place == 0 or one.share >= _WORTH_NAMING]
    metrics = ", ".join(f"{one.metric} ({one.share:.0%})".replace("%", " %") for one in named)
    words = f"{each.subject} {verb} {when}"
    return f"{'likely origin: ' if is_origin else ''}{words}{f': {metrics}' if metrics else ''}"
