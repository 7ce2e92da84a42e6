"""The outbox on a real database with a clock of its own: at least once, in order, with patience, sink by sink."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from tests.alerting.virtual import NOW_S, ScriptedSink, VirtualClock, down, refuses

from foreshock.alerting.outbox import (
    BATCH_ROWS,
    GIVE_UP_AFTER_S,
    Attempt,
    Delivery,
    Outbox,
    Outcome,
    Report,
    deliveries,
)
from foreshock.alerting.state import AlertPolicy, Kind, Transition, advance
from foreshock.core.errors import SinkUnavailable, StoreUnavailable
from foreshock.core.verdicts import Anomalous, Judgement, Normal, Subject
from foreshock.store.history import History
from foreshock.store.records import CycleChanges, Incident

POLICY = AlertPolicy("critical", 0, 0, 60)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(f"sqlite:///{tmp_path}/foreshock.db")
    yield history
    history.close()


def transitions(n: int) -> tuple[Transition, Transition]:
    """Firing and resolved of the n-th incident."""
    subject = Subject("shop", f"detector-{n}")
    state, firing = advance(None, Judgement(subject, 1_700_000_000, Anomalous(2.0)), POLICY, cluster="c")
    _, resolved = advance(state, Judgement(subject, 1_700_000_060, Normal(0.0)), POLICY, cluster="c")
    return firing[0], resolved[0]


def commit(history: History, told: Sequence[Transition], sinks: Sequence[str], created_s: float = NOW_S) -> None:
    incidents = tuple(
        Incident(one.incident_id, one.subject, "svc", one.severity, one.started_at_s, one.peak.score) for one in told
    )
    rows = [
        row for one in told for row in deliveries(one, {"id": one.event_id}, sinks=sinks, created_s=created_s)
    ]  # fmt: skip
    history.commit_cycle(CycleChanges(created_s, incidents=incidents, outbox=tuple(rows)))


async def run_until(outbox: Outbox, done: asyncio.Event) -> None:
    """Run the outbox until `done` or for 20 s, then stop it."""
    task = asyncio.create_task(outbox.run())
    try:
        async with asyncio.timeout(20):
            await done.wait()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def outbox_for(history: History, *sinks: ScriptedSink, seed: int = 1, reports: list[Report] | None = None) -> Outbox:
    heard = [] if reports is None else reports
    return Outbox(history, sinks, sinks[0].clock, jitter=random.Random(seed), report=heard.append)


async def test_every_transition_reaches_every_sink(history: History) -> None:
    """Two incidents, two transitions, two sinks: eight deliveries, then nothing is left."""
    clock = VirtualClock()
    sinks = ScriptedSink("a", clock), ScriptedSink("b", clock)
    told = [*transitions(1), *transitions(2)]
    commit(history, told, ["a", "b"])
    assert await outbox_for(history, *sinks).flush()
    for sink in sinks:
        assert sorted(sink.taken) == sorted(one.event_id for one in told)
    assert history.backlog() == ()


async def test_a_resolution_never_overtakes_its_firing(history: History) -> None:
    """While the firing is not taken, the resolution of the same incident is not even sent; other incidents go on."""
    clock = VirtualClock()
    firing, resolved = transitions(1)
    other, _ = transitions(2)
    stubborn = {firing.event_id}
    sink = ScriptedSink("a", clock, lambda event_id: SinkUnavailable("no") if event_id in stubborn else None)
    commit(history, [firing, resolved, other], ["a"])
    outbox = outbox_for(history, sink)
    await outbox.flush()
    assert sink.taken == [other.event_id]
    assert resolved.event_id not in [event_id for _, event_id in sink.sent]
    stubborn.clear()
    clock.time_s += 61
    assert await outbox.flush()
    assert sink.taken == [other.event_id, firing.event_id, resolved.event_id]


@pytest.mark.parametrize("seed", range(5))
async def test_any_mixture_of_failures_delivers_all_in_order(history: History, seed: int) -> None:
    """With a sink that fails at random, all arrive at least once, in order, and repeats bear the same id."""
    clock, chance = VirtualClock(), random.Random(seed)
    sink = ScriptedSink("a", clock, lambda _: SinkUnavailable("busy") if chance.random() < 0.5 else None)
    told = [one for n in range(20) for one in transitions(n)]
    commit(history, told, ["a"])
    done = asyncio.Event()
    outbox = Outbox(
        history, [sink], clock, jitter=chance, report=lambda _: done.set() if not history.backlog() else None
    )
    await run_until(outbox, done)
    assert set(sink.taken) == {one.event_id for one in told}, f"seed {seed}"
    for n in range(20):
        firing, resolved = transitions(n)
        assert sink.taken.index(firing.event_id) < sink.taken.index(resolved.event_id)


async def test_firing_goes_before_resolved_in_a_backlog(history: History) -> None:
    """What still fires is what people wait for: it leaves first, also when it was committed last."""
    clock = VirtualClock()
    sink = ScriptedSink("a", clock)
    old = [transitions(n) for n in range(BATCH_ROWS)]
    commit(history, [firing for firing, _ in old], ["a"])
    outbox = outbox_for(history, sink)
    await outbox.flush()
    commit(history, [resolved for _, resolved in old], ["a"], NOW_S + 1)
    new, _ = transitions(999)
    commit(history, [new], ["a"], NOW_S + 2)
    clock.time_s += 3
    await outbox.flush()
    assert sink.taken[BATCH_ROWS] == new.event_id


async def test_a_dead_sink_delays_nobody(history: History) -> None:
    """One sink hangs for ever; the other has everything."""
    clock = VirtualClock(frozen=True)
    hung, healthy, done = ScriptedSink("hung", clock), ScriptedSink("healthy", clock), asyncio.Event()
    told = [transitions(n)[0] for n in range(40)]

    async def hang(_event: dict[str, object], *, event_id: str) -> None:
        del event_id
        await asyncio.Event().wait()

    hung.send = hang  # type: ignore[method-assign]
    commit(history, told, ["hung", "healthy"])

    def watch(report: Report) -> None:
        if len(healthy.taken) == len(told) and report.sink == "healthy":
            done.set()

    await run_until(Outbox(history, [hung, healthy], clock, report=watch), done)
    assert len(healthy.taken) == len(told)
    assert [backlog.sink for backlog in history.backlog()][-1] == "hung"


async def test_a_sink_that_is_down_is_probed_with_one_row_and_growing_patience(history: History) -> None:
    """1,000 waiting rows do not become 1,000 requests: after the first batch one probe, at most 60 s apart."""
    clock = VirtualClock()
    sink = ScriptedSink("a", clock, down())
    commit(history, [transitions(n)[0] for n in range(200)], ["a"])
    done = asyncio.Event()

    def enough(_: Report) -> None:
        if clock.time_s > NOW_S + 3_600:
            done.set()

    await run_until(outbox := Outbox(history, [sink], clock, jitter=random.Random(3), report=enough), done)
    probes = [at_s for at_s, _ in sink.sent[BATCH_ROWS:]]
    gaps = [after - before for before, after in pairwise(probes)]
    assert max(gaps) <= 60.0
    assert 60 < len(probes) < 300  # an hour at 30 s on average, and a few quick ones at first
    assert len({round(gap, 3) for gap in gaps}) > len(gaps) // 2  # jitter: not in step with other senders
    sink.behaviour = lambda _: None
    clock.time_s += 61
    assert await outbox.flush()
    assert len(sink.taken) == 200


async def test_retry_after_is_honoured(history: History) -> None:
    """A receiver that asks for 120 s is left alone for 120 s, also when there is news."""
    clock = VirtualClock()
    sink = ScriptedSink("a", clock, down(retry_after_s=120.0))
    commit(history, [transitions(1)[0]], ["a"])
    done = asyncio.Event()

    def news(report: Report) -> None:
        if report.outcome is Outcome.POSTPONED and len(sink.sent) >= 5:
            done.set()
        outbox.notify()

    outbox = Outbox(history, [sink], clock, report=news)
    await run_until(outbox, done)
    times = [at_s for at_s, _ in sink.sent]
    assert min(after - before for before, after in pairwise(times)) >= 120.0


async def test_news_wakes_at_once(history: History) -> None:
    """With a clock that never ends a sleep, only `notify` can have brought the event out."""
    clock, done = VirtualClock(frozen=True), asyncio.Event()
    sink = ScriptedSink("a", clock)
    outbox = Outbox(history, [sink], clock, report=lambda _: done.set())
    task = asyncio.create_task(run_until(outbox, done))
    async with asyncio.timeout(10):
        await clock.asleep.wait()  # the lane rests
    firing, _ = transitions(1)
    await asyncio.to_thread(commit, history, [firing], ["a"])
    outbox.notify()
    await task
    assert sink.taken == [firing.event_id]


async def test_a_bad_event_does_not_hold_up_the_next_one(history: History) -> None:
    """One event that the receiver always answers with 500 waits alone; news ends the rest that it caused."""
    clock, done = VirtualClock(frozen=True), asyncio.Event()
    poison, _ = transitions(1)
    sink = ScriptedSink("a", clock, lambda event_id: SinkUnavailable("500") if event_id == poison.event_id else None)
    commit(history, [poison], ["a"])
    outbox = Outbox(history, [sink], clock, report=lambda _: done.set() if sink.taken else None)
    task = asyncio.create_task(run_until(outbox, done))
    async with asyncio.timeout(10):
        await clock.asleep.wait()
    healthy, _ = transitions(2)
    await asyncio.to_thread(commit, history, [healthy], ["a"])
    outbox.notify()
    await task
    assert sink.taken == [healthy.event_id]


async def test_a_rejected_event_is_not_sent_again_and_its_incident_goes_on(history: History) -> None:
    """What a receiver refuses for good is counted once; the resolution follows."""
    clock, reports = VirtualClock(), []
    firing, resolved = transitions(1)
    sink = ScriptedSink("a", clock, lambda event_id: refuses(event_id) if event_id == firing.event_id else None)
    commit(history, [firing, resolved], ["a"])
    outbox = outbox_for(history, sink, reports=reports)
    assert await outbox.flush()
    clock.time_s += GIVE_UP_AFTER_S
    assert await outbox.flush()
    assert [event_id for _, event_id in sink.sent] == [firing.event_id, resolved.event_id]
    assert [(report.outcome, report.event_id) for report in reports] == [
        (Outcome.REJECTED, firing.event_id),
        (Outcome.DELIVERED, resolved.event_id),
    ]


async def test_after_seven_days_it_is_given_up_and_not_before_a_last_try(history: History) -> None:
    """A process that was off for eight days tries once before it gives up."""
    clock, reports = VirtualClock(NOW_S + GIVE_UP_AFTER_S - 1), []
    sink = ScriptedSink("a", clock, down())
    commit(history, [transitions(1)[0]], ["a"])
    outbox = outbox_for(history, sink, reports=reports)
    await outbox.flush()
    clock.time_s += 86_400
    await outbox.flush()
    clock.time_s += 86_400
    assert await outbox.flush()
    assert [report.outcome for report in reports] == [Outcome.POSTPONED, Outcome.GIVEN_UP]
    assert len(sink.sent) == 2
    assert history.backlog() == ()


class ForgetfulHistory:
    """The database dies between the delivery and the record of it, `deaths` times: what SIGKILL looks like here."""

    def __init__(self, history: History, deaths: int) -> None:
        self._history = history
        self._deaths = deaths

    def pending(self, sink: str, *, limit: int, now_s: float) -> tuple[Delivery, ...]:
        return self._history.pending(sink, limit=limit, now_s=now_s)

    def settle(self, attempts: Sequence[Attempt], *, now_s: float) -> None:
        if self._deaths:
            self._deaths -= 1
            raise StoreUnavailable("The database is locked.")
        self._history.settle(attempts, now_s=now_s)


async def test_what_was_not_recorded_is_sent_again_under_the_same_id(history: History) -> None:
    """A row leaves only after the sink took it *and* that was committed: twice is allowed, never is not."""
    clock, reports = VirtualClock(), []
    sink = ScriptedSink("a", clock)
    firing, _ = transitions(1)
    commit(history, [firing], ["a"])
    outbox = Outbox(ForgetfulHistory(history, deaths=2), [sink], clock, report=reports.append)
    for _ in range(3):
        await outbox.flush()
    assert sink.taken == [firing.event_id] * 3
    assert [report.outcome for report in reports] == [
        Outcome.STORE_UNAVAILABLE,
        Outcome.STORE_UNAVAILABLE,
        Outcome.DELIVERED,
    ]
    assert history.backlog() == ()


async def test_a_fault_in_a_sink_is_reported_and_kept_from_the_others(history: History) -> None:
    """A bug (here a KeyError) postpones its event, names its class and no value, and the other events go on."""
    clock, reports = VirtualClock(), []
    bad, good = transitions(1)[0], transitions(2)[0]
    sink = ScriptedSink("a", clock, lambda event_id: KeyError("s3cret") if event_id == bad.event_id else None)
    commit(history, [bad, good], ["a"])
    await outbox_for(history, sink, reports=reports).flush()
    assert sink.taken == [good.event_id]
    (message,) = [report.message for report in reports if report.outcome is Outcome.POSTPONED]
    assert "KeyError" in message
    assert "s3cret" not in message


async def test_a_clock_set_back_does_not_lock_rows_away(history: History) -> None:
    """Rows postponed by a clock that was a day ahead are due when it is set right."""
    clock = VirtualClock(NOW_S + 86_400)
    sink = ScriptedSink("a", clock, down())
    commit(history, [transitions(1)[0]], ["a"])
    outbox = outbox_for(history, sink)
    await outbox.flush()
    clock.time_s, sink.behaviour = NOW_S, lambda _: None
    assert await outbox.flush()
    assert len(sink.taken) == 1


async def test_flush_says_whether_all_was_taken(history: History) -> None:
    """A command that must not end before its events are out can rely on the answer."""
    clock = VirtualClock()
    commit(history, [transitions(1)[0]], ["a", "b"])
    up, away = ScriptedSink("a", clock), ScriptedSink("b", clock, down())
    assert not await outbox_for(history, up, away).flush()
    assert len(up.taken) == 1


async def test_closing_closes_every_sink(history: History) -> None:
    """No connection is left open."""
    clock = VirtualClock()
    sinks = ScriptedSink("a", clock), ScriptedSink("b", clock)
    await outbox_for(history, *sinks).close()
    assert [sink.closed for sink in sinks] == [1, 1]


def test_a_sink_named_twice_gets_one_row() -> None:
    """Default sinks and the detector's own may overlap; nobody is paged twice for that."""
    firing, _ = transitions(1)
    rows = deliveries(firing, {"id": firing.event_id}, sinks=["a", "b", "a"], created_s=NOW_S)
    assert Counter(row.sink for row in rows) == {"a": 1, "b": 1}
    assert {(row.event_id, row.kind, row.sequence) for row in rows} == {(firing.event_id, Kind.FIRING, 1)}
