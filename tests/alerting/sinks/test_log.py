"""The log sink: one line an event, whatever the event holds."""

from __future__ import annotations

import asyncio
import io
import json

from foreshock.alerting.sinks.log import LogSettings, LogSink


async def test_each_event_is_one_line_of_ascii() -> None:
    """Line breaks, Unicode separators and emoji inside an event never split or break a line."""
    stream = io.StringIO()
    sink = LogSink(LogSettings(name="out"), stream)
    events = [{"id": str(i), "text": "a\nb\r\u2028\u2029\U0001f600é"} for i in range(20)]
    await asyncio.gather(*(sink.send(event, event_id=event["id"]) for event in events))
    lines = stream.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == events
    assert stream.getvalue().isascii()


async def test_closing_leaves_the_stream_to_its_owner() -> None:
    """Stdout is still open after the sink was closed, twice."""
    stream = io.StringIO()
    sink = LogSink(LogSettings(name="out"), stream)
    await sink.close()
    await sink.close()
    assert not stream.closed
