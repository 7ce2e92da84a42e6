"""Time is an argument: only `app` builds a real clock, and tests own theirs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two times that never mix: UTC seconds for timestamps, monotonic seconds for intervals and back-off."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...

    async def sleep(self, duration_s: float) -> None: ...


def rfc3339(instant_s: float) -> str:
    """Write UTC seconds as RFC 3339 with a `Z`, without a fraction where it is zero.

    >>> rfc3339(1700000000)
    '2023-11-14T22:13:20Z'
    """
    text = datetime.fromtimestamp(instant_s, UTC).isoformat(timespec="auto" if instant_s % 1 else "seconds")
    return text.replace("+00:00", "Z")


def parse_instant(text: str) -> float:
    """Read RFC 3339 (a `Z` or an offset; UTC where neither is given) or Unix seconds into UTC seconds.

    >>> parse_instant("2023-11-14T22:13:20Z"), parse_instant("1700000000")
    (1700000000.0, 1700000000.0)

    Raises:
        ValueError: the text is neither.

    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither RFC 3339 (2026-11-23T09:00:00Z) nor Unix seconds") from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
