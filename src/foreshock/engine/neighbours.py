"""The alerts of one cycle beside those that were open: who joins which group, and what is said of the others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from foreshock.alerting.state import AlertState, Kind, Transition, grouped
from foreshock.core.verdicts import Subject
from foreshock.diagnosis.neighbours import Neighbourhood, OpenIncident, group_of, origin_of, reach_s, sentences


class Met(NamedTuple):
    """A transition with its group, and what is said of its neighbours."""

    transition: Transition
    sentences: tuple[str, ...]
    origin: str  # namespace/name of the detector where it began most likely; empty where nobody else is anomalous


class Neighbours:
    """Transitions of a cycle meet in the order of their onsets: the first to fire gives the group its identity."""

    def __init__(
        self,
        before: Mapping[Subject, AlertState],
        states: MutableMapping[Subject, AlertState],
        *,
        is_whole_cluster: bool,
    ) -> None:
        """`states` are those that this cycle moved; the groups are written into them."""
        self._states = states
        now = (states.get(subject, state) for subject, state in before.items())
        new = (state for subject, state in states.items() if subject not in before)
        opened = (each for state in (*now, *new) if (each := _open(state)) is not None)
        self._all = Neighbourhood.of(opened, is_whole_cluster=is_whole_cluster)

    def meet(self, transition: Transition, window_s: int, interval_s: int) -> Met:
        """Give a firing incident its group, and say who is near to the one that fires or ends."""
        mine, reach = _of(transition), reach_s(window_s)
        near, more = self._all.near(mine, reach)
        if transition.kind is Kind.FIRING and not transition.group_id:  # it keeps the one that it has
            group_id, since_s = group_of(mine, near, reach)
            state, transition = grouped(self._states[mine.subject], transition, group_id, since_s)
            self._states[mine.subject] = state
            if (now := _open(state)) is not None:
                self._all.regroup(now)
        if not near:
            return Met(transition, (), "")
        origin = origin_of((mine, *near), 2 * interval_s)
        return Met(transition, sentences(mine, near, origin, more=more), origin.subject.detector)


def _open(state: AlertState) -> OpenIncident | None:
    incident = state.incident
    if incident is None:
        return None
    return OpenIncident(
        state.subject, incident.incident_id, incident.started_at_s, incident.peak.score, incident.peak.contributions,
        incident.fired_at_s, incident.group_id, incident.group_since_s,
    )  # fmt: skip


def _of(transition: Transition) -> OpenIncident:
    peak = transition.peak
    return OpenIncident(
        transition.subject, transition.incident_id, transition.started_at_s, peak.score, peak.contributions
    )
