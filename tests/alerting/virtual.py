"""A clock that tests own, and sinks that fail as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from foreshock.core.errors import SinkRejected, SinkUnavailable

NOW_S = 1_700_000_000.0


@dataclass
class VirtualClock:
    """Sleeping takes no real time and moves both times on; `frozen` sleeps for ever, so that only news can wake."""

    time_s: float = NOW_S
    frozen: bool = False
    asleep: asyncio.Event = field(default_factory=asyncio.Event)

    def now_s(self) -> float:
        return self.time_s

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, duration_s: float) -> None:
        self.asleep.set()
        if self.frozen:
            await asyncio.Event().wait()
        self.time_s += duration_s
        await asyncio.sleep(0)


Behaviour = Callable[[str], Exception | None]


@dataclass
class ScriptedSink:
    """Takes what `behaviour` returns no error for; `sent` holds every attempt, `taken` what was delivered."""

    name: str
    clock: VirtualClock
    behaviour: Behaviour = lambda _: None
    sent: list[tuple[float, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    closed: int = 0

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        assert event["id"] == event_id
        self.sent.append((self.clock.time_s, event_id))
        await asyncio.sleep(0)
        error = self.behaviour(event_id)
        if error is not None:
            raise error
        self.taken.append(event_id)

    async def close(self) -> None:
        self.closed += 1


def down(*, retry_after_s: float | None = None) -> Behaviour:
    return lambda _: SinkUnavailable("the receiver is away", retry_after_s=retry_after_s)


def refuses(_event_id: str) -> Exception:
    return SinkRejected("the receiver refuses this")
