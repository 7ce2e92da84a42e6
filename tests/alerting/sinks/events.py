"""Events as the engine writes them, and the patience of the outbox, for the tests of sinks."""

from __future__ import annotations

import asyncio
from typing import Any

from foreshock.alerting.event import Evidence, ModelIdentity, RangeQuery, cloud_event
from foreshock.alerting.sinks.base import Sink
from foreshock.alerting.state import AlertPolicy, Transition, advance
from foreshock.core.errors import SinkUnavailable
from foreshock.core.verdicts import Anomalous, Contribution, Judgement, Normal, Subject

AT_S = 1_700_000_000
EVIDENCE = Evidence(
    features={"pool_wait.mean": 240.0},
    model=ModelIdentity("v2.1.0", "v2.1.0-r3", "a" * 64),
    training_window=(AT_S - 604_800, AT_S),
    queries=(RangeQuery("pool_wait", "avg(pool_wait)", AT_S - 3_600, AT_S, 60),),
    summary="pool_wait is 6 times its usual value",
    relations=("latency no longer follows queue depth",),
)
CONTRIBUTIONS = (Contribution("pool_wait", 0.75), Contribution("latency", 0.25))


def transitions(
    number: int = 1, *, namespace: str = "shop", severity: str = "critical"
) -> tuple[Transition, Transition]:
    """Firing and resolved of the incident of one of many detectors."""
    subject, policy = Subject(namespace, f"detector-{number}"), AlertPolicy(severity, 0, 0, 60)
    state, firing = advance(None, Judgement(subject, AT_S, Anomalous(3.5), CONTRIBUTIONS), policy, cluster="tests")
    _, resolved = advance(state, Judgement(subject, AT_S + 60, Normal(0.25)), policy, cluster="tests")
    return firing[0], resolved[0]


def event(transition: Transition, evidence: Evidence = EVIDENCE) -> dict[str, Any]:
    return cloud_event(transition, evidence, cluster="tests", service="payment-api")


def firing_and_resolved(number: int = 1, *, namespace: str = "shop") -> tuple[dict[str, Any], dict[str, Any]]:
    firing, resolved = transitions(number, namespace=namespace)
    return event(firing), event(resolved)


async def patiently(sink: Sink, sent: dict[str, Any]) -> None:
    """As the outbox does: again until it is taken, for 30 s."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await sink.send(sent, event_id=sent["id"])
            except SinkUnavailable:
                await asyncio.sleep(0.1)
