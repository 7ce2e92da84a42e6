"""Who else is anomalous: near in time and place, in order, in a group of one identity, the likely origin first."""

from __future__ import annotations

from dataclasses import replace

from foreshock.core.verdicts import Contribution, Subject
from foreshock.diagnosis.neighbours import Neighbourhood, OpenIncident, group_of, origin_of, sentences

T = 1_700_000_040


def incident(name: str, onset_s: int, *, namespace: str = "shop", fires: bool = True) -> OpenIncident:
    """One that fired at its onset and began a group of its own."""
    contributions = (Contribution(f"{name}_wait", 0.62), Contribution("errors", 0.1))
    identity = f"{name:0>32}"
    grouped = (onset_s, identity, onset_s) if fires else (None, "", 0)
    return OpenIncident(Subject(namespace, name), identity, onset_s, 2.0, contributions, *grouped)


STORE, ORDERS, FRONT = incident("store", T), incident("orders", T + 180), incident("front", T + 420)


def test_neighbours_are_near_in_time_and_in_the_same_namespace() -> None:
    """What began hours ago, or elsewhere, is another story; elsewhere counts where the administrator says so."""
    late, elsewhere = incident("late", T + 7200), incident("other", T, namespace="bank")
    every = (FRONT, STORE, late, elsewhere, ORDERS)
    assert Neighbourhood.of(every).near(ORDERS, 3600) == ((STORE, FRONT), 0)
    assert Neighbourhood.of(every, is_whole_cluster=True).near(ORDERS, 3600)[0] == (elsewhere, STORE, FRONT)


def test_the_sentences_begin_with_the_likely_origin() -> None:
    """Who fired how much earlier or later, with the metric that moved."""
    pending = incident("slow", T + 120, fires=False)
    waited = replace(incident("patient", T + 180), fired_at_s=T + 400)
    near = (STORE, pending, waited, FRONT)
    assert sentences(ORDERS, near, STORE) == (
        "likely origin: shop/store fired 3 minutes earlier: store_wait (62 %)",
        "shop/slow is pending, from 60 seconds earlier: slow_wait (62 %)",
        "shop/patient began at the same time: patient_wait (62 %)",
        "shop/front fired 4 minutes later: front_wait (62 %)",
    )


def test_the_origin_is_the_first_and_of_those_at_once_the_worst() -> None:
    """A minute's difference says nothing where each is judged once a minute; an hour's does, whatever the score."""
    assert origin_of((ORDERS, STORE, replace(FRONT, peak_score=90.0)), 120) == STORE
    at_once = replace(FRONT, onset_s=T + 60, peak_score=9.0)
    assert origin_of((STORE, at_once), 120) == at_once


def test_a_group_is_named_by_who_fired_first_and_never_grows_for_ever() -> None:
    """Who joins takes the group's identity; who is far from the group's beginning starts another one."""
    joined = replace(ORDERS, group_id=STORE.incident_id, group_since_s=T)
    fresh = incident("front", T + 600, fires=False)
    assert group_of(fresh, (STORE, joined), 3600) == (STORE.incident_id, T)
    assert group_of(fresh, (joined,), 3600) == (STORE.incident_id, T)  # its founder is over
    far = incident("front", T + 3700, fires=False)
    assert group_of(far, (joined,), 3600) == (far.incident_id, T + 3700)


def test_a_storm_is_bounded() -> None:
    """Ten thousand incidents at once: ten sentences, and how many more there are."""
    storm = [incident(f"d{n:05}", T + n % 60) for n in range(10_000)]
    near, more = Neighbourhood.of(storm).near(storm[0], 3600)
    said = sentences(storm[0], near, near[0], more=more)
    assert len(said) == 11
    assert said[-1] == "and 9989 more"
