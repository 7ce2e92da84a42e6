"""Durations in Prometheus' grammar without years: `1d12h`, `90s`."""

from __future__ import annotations

import re

_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNITS_WRITTEN = ("d", "h", "m", "s")  # 28d, never 4w: what a manifest and a status show
_PATTERN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

DURATION_PATTERN = "^(0|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$"
"""As the CRDs have it: RE2 knows no look-ahead, so that a minimum length of 1 refuses the empty text."""


def parse_duration(text: str) -> int:
    """Read a duration of days, hours, minutes and seconds, in that order, into seconds.

    >>> parse_duration("1d12h"), parse_duration("90s"), parse_duration("0")
    (129600, 90, 0)

    Raises:
        ValueError: the text is no such duration.

    """
    if text == "0":
        return 0
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 1h or 1d12h")
    return sum(
        int(number) * _UNITS_S[unit] for number, unit in zip(match.groups(), _UNITS_WRITTEN, strict=True) if number
    )


def format_duration(duration_s: int) -> str:
    """Write seconds as the shortest duration that `parse_duration` reads back.

    >>> format_duration(129600), format_duration(0)
    ('1d12h', '0s')
    """
    rest, parts = duration_s, []
    for unit in _UNITS_WRITTEN:
        number, rest = divmod(rest, _UNITS_S[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
