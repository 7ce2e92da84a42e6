"""The alert state machine: Prometheus' patience, no resolution by missing data, replays that change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from foreshock.alerting.state import (
    EXPIRE_AFTER_S,
    OUTAGE_TOLERANCE_S,
    AlertPolicy,
    AlertState,
    EndReason,
    Hold,
    Kind,
    Phase,
    Transition,
    advance,
    end,
    incident_id,
)
from foreshock.core.errors import Damaged
from foreshock.core.verdicts import Anomalous, Contribution, Ignorance, Inconclusive, Judgement, Normal, Subject

MINUTE = 60
START_S = 1_700_000_040
SUBJECT = Subject("shop", "checkout", (("pod", "a"), ("zone", "b")))
BAD, GOOD, UNKNOWN = Anomalous(2.0), Normal(0.2), Inconclusive(Ignorance.STALE)
MARKS = {"a": BAD, "n": GOOD, "?": UNKNOWN}


def judgements(script: str, *, first_s: int = START_S, step_s: int = MINUTE) -> list[Judgement]:
    """One judgement a letter: `a` anomalous, `n` normal, `?` inconclusive, `.` nobody judged."""
    return [
        Judgement(SUBJECT, first_s + i * step_s, MARKS[mark]) for i, mark in enumerate(script) if mark != "."
    ]  # fmt: skip


def play(
    told: list[Judgement],
    policy: AlertPolicy,
    state: AlertState | None = None,
    *,
    quiet: bool = False,
    hold: Hold | None = None,
) -> tuple[AlertState | None, list[Transition]]:
    heard: list[Transition] = []
    for judgement in told:
        state, new = advance(state, judgement, policy, cluster="default", quiet=quiet, hold=hold)
        heard += new
    return state, heard


def story(script: str, policy: AlertPolicy, **options: int) -> list[tuple[str, int]]:
    """The transitions of a script, each with the number of the minute in which it came."""
    _, heard = play(judgements(script, **options), policy)
    return [(transition.kind.value, (transition.at_s - START_S) // MINUTE) for transition in heard]


@dataclass(frozen=True)
class Row:
    """One sentence of the contract, with the script that would refute it."""

    claim: str
    script: str
    expected: list[tuple[str, int]]
    pending_minutes: int = 0
    keep_minutes: int = 0


ROWS = (
    Row("without pending_for it fires at once", "na", [("firing", 1)]),
    Row("pending_for is met when at - active_since >= pending_for", "aaaa", [("firing", 3)], pending_minutes=3),
    Row("a normal window while pending starts it anew", "aanaaa", [("firing", 5)], pending_minutes=2),
    Row(
        "an inconclusive window while pending neither counts nor resets", "aa???aa", [("firing", 6)], pending_minutes=3
    ),
    Row("without keep_firing_for it resolves at the first normal window", "aan", [("firing", 0), ("resolved", 2)]),
    Row(
        "keep_firing_for counts from the first normal window",
        "annnnn",
        [("firing", 0), ("resolved", 4)],
        keep_minutes=3,
    ),
    Row("an anomalous window stops keep_firing_for", "annannn", [("firing", 0), ("resolved", 6)], keep_minutes=2),
    Row(
        "keep_firing_for stands still while nothing is known",
        "an????nnn",
        [("firing", 0), ("resolved", 7)],
        keep_minutes=2,
    ),
    Row("inconclusive windows never resolve", "a" + "?" * 500, [("firing", 0)]),
    Row("missing judgements never resolve", "a" + "." * 500 + "?", [("firing", 0)]),
    Row("nothing fires from inconclusive windows", "?" * 3_000, []),
    Row("a pending alert survives an outage of an hour", "a" + "." * 59 + "a", [("firing", 60)], pending_minutes=5),
    Row("a longer outage starts pending anew", "a" + "." * 60 + "aaaaaa", [("firing", 66)], pending_minutes=5),
    Row(
        "an outage of more than an hour does not count towards keep_firing_for",
        "an" + "." * 90 + "nnn",
        [("firing", 0), ("resolved", 94)],
        keep_minutes=2,
    ),
    Row("it fires again after it resolved", "anan", [("firing", 0), ("resolved", 1), ("firing", 2), ("resolved", 3)]),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.claim)
def test_contract(row: Row) -> None:
    """Each row is a sentence of the contract."""
    policy = AlertPolicy("critical", row.pending_minutes * MINUTE, row.keep_minutes * MINUTE, MINUTE)
    assert story(row.script, policy) == row.expected


def test_pending_survives_any_gap_shorter_than_two_intervals() -> None:
    """A detector that judges every six hours does not lose its pending clock between two judgements."""
    policy = AlertPolicy("critical", pending_for_s=12 * 3_600, keep_firing_for_s=0, interval_s=6 * 3_600)
    _, heard = play(judgements("aaa", step_s=6 * 3_600), policy)
    assert [transition.kind for transition in heard] == [Kind.FIRING]


def test_a_day_of_ignorance_expires_and_never_resolves() -> None:
    """After 24 h of nothing but Inconclusive the incident ends as expired, once."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    minutes = EXPIRE_AFTER_S // MINUTE
    assert story("a" + "?" * (minutes + 50), policy) == [("firing", 0), ("expired", 1 + minutes)]
    assert story("a" + "?" * (minutes - 1) + "a" + "?" * minutes, policy) == [("firing", 0)]


def test_quiet_never_fires_and_the_alert_goes_off_when_the_quiet_ends() -> None:
    """If the anomaly outlives the warm-up, the next window fires with the first window's id."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    state, heard = play(judgements("aaa"), policy, quiet=True)
    assert heard == []
    assert state is not None
    assert state.phase is Phase.PENDING
    _, heard = play(judgements("...a"), policy, state)
    assert [one.incident_id for one in heard] == [incident_id("default", SUBJECT, START_S)]


def test_what_fires_may_resolve_in_the_quiet() -> None:
    """Who learns does not keep a healthy service on the screen."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    state, _ = play(judgements("a"), policy)
    _, heard = play(judgements(".n"), policy, state, quiet=True)
    assert [one.kind for one in heard] == [Kind.RESOLVED]


PATCHES = Hold("kernel patches", only=("log",))


def test_a_maintenance_is_told_to_some_and_to_the_others_if_it_goes_on() -> None:
    """Held back from those that page; they hear of it under the same identity once it outlasts the maintenance."""
    policy = AlertPolicy("critical", 0, 120, MINUTE)
    state, heard = play(judgements("aaa"), policy, hold=PATCHES)
    (quietly,) = heard
    assert (quietly.kind, quietly.only, quietly.maintenance) == (Kind.FIRING, ("log",), "kernel patches")
    state, heard = play(judgements("...??na"), policy, state)
    (aloud,) = heard
    assert (aloud.event_id, aloud.only, aloud.maintenance) == (quietly.event_id, None, "kernel patches")
    state, heard = play(judgements(".......aannn"), policy, state)
    assert [(one.kind, one.only, one.sequence) for one in heard] == [(Kind.RESOLVED, None, 2)]


@pytest.mark.parametrize("after", ["nnn", "?nnn"])
def test_what_is_over_with_the_maintenance_pages_nobody(after: str) -> None:
    """Its end is told to whom its beginning was told, and neither silence nor a normal window releases it."""
    policy = AlertPolicy("critical", 0, 120, MINUTE)
    state, heard = play(judgements("aa"), policy, hold=PATCHES)
    _, ends = play(judgements(".." + after), policy, state)
    assert [(one.kind, one.only) for one in heard + ends] == [(Kind.FIRING, ("log",)), (Kind.RESOLVED, ("log",))]


def test_what_fired_before_the_maintenance_goes_on_and_resolves_for_everybody() -> None:
    """Nobody who was paged is left without the end."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    state, _ = play(judgements("a"), policy)
    _, heard = play(judgements(".an"), policy, state, hold=PATCHES)
    assert [(one.kind, one.only, one.maintenance) for one in heard] == [(Kind.RESOLVED, None, None)]


def test_a_held_alert_survives_a_restart_and_a_deletion_is_told_to_those_who_knew() -> None:
    """Whom it was held back from is part of the state, in its JSON too."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    state, _ = play(judgements("a"), policy, hold=PATCHES)
    assert state is not None
    again = AlertState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again == state
    _, (expired,) = end(again, EndReason.DETECTOR_DELETED, START_S + 600)
    assert expired.only == ("log",)


@pytest.mark.parametrize("reason", list(EndReason))
def test_an_incident_can_be_ended_by_hand_once(reason: EndReason) -> None:
    """What is the new normal is resolved, a deleted or suspended detector's incident expires; twice says nothing."""
    state, _ = play(judgements("aa"), AlertPolicy("critical", 0, 600, MINUTE))
    assert state is not None
    state, heard = end(state, reason, START_S + 200)
    kind = Kind.RESOLVED if reason is EndReason.ADAPTED else Kind.EXPIRED
    assert [(one.kind, one.reason, one.at_s, one.sequence) for one in heard] == [(kind, reason, START_S + 200, 2)]
    assert end(state, reason, START_S + 300) == (state, ())


def test_a_pending_alert_ends_silently() -> None:
    """Nobody was told that it began, so nobody is told that it ended."""
    state, _ = play(judgements("aa"), AlertPolicy("critical", 600, 600, MINUTE))
    assert state is not None
    state, heard = end(state, EndReason.SUSPENDED, START_S + 200)
    assert heard == ()
    assert state.phase is Phase.INACTIVE


def test_the_peak_is_carried_to_the_end() -> None:
    """Every transition knows the worst judgement of its incident, and the last score."""
    policy = AlertPolicy("critical", 0, 0, MINUTE)
    worst = (Contribution("pool_wait", 0.9), Contribution("errors", 0.1))
    told = [
        Judgement(SUBJECT, START_S, Anomalous(1.5), (Contribution("errors", 1.0),)),
        Judgement(SUBJECT, START_S + 60, Anomalous(7.5), worst),
        Judgement(SUBJECT, START_S + 120, Anomalous(1.2), (Contribution("errors", 1.0),)),
        Judgement(SUBJECT, START_S + 180, Normal(0.3)),
    ]
    _, (firing, resolved) = play(told, policy)
    assert (firing.score, firing.peak.score) == (1.5, 1.5)
    assert (resolved.score, resolved.peak.score, resolved.peak.at_s) == (0.3, 7.5, START_S + 60)
    assert resolved.peak.contributions == worst
    assert resolved.started_at_s == START_S


def test_severity_is_that_of_the_firing() -> None:
    """Both ends of an incident carry equal labels, although the manifest was edited meanwhile."""
    state, _ = play(judgements("a"), AlertPolicy("critical", 0, 0, MINUTE))
    _, heard = play(judgements(".n"), AlertPolicy("info", 0, 0, MINUTE), state)
    assert [one.severity for one in heard] == ["critical"]


def test_identity_is_of_cluster_detector_group_and_first_window() -> None:
    """The id differs in each part, ignores the order of labels, and separates parts that would join to equal text."""
    base = incident_id("default", SUBJECT, START_S)
    swapped = Subject("shop", "checkout", tuple(reversed(SUBJECT.group)))
    assert incident_id("default", swapped, START_S) == base
    others = {
        incident_id("other", SUBJECT, START_S),
        incident_id("default", Subject("shop", "checkout"), START_S),
        incident_id("default", Subject("sho", "pcheckout", SUBJECT.group), START_S),
        incident_id("default", SUBJECT, START_S + 1),
    }
    assert len(others | {base}) == 5
    assert len(base) == 32
    assert set(base) <= set("0123456789abcdef")


def test_pending_time_counts_from_the_first_anomalous_window_in_the_identity() -> None:
    """The id is of the window in which the anomaly began, not of the one in which it fired."""
    _, heard = play(judgements("naaaa"), AlertPolicy("critical", 120, 0, MINUTE))
    assert heard[0].incident_id == incident_id("default", SUBJECT, START_S + MINUTE)
    assert heard[0].event_id == f"{heard[0].incident_id}/firing/1"


def test_a_state_of_another_subject_is_refused() -> None:
    """Mixing up two groups is an error, not an alert."""
    state, _ = play(judgements("a"), AlertPolicy("critical"))
    with pytest.raises(ValueError, match="the state is of"):
        advance(state, Judgement(Subject("x", "y"), START_S + 60, BAD), AlertPolicy("critical"), cluster="default")


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_compares_with_nothing_is_refused(score: float) -> None:
    """NaN would be the peak for ever, and infinity is no JSON."""
    with pytest.raises(ValueError, match="finite"):
        advance(None, Judgement(SUBJECT, START_S, Anomalous(score)), AlertPolicy("critical"), cluster="default")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document | {"version": 2},
        lambda document: {key: value for key, value in document.items() if key != "version"},
        lambda document: document | {"judged_at_s": "yesterday"},
        lambda document: document | {"incident": {"incident_id": "x"}},
    ],
)
def test_a_damaged_state_is_a_typed_error(break_it: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """A state that cannot be read is `Damaged`, never "inactive"."""
    state, _ = play(judgements("a"), AlertPolicy("critical"))
    assert state is not None
    with pytest.raises(Damaged):
        AlertState.from_dict(break_it(state.to_dict()))


def test_keys_of_a_later_version_are_ignored() -> None:
    """Old and new run side by side in a rollout: what the new one adds does not stop the old one."""
    state, _ = play(judgements("a"), AlertPolicy("critical"))
    assert state is not None
    assert AlertState.from_dict(state.to_dict() | {"added_later": 1}) == state


SCRIPTS = st.text(alphabet="aaann??.", min_size=1, max_size=60)
POLICIES = st.builds(
    AlertPolicy,
    st.just("critical"),
    st.sampled_from([0, 60, 150, 600]),
    st.sampled_from([0, 60, 150, 600]),
    st.just(MINUTE),
)


@given(SCRIPTS, POLICIES, st.data())
@settings(max_examples=200, deadline=None)
def test_replaying_a_prefix_changes_nothing(script: str, policy: AlertPolicy, data: st.DataObject) -> None:
    """Whatever part is judged again after a crash, the transitions and the state are those of one straight run."""
    told = judgements(script)
    cut = data.draw(st.integers(0, len(told)))
    again_from = data.draw(st.integers(0, cut))
    straight = play(told, policy)
    assert play(told[:cut] + told[again_from:], policy) == straight


@given(SCRIPTS, POLICIES, st.data())
@settings(max_examples=100, deadline=None)
def test_a_restart_through_json_changes_nothing(script: str, policy: AlertPolicy, data: st.DataObject) -> None:
    """Written to JSON and read back at any point, the alert goes on as if nothing had happened."""
    told = judgements(script)
    cut = data.draw(st.integers(0, len(told)))
    state, before = play(told[:cut], policy)
    if state is not None:
        state = AlertState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False)))
    last, after = play(told[cut:], policy, state)
    assert (last, before + after) == play(told, policy)


@given(SCRIPTS, POLICIES)
@settings(max_examples=100, deadline=None)
def test_without_a_normal_window_nothing_resolves(script: str, policy: AlertPolicy) -> None:
    """However anomalous and inconclusive windows and gaps mix, an incident that fired stays."""
    assert "resolved" not in [kind for kind, _ in story(script.replace("n", "?"), policy)]


class AlertLife(RuleBasedStateMachine):
    """Firing and its end alternate under any sequence of verdicts, gaps, quiet times, restarts and ends by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = START_S
        self.state: AlertState | None = None
        self.heard: list[Transition] = []
        self.policy = AlertPolicy("critical", 120, 180, MINUTE)

    @rule(
        verdict=st.sampled_from([BAD, GOOD, UNKNOWN]),
        gap_s=st.sampled_from([60, 60, 60, 300, OUTAGE_TOLERANCE_S + 60]),
        quiet=st.booleans(),
        times=st.integers(1, 5),
    )
    def judge(self, verdict: Anomalous | Normal | Inconclusive, gap_s: int, *, quiet: bool, times: int) -> None:
        for _ in range(times):
            self.at_s += gap_s
            was_firing = self.state is not None and self.state.phase is Phase.FIRING
            self.state, new = advance(
                self.state, Judgement(SUBJECT, self.at_s, verdict), self.policy, cluster="c", quiet=quiet
            )
            if isinstance(verdict, Inconclusive):
                assert Kind.RESOLVED not in {one.kind for one in new}, "missing data resolved an incident"
                assert Kind.FIRING not in {one.kind for one in new}, "missing data fired an incident"
            if quiet:
                assert Kind.FIRING not in {one.kind for one in new}, "it fired in the quiet"
            if was_firing:
                assert isinstance(verdict, Normal | Inconclusive) or not new
            self.heard += new

    @precondition(lambda self: self.state is not None)
    @rule(back_s=st.integers(0, 10_000), verdict=st.sampled_from([BAD, GOOD, UNKNOWN]))
    def judge_the_past(self, back_s: int, verdict: Anomalous | Normal | Inconclusive) -> None:
        assert self.state is not None
        past = Judgement(SUBJECT, self.state.judged_at_s - back_s, verdict)
        assert advance(self.state, past, self.policy, cluster="c") == (self.state, ())

    @precondition(lambda self: self.state is not None)
    @rule(reason=st.sampled_from(list(EndReason)))
    def end_by_hand(self, reason: EndReason) -> None:
        assert self.state is not None
        self.state, new = end(self.state, reason, self.at_s)
        self.heard += new

    @precondition(lambda self: self.state is not None)
    @rule()
    def restart(self) -> None:
        assert self.state is not None
        self.state = AlertState.from_dict(json.loads(json.dumps(self.state.to_dict())))

    @invariant()
    def firing_and_its_end_alternate(self) -> None:
        kinds = [one.kind is Kind.FIRING for one in self.heard]
        assert kinds == [i % 2 == 0 for i in range(len(kinds))]
        ends = list(zip(self.heard[::2], self.heard[1::2], strict=False))
        assert all(first.incident_id == last.incident_id for first, last in ends)
        assert all(first.at_s <= last.at_s for first, last in ends)

    @invariant()
    def identities_are_unique(self) -> None:
        ids = [one.event_id for one in self.heard]
        assert len(ids) == len(set(ids))

    @invariant()
    def the_phase_is_what_was_said(self) -> None:
        firing = self.state is not None and self.state.phase is Phase.FIRING
        assert firing == (len(self.heard) % 2 == 1)


TestAlertLife = AlertLife.TestCase
TestAlertLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_amid_a_rollout_an_alert_waits_and_is_not_muted() -> None:
    """Five intervals while a rollout is under way or was ten minutes ago; then as the detector says."""
    policy = AlertPolicy("critical")
    assert policy.amid_rollout(START_S, START_S).pending_for_s == 300
    assert policy.amid_rollout(START_S - 600, START_S).pending_for_s == 300
    assert policy.amid_rollout(START_S - 601, START_S) == policy
    assert policy.amid_rollout(None, START_S) == policy
    patient = AlertPolicy("critical", pending_for_s=3600)
    assert patient.amid_rollout(START_S, START_S) == patient
    assert AlertPolicy("critical", interval_s=3600).amid_rollout(START_S, START_S).pending_for_s == 3600
    told, state, heard = judgements("a" * 6), None, []
    for each in told:  # a rollout that never ends
        state, new = advance(state, each, policy.amid_rollout(each.at_s, each.at_s), cluster="default")
        heard += new
    assert [each.at_s - START_S for each in heard] == [300]
    assert heard[0].started_at_s == START_S
