"""The real clock; only `app` builds it, everybody else is handed one."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall time for timestamps, monotonic time for intervals."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
