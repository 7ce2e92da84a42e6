"""Rows 1 to 3: a datasource that is away, hung or answers in part is ignorance, of its own detectors alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from tests.engine.test_gather import AT_S, HONEST
from tests.servers.fault_proxy import Fault, FaultProxy, black_hole, reset, rewriting_body
from tests.servers.prometheus import LocalPrometheus

from foreshock.alerting.state import AlertPolicy, AlertState, Phase, advance
from foreshock.app.changes import Cohorts, watch_of
from foreshock.core.verdicts import Anomalous, Ignorance, Judgement, Subject
from foreshock.engine.cycle import Cycle, Summary
from foreshock.engine.gather import Gatherer
from foreshock.engine.watch import Watch
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.settings import Datasource
from foreshock.store.records import CycleChanges


class Ledger:
    """Keeps what was committed."""

    def __init__(self) -> None:
        self.committed: list[CycleChanges] = []

    def commit_cycle(self, changes: CycleChanges) -> None:
        self.committed.append(changes)


def _watch(source: Datasource, name: str, query: str = HONEST) -> Watch:
    manifest = {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"target_service": "s", "prometheus_query": query, "detection_window": "10m"},
    }
    return watch_of(AnomalyDetector.model_validate(manifest), source, Cohorts(), ("log",))


def _firing(name: str) -> AlertState:
    subject = Subject("shop", name)
    state, (firing,) = advance(
        None, Judgement(subject, AT_S - 600, Anomalous(3.0)), AlertPolicy("critical"), cluster="c"
    )
    assert firing.subject == subject
    return state


async def _judged(proxy: FaultProxy, watch_name: str, query: str = HONEST) -> tuple[Summary, AlertState, Ledger, Watch]:
    """One cycle of a detector whose alert fires."""
    source = Datasource.model_validate({"url": proxy.url, "timeout": 1})
    watch, ledger, state = _watch(source, watch_name, query), Ledger(), _firing(watch_name)
    states = {state.subject: state}
    async with PrometheusClient(source) as client:
        cycle = Cycle(Gatherer(client), ledger, states, cluster="c", external_labels={})
        summary = await cycle.run([(watch, AT_S)], AT_S)
    return summary, states[state.subject], ledger, watch


def _with_warning(body: bytes) -> bytes:
    return json.dumps(json.loads(body) | {"warnings": ["store-1 is away"]}).encode()


async def _refuse(proxy: FaultProxy) -> None:
    await proxy.refuse()


def _fault(fault: Fault) -> Callable[[FaultProxy], Awaitable[None]]:
    async def set_it(proxy: FaultProxy) -> None:
        proxy.fault = fault

    return set_it


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (_refuse, Ignorance.DATASOURCE_UNAVAILABLE),
        (_fault(black_hole), Ignorance.DATASOURCE_UNAVAILABLE),
        (_fault(reset), Ignorance.DATASOURCE_UNAVAILABLE),
    ],
    ids=["refused", "hung", "reset"],
)
async def test_a_firing_alert_outlives_a_datasource_that_cannot_be_trusted(
    prometheus: LocalPrometheus, break_it: Callable[[FaultProxy], Awaitable[None]], reason: Ignorance
) -> None:
    """Nothing is said but Inconclusive: no transition, the incident is the same, its timers stand still."""
    async with FaultProxy(prometheus.url) as proxy:
        await break_it(proxy)
        summary, state, ledger, watch = await _judged(proxy, "checkout")
    assert summary.failures[watch].reason is reason
    assert summary.verdicts["inconclusive"] == summary.verdicts.total() == 1
    assert summary.transitions == ()
    assert state.phase is Phase.FIRING
    assert state.inconclusive_since_s == AT_S
    assert all(not changes.outbox for changes in ledger.committed)
    assert state.incident == _firing("checkout").incident


async def test_a_partial_answer_is_marked_and_moves_no_alert(prometheus: LocalPrometheus) -> None:
    """Row 3: the server's own warning, as Thanos gives it, makes the window degraded: it ends nothing."""
    async with FaultProxy(prometheus.url) as proxy:
        proxy.fault = rewriting_body(_with_warning)
        source = Datasource.model_validate({"url": proxy.url})
        watch = _watch(source, "checkout")
        async with PrometheusClient(source) as client:
            gathered = await Gatherer(client).gather([(watch, AT_S)])
        assert watch in gathered.degraded
        summary, state, _, _ = await _judged(proxy, "checkout")
    assert summary.verdicts["inconclusive"] == summary.verdicts.total() == 1
    assert state.phase is Phase.FIRING


async def test_a_hung_datasource_delays_no_other(prometheus: LocalPrometheus) -> None:
    """Row 2: the healthy one is judged while the other still waits for its time-out."""
    async with FaultProxy(prometheus.url) as hung, FaultProxy(prometheus.url) as healthy:
        hung.fault = black_hole
        waiting = asyncio.create_task(_judged(hung, "slow"))
        _, _, _, watch = await _judged(healthy, "quick")
        assert not waiting.done()
        assert watch.failed_cycles == 0
        summary, _, _, watch = await waiting
        assert watch in summary.failures
