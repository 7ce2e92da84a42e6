"""The `alertmanager` sink with the outbox, before real Alertmanagers: what fires is there, whoever was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.alerting.sinks.events import event, transitions
from tests.alerting.sinks.receiver import Receiver
from tests.app.hurried import HurriedClock, until
from tests.servers.alertmanager import Alertmanager, NewAlertmanager
from tests.servers.fault_proxy import FaultProxy, black_hole, passing

from foreshock.alerting.outbox import REPEAT_ENDED_S, Outbox, Outcome, Report, deliveries
from foreshock.alerting.sinks.alertmanager import AlertmanagerSettings, AlertmanagerSink
from foreshock.alerting.state import Kind, Transition
from foreshock.core.clock import Clock
from foreshock.store.history import History
from foreshock.store.records import CycleChanges, Incident


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(f"sqlite:///{tmp_path}/foreshock.db")
    yield history
    history.close()


async def tell(history: History, clock: Clock, *told: Transition) -> None:
    """Commit as the engine does."""
    now_s = clock.now_s()
    incidents = tuple(
        Incident(
            one.incident_id, one.subject, "svc", one.severity, one.started_at_s, one.peak.score, one.kind,
            None if one.kind is Kind.FIRING else one.at_s,
        )
        for one in told
    )  # fmt: skip
    rows = [row for one in told for row in deliveries(one, event(one), sinks=["oncall"], created_s=now_s)]
    await asyncio.to_thread(history.commit_cycle, CycleChanges(now_s, incidents=incidents, outbox=tuple(rows)))


@asynccontextmanager
async def running(
    history: History, clock: Clock, urls: Sequence[str], *, resend_s: float = 0.2, reports: list[Report] | None = None
) -> AsyncIterator[Outbox]:
    """The outbox with one sink, until the block ends."""
    sink = AlertmanagerSink(AlertmanagerSettings(name="oncall", urls=urls, timeout_s=0.5, resend_s=resend_s), clock)
    heard: Callable[[Report], None] = (lambda _: None) if reports is None else reports.append
    outbox = Outbox(history, [sink], clock, report=heard)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await outbox.close()


def shows(alertmanager: Alertmanager, *told: Transition) -> Callable[[], bool]:
    return lambda: alertmanager.firing() == {one.incident_id for one in told}


async def test_a_restarted_alertmanager_knows_again_what_fires(
    history: History, new_alertmanager: NewAlertmanager
) -> None:
    """Row 21: it keeps nothing; the re-send brings back what fires, and not what has ended."""
    server, clock = new_alertmanager(), HurriedClock()
    (first, ended), (second, _) = transitions(1), transitions(2)
    async with running(history, clock, [server.url]) as outbox:
        await tell(history, clock, first, second)
        outbox.notify()
        await until(shows(server, first, second))
        await tell(history, clock, ended)
        outbox.notify()
        await until(shows(server, second))
        server.kill()
        server.restart()
        assert server.alerts() == []
        await until(shows(server, second))


async def test_after_our_own_restart_what_fires_is_sent_again(
    history: History, new_alertmanager: NewAlertmanager
) -> None:
    """Both are restarted: nothing is pending any more, and the database alone says what stands."""
    server, clock = new_alertmanager(), HurriedClock()
    firing, _ = transitions()
    async with running(history, clock, [server.url]) as outbox:
        await tell(history, clock, firing)
        outbox.notify()
        await until(shows(server, firing))
    server.kill()
    server.restart()
    assert history.backlog() == ()
    async with running(history, clock, [server.url]):
        await until(shows(server, firing))


async def test_a_dead_peer_delays_no_other_and_is_told_everything_later(
    history: History, alertmanager: Alertmanager, new_alertmanager: NewAlertmanager
) -> None:
    """Row 21: one peer never answers; the other has each alert at once, and after the mending both have all."""
    other, clock, n_alerts = new_alertmanager(), HurriedClock(), 20
    told = [transitions(100 + number)[0] for number in range(n_alerts)]
    async with FaultProxy(other.url) as proxy:
        proxy.fault = black_hole
        async with running(history, clock, [proxy.url, alertmanager.url]) as outbox:
            began_s = asyncio.get_running_loop().time()
            for one in told:
                await tell(history, clock, one)
                outbox.notify()
            wanted = {one.incident_id for one in told}
            await until(lambda: wanted <= alertmanager.firing())
            assert asyncio.get_running_loop().time() - began_s < n_alerts * 0.5  # the time-out for each of them
            await until(lambda: history.backlog() == ())
            assert other.alerts() == []
            proxy.fault = passing
            await proxy.drop_connections()
            await until(shows(other, *told))


async def test_while_no_peer_answers_the_outbox_holds(history: History, new_alertmanager: NewAlertmanager) -> None:
    """Row 21: nothing is lost in an outage, the end included, and each failure is told."""
    server, clock, reports = new_alertmanager(), HurriedClock(), list[Report]()
    (ended, resolved), (stays, _) = transitions(1), transitions(2)
    server.kill()
    async with running(history, clock, [server.url], reports=reports) as outbox:
        await tell(history, clock, ended, stays)
        await tell(history, clock, resolved)
        outbox.notify()
        await until(lambda: any(one.outcome is Outcome.POSTPONED for one in reports))
        assert [backlog.rows for backlog in history.backlog()] == [3]
        server.restart()
        clock.skip(61.0)  # the longest back-off
        outbox.notify()
        await until(lambda: history.backlog() == ())
        await until(shows(server, stays))


async def test_an_end_is_sent_again_for_fifteen_minutes(history: History) -> None:
    """As Prometheus does, for receivers that were away; what fires is sent for ever."""
    receiver, clock = Receiver(), HurriedClock()
    (ended, resolved), (stays, _) = transitions(1), transitions(2)
    async with receiver.listening("/") as server, running(history, clock, [server.url], resend_s=60.0) as outbox:

        def heard(one: Transition) -> int:
            return sum(one.event_id.encode() in request.body for request in receiver.requests)

        await tell(history, clock, ended, resolved, stays)
        outbox.notify()

        def after(step_s: float, what: Callable[[], bool]) -> Callable[[], bool]:
            """Time goes on at each look: a single leap could come just before the sink lies down to sleep."""
            return lambda: what() or bool(clock.skip(step_s))

        await until(lambda: heard(resolved) >= 1)
        await until(after(7.0, lambda: heard(resolved) >= 3 and heard(stays) >= 3))
        assert heard(ended) == 1
        clock.skip(REPEAT_ENDED_S)
        stood = heard(stays)
        await until(after(7.0, lambda: heard(stays) > stood + 1))  # one may have been on its way
        ends, stood = heard(resolved), heard(stays)
        await until(after(7.0, lambda: heard(stays) > stood))
        assert heard(resolved) == ends


async def test_a_refused_alert_is_told_once_and_never_repeated(history: History) -> None:
    """400 is for good: the outbox counts it, and the re-send leaves it alone."""
    receiver, clock, reports = Receiver(status=400), HurriedClock(), list[Report]()
    firing, _ = transitions()
    async with (
        receiver.listening("/") as server,
        running(history, clock, [server.url], resend_s=0.01, reports=reports) as outbox,
    ):
        await tell(history, clock, firing)
        outbox.notify()
        await until(lambda: bool(reports))
        for _ in range(5):
            clock.skip(10.0)
            await asyncio.sleep(0)
        assert [one.outcome for one in reports] == [Outcome.REJECTED]
        assert len(receiver.requests) == 1
    assert history.standing("oncall", ended_after_s=0.0, after="", limit=10) == ()


async def test_one_notification_for_what_was_sent_many_times(
    history: History, new_alertmanager: NewAlertmanager
) -> None:
    """Re-sends page nobody: Alertmanager tells its own receiver once that it fires and once that it is over."""
    pager, clock = Receiver(), HurriedClock()
    firing, resolved = transitions()
    async with pager.listening() as hook:
        server = new_alertmanager(webhook_url=hook.url)
        reports: list[Report] = []
        async with running(history, clock, [server.url], resend_s=0.05, reports=reports) as outbox:
            await tell(history, clock, firing)
            outbox.notify()
            await until(lambda: len(pager.requests) == 1)
            await tell(history, clock, resolved)
            outbox.notify()
            await until(lambda: len(pager.requests) == 2)
    assert b'"status":"firing"' in pager.requests[0].body
    assert b'"status":"resolved"' in pager.requests[1].body
    assert firing.incident_id.encode() in pager.requests[0].body
