"""Events on a real API server: one for each detector and reason, whoever writes it, with no more rights than needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.alerting.sinks.events import firing_and_resolved
from tests.app.hurried import HurriedClock, until
from tests.servers.kubernetes import ControlPlane

from foreshock.alerting.sinks.kubernetes_event import KubernetesEventSettings, KubernetesEventSink
from foreshock.core.errors import SinkRejected
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.events import BURST, REFILL_S, Events, IncidentEvents
from foreshock.operator.reconcile import Said
from foreshock.operator.resources import EVENTS, Seen, seen

SAID = Said("Warning", "NoData", "The query has returned nothing so far.")


@pytest.fixture
def account(kubernetes: ControlPlane, namespace: str) -> Path:
    """Who may create and patch Events, and read none: what the chart gives the operator."""
    kubernetes.kubectl("create", "role", "writer", "--verb=create,patch", "--resource=events", "-n", namespace)
    kubernetes.kubectl("create", "rolebinding", "writer", "--role=writer", f"--user=w-{namespace}", "-n", namespace)
    return kubernetes.user(f"w-{namespace}")


def _owner(namespace: str) -> Seen:
    metadata = {"name": "checkout", "namespace": namespace, "uid": "u-1", "generation": 1, "resourceVersion": "1"}
    return seen({"metadata": metadata, "spec": {"target_service": "checkout", "prometheus_query": "up"}}, None)


class Writer:
    """One process that says events, and what became of them."""

    def __init__(self, api: ApiServer) -> None:
        self.clock, self.counts = HurriedClock(), Counter[str]()
        self.events = Events(api, self.clock, lambda _, outcome: self.counts.update([outcome]))

    async def say(self, owner: Seen, times: int) -> None:
        task, before = asyncio.create_task(self.events.run()), self.counts.total()
        try:
            for _ in range(times):
                self.events.say(owner, SAID)
            await until(lambda: self.counts.total() >= before + times)
        finally:
            task.cancel()


async def test_repeats_are_counted_across_processes(kubernetes: ControlPlane, namespace: str, account: Path) -> None:
    """Three by one process and two by the next are one Event with the count five."""
    async with ApiServer(load_kubeconfig(account)) as api:
        first, second = Writer(api), Writer(api)
        await first.say(_owner(namespace), 3)
        await second.say(_owner(namespace), 2)
        assert first.counts + second.counts == {"written": 5}
    found: list[dict[str, Any]] = kubernetes.request("GET", EVENTS.path(namespace))["items"]
    assert [(each["reason"], each["count"], each["type"]) for each in found] == [("NoData", 5, "Warning")]


async def test_a_detector_that_talks_too_much_is_throttled(namespace: str, account: Path) -> None:
    """Ten at once, then one every five minutes; what is left out is counted."""
    async with ApiServer(load_kubeconfig(account)) as api:
        writer = Writer(api)
        await writer.say(_owner(namespace), BURST + 5)
        assert writer.counts == {"written": BURST, "throttled": 5}
        writer.clock.skip(REFILL_S)
        await writer.say(_owner(namespace), 3)
        assert writer.counts == {"written": BURST + 1, "throttled": 7}


async def test_a_refused_event_is_counted_and_holds_up_nothing(
    kubernetes: ControlPlane, namespace: str, account: Path
) -> None:
    """Row 23: without the right nothing waits; what is said when it is back is written."""
    async with ApiServer(load_kubeconfig(kubernetes.user(f"nobody-{namespace}"))) as api:
        writer = Writer(api)
        await writer.say(_owner(namespace), 3)
        assert writer.counts == {"refused": 3}
        sink = KubernetesEventSink(KubernetesEventSettings(name="events"), IncidentEvents(api, lambda *_: "u-1"))
        firing, _ = firing_and_resolved(namespace=namespace)
        with pytest.raises(SinkRejected, match="Sink 'events': the API server refuses an Event"):
            await sink.send(firing, event_id=firing["id"])
    async with ApiServer(load_kubeconfig(account)) as api:
        sink = KubernetesEventSink(KubernetesEventSettings(name="events"), IncidentEvents(api, lambda *_: "u-1"))
        await sink.send(firing, event_id=firing["id"])
    (found,) = kubernetes.request("GET", EVENTS.path(namespace))["items"]
    assert (found["reason"], found["type"]) == ("AnomalyFiring", "Warning")
    assert found["involvedObject"]["uid"] == "u-1"
    assert found["message"] == "pool_wait is 6 times its usual value"
