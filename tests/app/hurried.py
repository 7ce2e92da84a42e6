"""A clock that tests push ahead: minutes pass at once, and whoever sleeps wakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_LOOK_EVERY_S = 0.02


class HurriedClock:
    """Real time, plus what `skip` added."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now_s(self) -> float:
        return time.time() + self._ahead_s

    def monotonic_s(self) -> float:
        return time.monotonic() + self._ahead_s

    async def sleep(self, duration_s: float) -> None:
        ends_s = self.monotonic_s() + duration_s
        while (left_s := ends_s - self.monotonic_s()) > 0:  # noqa: ASYNC110 - `skip` may come from anywhere
            await asyncio.sleep(min(_LOOK_EVERY_S, left_s))

    def skip(self, duration_s: float) -> None:
        self._ahead_s += duration_s


async def until(what: Callable[[], bool], *, within_s: float = 60.0, every_s: float = 0.05) -> None:
    """Return once it holds.

    Raises:
        TimeoutError: it did not within the time.

    """
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 - the world outside sets no event
            await asyncio.sleep(every_s)
