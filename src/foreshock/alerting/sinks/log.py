"""The `log` sink: one event a line to a text stream; stdout in production, where log collectors read it."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TextIO

from foreshock.alerting.sinks.base import BaseSinkSettings, one_line
from foreshock.core.errors import SinkUnavailable


class LogSettings(BaseSinkSettings):
    """`{name: stdout, type: log}`: nothing else has to be set."""

    type: Literal["log"] = "log"
    during_maintenance: bool = True


class LogSink:
    """Writes each event as one line of ASCII JSON and flushes it; the event's `id` is its identity."""

    def __init__(self, settings: LogSettings, stream: TextIO) -> None:
        self._settings = settings
        self._stream = stream
        self._one_at_a_time = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """Write one line.

        Raises:
            SinkUnavailable: the stream is closed, broken or full.

        """
        line = one_line(event, ascii_only=True) + "\n"
        async with self._one_at_a_time:  # in a thread, because a pipe whose reader sleeps blocks the writer
            try:
                await asyncio.to_thread(self._write, line)
            except (OSError, ValueError) as error:  # ValueError is how Python says that a stream was closed
                raise SinkUnavailable(
                    f"Sink {self.name!r} could not write event {event_id} to its stream ({error}); "
                    "give the process a stdout that somebody reads."
                ) from error

    async def close(self) -> None:
        """Leave the stream open: whoever handed it in owns it."""

    def _write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()
