"""What every sink must pass: the suite walks `SINKS`, so a new sink is tested before anyone writes a test for it.

Each stands before its real receiver, those on a network behind a proxy that lets the connection fail as it can.
"""

from __future__ import annotations

import io
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import KafkaError
from lightkube import KubeConfig
from pydantic import TypeAdapter
from tests.alerting.sinks.events import EVIDENCE, event, firing_and_resolved, patiently, transitions
from tests.alerting.sinks.receiver import Receiver
from tests.servers.alertmanager import Alertmanager
from tests.servers.fault_proxy import (
    Fault,
    FaultProxy,
    black_hole,
    cut_after,
    delayed,
    garbage,
    half_close,
    passing,
    reset,
)
from tests.servers.kafka import Kafka
from tests.servers.kubernetes import ControlPlane, new_namespace

from foreshock.alerting.sinks import SINKS, SinkSettings, build
from foreshock.alerting.sinks.base import BaseSinkSettings, Sink
from foreshock.app.clock import SystemClock
from foreshock.core.errors import InvalidSettings, SinkRejected, SinkUnavailable
from foreshock.operator.api import ApiServer
from foreshock.operator.events import IncidentEvents
from foreshock.operator.resources import EVENTS

CANARY = "canary-7f3a9c"
TYPES = [settings.model_fields["type"].default for settings in SINKS]
LOG, WEBHOOK, KAFKA, ALERTMANAGER, KUBERNETES = SINKS
FAULTS: dict[str, Fault] = {
    "never an answer": black_hole,
    "reset": reset,
    "answer cut short": cut_after(10),
    "half-closed": half_close,
    "garbage": garbage(b"\x00\xff\x00\xff garbage \r\n\r\n" * 50),
}
BREAKAGES = [
    ("log", "closed stream"),
    *((one, fault) for one in TYPES if one != "log" for fault in [*FAULTS, "refused"]),
]


@dataclass
class World:
    """A sink with the receiver behind it."""

    sink: Sink
    settings: BaseSinkSettings
    received_ids: Callable[[], list[str]]  # of the events that the receiver has, in its order where it has one
    namespace: str = "shop"
    proxy: FaultProxy | None = None
    close_stream: Callable[[], None] = lambda: None
    keeps_ends: bool = True  # Alertmanager shows no more what has ended

    async def break_it(self, breakage: str) -> None:
        """Leave the sink unable to deliver, for now."""
        if self.proxy is None:
            self.close_stream()
        elif breakage == "refused":
            await self.proxy.refuse()
        else:
            self.proxy.fault = FAULTS[breakage]
            await self.proxy.drop_connections()

    async def mend(self, breakage: str) -> None:
        assert self.proxy is not None
        self.proxy.fault = passing
        if breakage == "refused":
            await self.proxy.listen()
        await self.proxy.drop_connections()


@asynccontextmanager
async def closing(sink: Sink) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await sink.close()


@asynccontextmanager
async def log_world(_: pytest.FixtureRequest) -> AsyncIterator[World]:
    stream = io.StringIO()
    settings = LOG(name="out")
    lines: list[str] = []

    def received_ids() -> list[str]:
        return [json.loads(line)["id"] for line in (lines or stream.getvalue().splitlines())]

    def close_stream() -> None:
        lines.extend(stream.getvalue().splitlines())
        stream.close()

    yield World(build(settings, SystemClock(), stream=stream), settings, received_ids, close_stream=close_stream)


@asynccontextmanager
async def webhook_world(_: pytest.FixtureRequest) -> AsyncIterator[World]:
    receiver = Receiver(echo=True)
    async with receiver.listening(f"/{CANARY}") as server, FaultProxy(server.url) as proxy:
        url = f"{proxy.url}/{CANARY}"
        settings = WEBHOOK(name="hook", url=url, secret=CANARY, allow_private=True, timeout_s=2)
        sink = build(settings, SystemClock())
        ids = lambda: [request.headers["Idempotency-Key"] for request in receiver.requests]  # noqa: E731
        async with closing(sink):
            yield World(sink, settings, ids, proxy=proxy)


@asynccontextmanager
async def kafka_world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    kafka: Kafka = request.getfixturevalue("kafka")
    topic = kafka.new_topic()
    async with kafka.proxy() as proxy:
        settings = KAFKA(name="bus", bootstrap_servers=proxy.url.removeprefix("http://"), topic=topic, timeout_s=2)
        sink = build(settings, SystemClock())
        await patiently(sink, firing_and_resolved(99)[0])  # the first record waits for the producer's identity
        others = firing_and_resolved(99)[0]["id"]
        ids = lambda: [one.headers["event_id"] for one in kafka.records(topic) if one.headers["event_id"] != others]  # noqa: E731
        async with closing(sink):
            yield World(sink, settings, ids, proxy=proxy)


@asynccontextmanager
async def alertmanager_world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    alertmanager: Alertmanager = request.getfixturevalue("alertmanager")
    namespace = f"of-{time.monotonic_ns()}"  # a label, so that alerts of other tests are none of ours
    async with FaultProxy(alertmanager.url) as proxy:
        login = {"username": "foreshock", "password": CANARY}
        settings = ALERTMANAGER(name="oncall", urls=[f"{proxy.url}/"], basic_auth=login, timeout_s=2)
        sink = build(settings, SystemClock())

        def ids() -> list[str]:
            ours = [one for one in alertmanager.alerts() if one["labels"]["namespace"] == namespace]
            return [one["annotations"]["event_id"] for one in ours]

        async with closing(sink):
            yield World(sink, settings, ids, namespace, proxy, keeps_ends=False)


@asynccontextmanager
async def kubernetes_world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    plane: ControlPlane = request.getfixturevalue("kubernetes")
    namespace = new_namespace(plane)
    async with FaultProxy(plane.url) as proxy:
        document = json.loads(plane.kubeconfig.read_text())
        document["clusters"][0]["cluster"]["server"] = proxy.url.replace("http:", "https:")
        single = KubeConfig.from_dict(document, Path(plane.kubeconfig)).get()
        assert single is not None
        async with ApiServer(single, timeout_s=2) as api:
            settings = KUBERNETES(name="events")
            sink = build(settings, SystemClock(), event_api=IncidentEvents(api, lambda *_: "u-1"))

            def ids() -> list[str]:
                found = plane.request("GET", EVENTS.path(namespace))["items"]
                found.sort(key=lambda one: int(one["metadata"]["resourceVersion"]))
                known = {
                    one["id"].split("/")[0][:16]: one["data"]["incident"]
                    for one in firing_and_resolved(namespace=namespace)
                }
                names = [one["metadata"]["name"].rsplit(".", 2)[1:] for one in found]
                return [f"{known[start]}/{what}/{1 if what == 'firing' else 2}" for start, what in names]

            yield World(sink, settings, ids, namespace, proxy)


WORLDS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[World]]] = {
    "log": log_world,
    "webhook": webhook_world,
    "kafka": kafka_world,
    "alertmanager": alertmanager_world,
    "kubernetes_event": kubernetes_world,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "webhook": {"url": "https://example.org/x"},
    "kafka": {"bootstrap_servers": "kafka-0:9092, kafka-1:9092", "topic": "anomalies"},
    "alertmanager": {"urls": ["http://am-0:9093", "http://am-1:9093"]},
}


def test_every_sink_has_a_world_here() -> None:
    """A sink that is added to `SINKS` cannot escape this suite."""
    assert set(TYPES) == set(WORLDS) == {name for name, _ in BREAKAGES}
    assert len(set(TYPES)) == len(SINKS)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_sink_is_chosen_by_its_type(type_name: str) -> None:
    """The settings file's `type` alone decides which settings are parsed, and an unknown one is refused."""
    adapter = TypeAdapter(SinkSettings)
    parsed = adapter.validate_python({"name": "one", "type": type_name, **REQUIRED.get(type_name, {})})
    assert isinstance(parsed, SINKS[TYPES.index(type_name)])
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        adapter.validate_python({"name": "one", "type": "carrier-pigeon"})


def test_kubernetes_events_need_an_api_server() -> None:
    """`foreshock run` has none, and says so in a sentence instead of dropping events."""
    with pytest.raises(InvalidSettings, match="only foreshock operator can"):
        build(KUBERNETES(name="events"), SystemClock())


@pytest.mark.parametrize("type_name", TYPES)
async def test_sent_twice_carries_one_identity(type_name: str, request: pytest.FixtureRequest) -> None:
    """A receiver that drops what it has seen pages once, however often the outbox sends."""
    async with WORLDS[type_name](request) as world:
        firing, _ = firing_and_resolved(namespace=world.namespace)
        await world.sink.send(firing, event_id=firing["id"])
        await world.sink.send(firing, event_id=firing["id"])
        once = type_name in {"alertmanager", "kubernetes_event"}  # they drop it themselves
        assert world.received_ids() == [firing["id"]] * (1 if once else 2)


@pytest.mark.parametrize("type_name", TYPES)
async def test_resolved_comes_after_firing(type_name: str, request: pytest.FixtureRequest) -> None:
    """What is awaited in order arrives in order."""
    async with WORLDS[type_name](request) as world:
        firing, resolved = firing_and_resolved(namespace=world.namespace)
        await world.sink.send(firing, event_id=firing["id"])
        assert world.received_ids() == [firing["id"]]
        await world.sink.send(resolved, event_id=resolved["id"])
        assert world.received_ids() == ([firing["id"], resolved["id"]] if world.keeps_ends else [])


@pytest.mark.parametrize("type_name", TYPES)
async def test_a_large_event_is_taken(type_name: str, request: pytest.FixtureRequest) -> None:
    """The largest event that `cloud_event` writes, just below 1 MB, is taken, cut to the receiver's own limits."""
    async with WORLDS[type_name](request) as world:
        firing, _ = transitions(namespace=world.namespace)
        much = replace(EVIDENCE, summary="é" * 5_000, relations=("ü" * 600,) * 30, changes=("ß" * 600,) * 30)
        largest = event(firing, much)
        largest["data"]["queries"] = [{"query": "x" * 4_000}] * 220
        assert 900_000 < len(json.dumps(largest, ensure_ascii=False).encode()) < 1_000_000
        await world.sink.send(largest, event_id=largest["id"])
        assert world.received_ids() == [largest["id"]]


@pytest.mark.parametrize(("type_name", "breakage"), BREAKAGES)
async def test_a_broken_receiver_is_unavailable_and_no_secret_leaks(
    type_name: str, breakage: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """What breaks is `SinkUnavailable`; neither error, traceback, log nor repr holds a secret; mended, it goes on."""
    caplog.set_level(logging.DEBUG)
    async with WORLDS[type_name](request) as world:
        firing, _ = firing_and_resolved(namespace=world.namespace)
        await world.break_it(breakage)
        with pytest.raises(SinkUnavailable) as caught:
            await world.sink.send(firing, event_id=firing["id"])
        logging.getLogger("test").error("as an operator sees it", exc_info=caught.value)
        frames = traceback.TracebackException.from_exception(caught.value, capture_locals=False)
        shown = [str(caught.value), "".join(frames.format()), repr(world.sink), repr(world.settings), caplog.text]
        # the access log of the test's own server names the path; it is not ours
        ours = [line for text in shown for line in text.splitlines() if "aiohttp.access" not in line]
        assert CANARY not in "\n".join(ours)
        assert world.sink.name in str(caught.value)
        if world.proxy is not None:
            await world.mend(breakage)
            await patiently(world.sink, firing)
            assert set(world.received_ids()) == {firing["id"]}


@pytest.mark.parametrize("type_name", [one for one in TYPES if one != "log"])
async def test_a_slow_receiver_is_waited_for(type_name: str, request: pytest.FixtureRequest) -> None:
    """A delay below the time-out is no failure."""
    async with WORLDS[type_name](request) as world:
        assert world.proxy is not None
        world.proxy.fault = delayed(0.2)
        await world.proxy.drop_connections()
        firing, _ = firing_and_resolved(namespace=world.namespace)
        send = patiently if type_name == "kafka" else lambda sink, sent: sink.send(sent, event_id=sent["id"])
        await send(world.sink, firing)
        assert set(world.received_ids()) == {firing["id"]}


def expected(status: int) -> type[Exception] | None:
    """The retry table: what a receiver's answer means for the event."""
    if status < 300:
        return None
    return SinkUnavailable if status >= 500 or status in {408, 425, 429} else SinkRejected


def http_settings(kind: str, url: str) -> BaseSinkSettings:
    if kind == "alertmanager":
        return ALERTMANAGER(name="oncall", urls=[url], basic_auth={"username": "u", "password": CANARY})
    return WEBHOOK(name="hook", url=url, secret=CANARY, allow_private=True, template=kind)


@pytest.mark.parametrize("kind", ["cloudevent", "slack", "pagerduty", "alertmanager"])
async def test_http_sinks_retry_exactly_what_may_help(kind: str) -> None:
    """2xx is delivered; 408, 425, 429 and 5xx may be tried again after `Retry-After`; every other status never."""
    firing, _ = firing_and_resolved()
    async with Receiver(headers={"Retry-After": "3"}, echo=True).listening(f"/{CANARY}") as receiver:
        sink = build(http_settings(kind, receiver.url), SystemClock())
        wrong = {}
        for status in range(200, 600):
            receiver.status, heard = status, None
            try:
                await sink.send(firing, event_id=firing["id"])
            except (SinkUnavailable, SinkRejected) as error:
                heard = error
            understood = (type(heard) if heard else None) is expected(status)
            patient = not isinstance(heard, SinkUnavailable) or heard.retry_after_s == 3.0
            said = heard is None or (str(status) in str(heard) and CANARY not in str(heard))
            if not (understood and patient and said):
                wrong[status] = heard
        await sink.close()
    assert wrong == {}
    assert len(receiver.requests) == 400


def test_every_error_of_the_http_library_is_mapped() -> None:
    """What aiohttp can raise while it sends is a ClientError or an OSError: an exception of a new kind fails here."""
    errors = [
        thing
        for name in dir(aiohttp)
        if isinstance(thing := getattr(aiohttp, name), type) and issubclass(thing, Exception)
    ]
    outside = {error.__name__ for error in errors if not issubclass(error, (aiohttp.ClientError, OSError))}
    # of multipart bodies, streams that are read and websockets: a POST whose answer is not read meets none of them
    harmless = {"BadContentDispositionHeader", "BadContentDispositionParam", "EofStream", "WSMessageTypeError"}
    assert outside <= harmless | {"WebSocketError"}


async def test_kafka_retries_what_may_help(kafka: Kafka) -> None:
    """A topic that is missing may be made, a record that is too large is refused for good; both name the reason."""
    firing, _ = firing_and_resolved()
    settings = KAFKA(name="bus", bootstrap_servers=kafka.bootstrap_servers, topic="nobody-made-it", timeout_s=10)
    sink = build(settings, SystemClock())
    with pytest.raises(SinkUnavailable, match="UNKNOWN_TOPIC"):
        await sink.send(firing, event_id=firing["id"])
    await sink.close()
    sink = build(settings.model_copy(update={"topic": kafka.new_topic()}), SystemClock())
    with pytest.raises(SinkRejected, match=KafkaError(KafkaError.MSG_SIZE_TOO_LARGE).name()):
        await sink.send(firing | {"more": "x" * 2_000_000}, event_id=firing["id"])
    await sink.close()
