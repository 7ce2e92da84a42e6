"""What every sink must pass: the suite walks `SINKS`, so a new sink is tested before anyone writes a test for it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from pydantic import TypeAdapter
from tests.alerting.sinks.receiver import Receiver

from foreshock.alerting.sinks import SINKS, SinkSettings, build
from foreshock.alerting.sinks.base import BaseSinkSettings, Sink
from foreshock.core.errors import SinkRejected, SinkUnavailable

CANARY = "canary-7f3a9c"
EVENT = {"specversion": "1.0", "id": "0123/firing/1", "data": {"service": "payment-api"}}


@dataclass
class World:
    """A sink with the receiver behind it: what it got so far, and ways to break it."""

    sink: Sink
    received_ids: Callable[[], list[str]]
    break_it: dict[str, Callable[[], Awaitable[None]]]  # each leaves the sink unable to deliver, for now
    settings: BaseSinkSettings


@asynccontextmanager
async def log_world() -> AsyncIterator[World]:
    stream = io.StringIO()
    settings = SINKS[0](name="out")
    lines: list[str] = []

    def received_ids() -> list[str]:
        return [json.loads(line)["id"] for line in (lines or stream.getvalue().splitlines())]

    async def close_stream() -> None:
        lines.extend(stream.getvalue().splitlines())
        stream.close()

    yield World(build(settings, stream=stream), received_ids, {"closed stream": close_stream}, settings)


@asynccontextmanager
async def webhook_world() -> AsyncIterator[World]:
    receiver = Receiver(echo=True)
    async with receiver.listening(f"/{CANARY}") as server:
        settings = SINKS[1](name="hook", url=server.url, secret=CANARY, allow_private=True, timeout_s=0.5)

        async def answer_503() -> None:
            receiver.status = 503

        async def hang() -> None:
            receiver.hang = asyncio.Event()

        async def cut() -> None:
            receiver.cut = True

        sink = build(settings)
        try:
            yield World(
                sink,
                lambda: [request.headers["Idempotency-Key"] for request in receiver.requests],
                {"503": answer_503, "time-out": hang, "connection cut": cut},
                settings,
            )
        finally:
            await sink.close()


WORLDS: dict[str, Callable[[], AbstractAsyncContextManager[World]]] = {"log": log_world, "webhook": webhook_world}
TYPES = [settings.model_fields["type"].default for settings in SINKS]
BREAKAGES = [("log", "closed stream"), ("webhook", "503"), ("webhook", "time-out"), ("webhook", "connection cut")]


def test_every_sink_has_a_world_here() -> None:
    """A sink that is added to `SINKS` cannot escape this suite."""
    assert set(TYPES) == set(WORLDS) == {name for name, _ in BREAKAGES}
    assert len(set(TYPES)) == len(SINKS)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_sink_is_chosen_by_its_type(type_name: str) -> None:
    """The settings file's `type` alone decides which settings are parsed, and an unknown one is refused."""
    adapter = TypeAdapter(SinkSettings)
    extra = {"url": "https://example.org/x"} if type_name == "webhook" else {}
    parsed = adapter.validate_python({"name": "one", "type": type_name, **extra})
    assert isinstance(parsed, SINKS[TYPES.index(type_name)])
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        adapter.validate_python({"name": "one", "type": "carrier-pigeon"})


@pytest.mark.parametrize("type_name", TYPES)
async def test_sent_twice_carries_one_identity(type_name: str) -> None:
    """A receiver that drops what it has seen pages once, however often the outbox sends."""
    async with WORLDS[type_name]() as world:
        await world.sink.send(EVENT, event_id=EVENT["id"])
        await world.sink.send(EVENT, event_id=EVENT["id"])
        assert world.received_ids() == [EVENT["id"]] * 2


@pytest.mark.parametrize("type_name", TYPES)
async def test_resolved_comes_after_firing(type_name: str) -> None:
    """What is awaited in order arrives in order."""
    async with WORLDS[type_name]() as world:
        for transition in ("firing/1", "resolved/2"):
            await world.sink.send(EVENT | {"id": transition}, event_id=transition)
        assert world.received_ids() == ["firing/1", "resolved/2"]


@pytest.mark.parametrize("type_name", TYPES)
async def test_a_large_event_is_taken(type_name: str) -> None:
    """The largest event that `cloud_event` writes, just below 1 MB, is not cut by the sink."""
    async with WORLDS[type_name]() as world:
        await world.sink.send(EVENT | {"data": "x" * 900_000}, event_id=EVENT["id"])
        assert world.received_ids() == [EVENT["id"]]


@pytest.mark.parametrize(("type_name", "breakage"), BREAKAGES)
async def test_a_broken_receiver_is_unavailable_and_no_secret_leaks(
    type_name: str, breakage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks is `SinkUnavailable`; neither error, traceback, log nor repr holds the URL's path or the secret."""
    caplog.set_level(logging.DEBUG)
    async with WORLDS[type_name]() as world:
        await world.break_it[breakage]()
        with pytest.raises(SinkUnavailable) as caught:
            await world.sink.send(EVENT, event_id=EVENT["id"])
        logging.getLogger("test").error("as an operator sees it", exc_info=caught.value)
        frames = traceback.TracebackException.from_exception(caught.value, capture_locals=False)
        shown = [str(caught.value), "".join(frames.format()), repr(world.sink), repr(world.settings), caplog.text]
        # the access log of the test's own server names the path; it is not ours
        ours = [line for text in shown for line in text.splitlines() if "aiohttp.access" not in line]
        assert CANARY not in "\n".join(ours)
        assert world.sink.name in str(caught.value)


def expected(status: int) -> type[Exception] | None:
    """The retry table: what a receiver's answer means for the event."""
    if status < 300:
        return None
    return SinkUnavailable if status >= 500 or status in {408, 425, 429} else SinkRejected


async def test_the_webhook_retries_exactly_what_may_help() -> None:
    """2xx is delivered; 408, 425, 429 and 5xx may be tried again after `Retry-After`; every other status never."""
    async with Receiver(headers={"Retry-After": "3"}, echo=True).listening(f"/{CANARY}") as receiver:
        sink = build(SINKS[1](name="hook", url=receiver.url, secret=CANARY, allow_private=True))
        wrong = {}
        for status in range(200, 600):
            receiver.status, heard = status, None
            try:
                await sink.send(EVENT, event_id=EVENT["id"])
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
