"""What is said about a detector: one answer for each state, words of the closed lists, and no word twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.alerting.state import OpenIncident, Peak
from foreshock.core.verdicts import Cause, Contribution, Ignorance, Subject
from foreshock.engine.cohort import Revision
from foreshock.engine.cycle import FAILED_CYCLES
from foreshock.engine.watch import Mark
from foreshock.lifecycle.drift import Drift
from foreshock.lifecycle.learnt import Learnt
from foreshock.lifecycle.standing import Standing, Trouble
from foreshock.manifests.conditions import REASONS, Because, Condition, ConditionStatus, ConditionType, DetectorStatus
from foreshock.operator.reconcile import Fact, Observed, Told, reconcile
from foreshock.store.records import Stuck

NOW_S = 1_760_000_000.0
SUBJECT = Subject("shop", "checkout")
FULL = Revision("v1", "v1-r3", "0" * 64, 1_759_000_000, 1_759_990_000)
PROVISIONAL = Revision("v1", "v1-r1", "0" * 64, 1_759_000_000, 1_759_990_000, provisional=True)
LEARNING = Learnt(SUBJECT, "learning: 40% of the warm-up", 0.0, ready=False, share=0.4, warm_at_s=NOW_S)
NOTHING = Learnt(SUBJECT, "its queries have returned nothing so far", 0.0, ready=False, share=0.0)
PEAK = Peak(1_759_999_000, 4.2, Cause.SCORE, (Contribution("pool_wait", 0.7), Contribution("latency", 0.3)))
INCIDENT = OpenIncident("a" * 32, 1_759_998_000, 2.0, PEAK.contributions, PEAK, "critical", fired_at_s=1_759_998_000)
FIRING = ((SUBJECT, INCIDENT),)


DRIFT = Drift("latency", "level", 3.0, 1.2, 1_700_000_000)


def said(standing: Standing | None, **observed: object) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition of a detector that was never written to."""
    plan = reconcile({}, Observed(3, standing, **observed), NOW_S)  # type: ignore[arg-type]
    return {each.type.value: (each.status.value, str(each.reason)) for each in plan.conditions}


def unknown(reason: Ignorance, message: str = "why") -> Mark:
    return Mark(1, 0, 1, reason, message)


@pytest.mark.parametrize(
    ("standing", "kind", "answer"),
    [
        (None, "Ready", ("Unknown", "Pending")),
        (None, "Anomalous", ("Unknown", "Pending")),
        (Standing(mark=Mark(1, 0, 0), revision=FULL), "Ready", ("True", "AllWell")),
        (Standing(mark=Mark(1, 0, 0), revision=FULL), "Anomalous", ("False", "Normal")),
        (Standing(mark=Mark(1, 0, 0), revision=FULL, drift=DRIFT), "ModelReady", ("True", "Drifted")),
        (Standing(mark=Mark(1, 0, 0), revision=FULL, drift=DRIFT), "Ready", ("True", "AllWell")),
        (Standing(mark=Mark(1, 1, 0), revision=FULL), "Anomalous", ("False", "PendingFor")),
        (Standing(mark=Mark(1, 1, 0), revision=FULL, firing=FIRING), "Anomalous", ("True", "Score")),
        (Standing(mark=unknown(Ignorance.STALE), revision=FULL, firing=FIRING), "Anomalous", ("True", "Score")),
        (Standing(mark=unknown(Ignorance.STALE), revision=FULL), "Anomalous", ("Unknown", "Stale")),
        (Standing(mark=unknown(Ignorance.STALE), revision=FULL), "Ready", ("Unknown", "Stale")),
        (Standing(mark=Mark(9, 0, 2, Ignorance.STALE), revision=FULL), "Ready", ("True", "AllWell")),
        (Standing(mark=unknown(Ignorance.QUERY_REJECTED)), "DataAvailable", ("False", "QueryRejected")),
        (Standing(mark=unknown(Ignorance.NO_DATA)), "DataAvailable", ("False", "NoData")),
        (
            Standing(mark=unknown(Ignorance.DATASOURCE_UNAVAILABLE), failed_cycles=FAILED_CYCLES, revision=FULL),
            "Ready",
            ("False", "DatasourceUnavailable"),
        ),
        (
            Standing(mark=unknown(Ignorance.DATASOURCE_UNAVAILABLE), failed_cycles=FAILED_CYCLES - 1, revision=FULL),
            "DataAvailable",
            ("Unknown", "Pending"),
        ),
        (
            Standing(mark=unknown(Ignorance.QUERY_BUDGET_SPENT), failed_cycles=FAILED_CYCLES, revision=FULL),
            "Ready",
            ("False", "QueryBudgetSpent"),
        ),
        (Standing(mark=unknown(Ignorance.WARMING_UP), learnt=LEARNING), "DataAvailable", ("True", "DataFlows")),
        (Standing(mark=unknown(Ignorance.WARMING_UP), learnt=LEARNING), "WarmedUp", ("False", "WarmingUp")),
        (Standing(mark=unknown(Ignorance.WARMING_UP), learnt=LEARNING), "Ready", ("False", "WarmingUp")),
        (Standing(mark=unknown(Ignorance.WARMING_UP), learnt=NOTHING), "DataAvailable", ("False", "NoData")),
        (Standing(mark=Mark(1, 0, 0), learnt=LEARNING, revision=PROVISIONAL), "ModelReady", ("False", "WarmingUp")),
        (Standing(trouble=Trouble("ArtifactDamaged", "x")), "ModelReady", ("False", "ModelUnusable")),
        (Standing(trouble=Trouble("ArtifactMissing", "x"), revision=FULL), "ModelReady", ("False", "ModelUnusable")),
        (Standing(trouble=Trouble("PrometheusUnavailable", "x")), "ModelReady", ("False", "TrainingFailed")),
        (
            Standing(trouble=Trouble("NoSuchRevision", "There is no revision 9.")),
            "ModelReady",
            ("False", "NoSuchRevision"),
        ),
        (Standing(is_suspended=True), "Ready", ("False", "Suspended")),
        (Standing(is_suspended=True), "Anomalous", ("Unknown", "Suspended")),
    ],
)
def test_each_state_has_one_answer(standing: Standing | None, kind: str, answer: tuple[str, str]) -> None:
    """Missing data is Unknown, what fires stays True meanwhile, and Ready says the first that is not True."""
    assert said(standing)[kind] == answer


def test_a_sink_that_takes_nothing_is_named_and_spoils_ready() -> None:
    """SinksHealthy is about the sinks of this detector; a refusal for good is another reason than a delay."""
    well = Standing(mark=Mark(1, 0, 0), revision=FULL)
    late, refused = (
        Stuck("oncall", is_refused=False, since_s=NOW_S - 400),
        Stuck("hook", is_refused=True, since_s=NOW_S),
    )
    assert said(well, sinks=(late,))["Ready"] == ("False", "SinkUnavailable")
    assert said(well, sinks=(refused,))["SinksHealthy"] == ("False", "SinkRejected")
    assert said(well, store_is_away=True)["Ready"] == ("False", "StoreUnavailable")


def test_what_cannot_be_run_is_said_and_what_ran_before_goes_on() -> None:
    """A broken change spoils Ready; the other conditions are still those of what is judged."""
    problem = Fact(ConditionStatus.FALSE, Because.INVALID_MANIFEST, "spec.step: too long")
    answers = said(Standing(mark=Mark(1, 0, 0), revision=FULL), problem=problem)
    assert answers["Ready"] == ("False", "InvalidManifest")
    assert answers["ModelReady"] == ("True", "ModelActive")


def test_a_drift_is_an_event_that_says_what_moved_by_how_much_and_since_when() -> None:
    """Once when it is found; that its successor judges is the next one."""
    well = Standing(mark=Mark(1, 0, 0), revision=FULL)
    before = {each.type: each for each in reconcile({}, Observed(3, well), NOW_S).conditions}
    plan = reconcile(before, Observed(3, replace(well, drift=DRIFT)), NOW_S)
    (event,) = plan.events
    assert (event.type, event.reason) == ("Normal", "Drifted")
    assert event.message == (
        "The level of latency has moved by 3.0 usual distances since 2023-11-14T22:13:20Z, where 1.2 is what its "
        "history explains; its successor is being learnt."
    )
    drifted = {each.type: each for each in plan.conditions}
    assert reconcile(drifted, Observed(3, replace(well, drift=DRIFT)), NOW_S).events == ()
    assert [event.reason for event in reconcile(drifted, Observed(3, well), NOW_S).events] == ["ModelActive"]


def test_time_and_events_only_where_something_changed() -> None:
    """The same facts again: the same transition times, nothing urgent, and no event."""
    observed = Observed(3, Standing(mark=Mark(1, 1, 0), revision=FULL, firing=FIRING))
    first = reconcile({}, observed, NOW_S)
    assert {event.reason for event in first.events} == {"Anomalous", "ModelActive"}
    assert first.is_urgent
    told = {each.type: each for each in first.conditions}
    again = reconcile(told, observed, NOW_S + 600)
    assert again.conditions == first.conditions
    assert again.events == ()
    assert not again.is_urgent
    over = reconcile(told, Observed(3, Standing(mark=Mark(1, 0, 0), revision=FULL)), NOW_S + 900)
    anomalous = next(each for each in over.conditions if each.type is ConditionType.ANOMALOUS)
    assert (anomalous.status, anomalous.since_s) == (ConditionStatus.FALSE, NOW_S + 900)
    assert [event.reason for event in over.events] == ["Normal"]


def test_an_unavailable_datasource_keeps_what_was_said_for_three_cycles() -> None:
    """One failed query is no news: the condition stays as it was, whatever it was."""
    before = Told(ConditionType.DATA_AVAILABLE, ConditionStatus.TRUE, "DataFlows", "", NOW_S - 60, 3)
    standing = Standing(mark=unknown(Ignorance.DATASOURCE_UNAVAILABLE), failed_cycles=1, revision=FULL)
    plan = reconcile({ConditionType.DATA_AVAILABLE: before}, Observed(3, standing), NOW_S)
    assert before in plan.conditions


_MARKS = st.none() | st.builds(
    Mark,
    st.just(2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.none() | st.sampled_from(Ignorance),
    st.text(max_size=2_000),
)
_STANDINGS = st.none() | st.builds(
    Standing,
    generation=st.just(3),
    is_suspended=st.booleans(),
    mark=_MARKS,
    failed_cycles=st.integers(0, 9),
    learnt=st.sampled_from([None, LEARNING, NOTHING]),
    trouble=st.none()
    | st.builds(Trouble, st.sampled_from(["NotEnoughHistory", "NoSuchRevision", "ArtifactMissing", "X"]), st.text()),
    revision=st.sampled_from([None, FULL, PROVISIONAL]),
    firing=st.sampled_from([(), FIRING, FIRING * 40]),
)


@given(_STANDINGS, st.booleans())
def test_whatever_is_observed_is_a_status_that_the_api_server_takes(standing: Standing | None, away: bool) -> None:
    """Six conditions, reasons of the closed lists, bounded messages: the CRD's own model reads every one."""
    plan = reconcile({}, Observed(3, standing, store_is_away=away), NOW_S)
    status = DetectorStatus.model_validate(plan.as_status(3))
    assert [each.type for each in status.conditions] == list(ConditionType)
    for each in status.conditions:
        assert isinstance(each, Condition)
        assert each.reason in REASONS[each.type]
    assert len({event.reason for event in plan.events}) == len(plan.events)
