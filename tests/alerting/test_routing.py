"""Who is told: maintenance, and how likely an alert is false among all that fire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.alerting.outbox import deliveries
from foreshock.alerting.routing import Routing, expected_false_share
from foreshock.alerting.state import AlertPolicy, AlertState, Transition, advance
from foreshock.core.verdicts import Anomalous, Judgement, Normal, Subject

SINKS = ("pager", "ticket", "digest")
ROUTING = Routing(frozenset({"digest"}), {"pager": 0.2, "ticket": 0.5})
POLICY = AlertPolicy("critical", 0, 0, 60)
SUBJECT = Subject("shop", "checkout")


@pytest.mark.parametrize(
    ("maintenance", "false_share", "told"),
    [
        (None, 0.1, None),
        (None, 0.3, ("ticket", "digest")),
        (None, 0.9, ("digest",)),
        ("upgrade", 0.1, ("digest",)),
    ],
)
def test_page_ticket_and_digest_are_sinks(maintenance: str | None, false_share: float, told: object) -> None:
    """The pager hears of what is likely true, the ticket of more, the digest of everything."""
    hold = ROUTING.hold(SINKS, maintenance=maintenance, false_share=false_share)
    assert (hold.only if hold else None) == told
    assert (hold.maintenance if hold else None) == maintenance


def test_without_limits_nobody_is_left_out() -> None:
    """What an administrator did not ask for changes nothing, however large the fleet is."""
    assert Routing().hold(SINKS, maintenance=None, false_share=1.0) is None


def test_one_detector_pages_for_what_just_crosses_its_threshold() -> None:
    """A budget of one a week allows 0.14 a day: at most every seventh day with an alert is a false one."""
    assert expected_false_share(1.0, (), 1 / 7) == pytest.approx(1 / 7)


def test_the_largest_at_the_same_time_carry_the_smaller_ones() -> None:
    """Benjamini-Hochberg steps up: a weaker alert is believed with many, and none makes a stronger one less likely."""
    alone = expected_false_share(2.0, (), 143.0)
    among_many = expected_false_share(2.0, [2.0] * 49, 143.0)
    beside_strong = expected_false_share(2.0, [9.0] * 10, 143.0)
    assert among_many < beside_strong < alone == 1.0
    assert expected_false_share(4.0, [1.0] * 5, 143.0) <= expected_false_share(4.0, (), 143.0)


@given(st.floats(1.0, 50.0), st.lists(st.floats(1.0, 50.0), max_size=20), st.floats(0.0, 1e4), st.floats(1.0, 50.0))
def test_the_share_is_a_share_and_falls_with_the_score(
    score: float, others: list[float], false_per_day: float, stronger: float
) -> None:
    """Between 0 and 1; a stronger alert among the same others is never more likely false."""
    share = expected_false_share(score, others, false_per_day)
    assert 0.0 <= share <= 1.0
    assert expected_false_share(max(score, stronger), others, false_per_day) <= share + 1e-12


def _judged(
    state: AlertState | None, at_s: int, score: float, false_share: float
) -> tuple[AlertState, tuple[Transition, ...]]:
    hold = ROUTING.hold(SINKS, maintenance=None, false_share=false_share)
    verdict = Anomalous(score) if score >= 1.0 else Normal(score)
    return advance(state, Judgement(SUBJECT, at_s, verdict), POLICY, cluster="c", hold=hold)


def _told(transitions: tuple[Transition, ...]) -> list[list[str]]:
    return [[row.sink for row in deliveries(one, {}, sinks=SINKS, created_s=0.0)] for one in transitions]


def test_an_alert_that_gets_more_certain_reaches_the_next_sink_under_the_same_identity() -> None:
    """Digest, then ticket, then page (the outbox drops what a sink has been told), and all of them hear of the end."""
    state, first = _judged(None, 60, 1.1, 0.9)
    assert _told(first) == [["digest"]]
    state, again = _judged(state, 120, 1.1, 0.9)
    assert again == ()
    state, second = _judged(state, 180, 2.0, 0.3)
    assert _told(second) == [["ticket", "digest"]]
    state, third = _judged(state, 240, 5.0, 0.01)
    assert _told(third) == [["pager", "ticket", "digest"]]
    assert {one.event_id for one in first + second + third} == {first[0].event_id}
    state, nothing = _judged(state, 300, 1.1, 0.9)
    assert nothing == ()
    _, end = _judged(state, 360, 0.0, 0.0)
    assert _told(end) == [["pager", "ticket", "digest"]]


def test_who_was_never_told_hears_of_no_end() -> None:
    """A page that says "resolved" about something nobody was paged for is noise."""
    state, _ = _judged(None, 60, 1.1, 0.9)
    _, end = _judged(state, 120, 0.0, 0.0)
    assert _told(end) == [["digest"]]
