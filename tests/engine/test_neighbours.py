"""Groups live in the alerts' states: given as an incident fires, kept through restarts and to the end."""

from __future__ import annotations

from foreshock.alerting.state import AlertPolicy, AlertState, Transition, advance
from foreshock.core.verdicts import Anomalous, Contribution, Judgement, Normal, Subject
from foreshock.engine.neighbours import Neighbours

T, POLICY = 1_700_000_040, AlertPolicy("critical", keep_firing_for_s=0)
WHY = (Contribution("wait", 1.0),)


def _judge(states: dict[Subject, AlertState], at_s: int, **scores: float) -> dict[str, Transition]:
    """One cycle as the engine runs it: all states move, then the transitions meet."""
    moved, now = [], {}
    for name, score in scores.items():
        subject = Subject("shop", name)
        verdict = Anomalous(score) if score >= 1 else Normal(score)
        now[subject], found = advance(
            states.get(subject), Judgement(subject, at_s, verdict, WHY), POLICY, cluster="default"
        )
        moved += found
    neighbours = Neighbours(states, now, is_whole_cluster=False)
    told = {each.subject.name: neighbours.meet(each, 3600, 60).transition for each in moved}
    states |= {subject: AlertState.from_dict(state.to_dict()) for subject, state in now.items()}
    return told


def test_three_services_are_one_group_from_the_first_to_the_last_event() -> None:
    """The store fires, then two at once; each end carries the group that its beginning had, also after a restart."""
    states: dict[Subject, AlertState] = {}
    first = _judge(states, T, store=3.0, orders=0.1, front=0.1)
    then = _judge(states, T + 180, store=3.0, orders=9.0, front=2.0)
    group = first["store"].incident_id
    assert {first["store"].group_id, then["orders"].group_id, then["front"].group_id} == {group}
    ends = _judge(states, T + 240, store=0.1, orders=0.1, front=0.1)
    assert {each.group_id for each in ends.values()} == {group}
    assert {each.kind for each in ends.values()} == {"resolved"}
    again = _judge(states, T + 600, front=3.0)
    assert again["front"].group_id == again["front"].incident_id  # nobody of the old group is open


def test_two_that_fire_in_one_cycle_are_one_group() -> None:
    """The first by name gives it its identity, since their onsets are equal."""
    told = _judge({}, T, orders=2.0, store=5.0)
    assert {each.group_id for each in told.values()} == {told["orders"].incident_id}
