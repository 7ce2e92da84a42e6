"""Numbers as people say them: few digits, with the unit that the metric's name or the user hints at."""

from __future__ import annotations

import math
import re

_UNITS = {
    "milliseconds": "ms",
    "ms": "ms",
    "seconds": "s",
    "s": "s",
    "minutes": "min",
    "hours": "h",
    "bytes": "B",
    "kb": "kB",
    "mb": "MB",
    "gb": "GB",
    "kib": "KiB",
    "mib": "MiB",
    "gib": "GiB",
    "percent": "%",
    "%": "%",
    "celsius": "°C",
    "ratio": "ratio",
    "per_second": "/s",
    "rps": "/s",
}
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends with, as Prometheus' naming convention has it; empty where it has none.

    >>> unit_of("pool_wait_milliseconds"), unit_of("http_requests_per_second"), unit_of("replicas")
    ('ms', '/s', '')
    """
    name = metric.lower().removesuffix("_total").removesuffix("_mean").removesuffix("_avg")
    matches = (unit for suffix, unit in _UNITS.items() if re.search(rf"(?:^|_){re.escape(suffix)}$", name))
    return "/s" if name.endswith("per_second") else next(matches, "")


def quantity(value: float, unit_hint: str = "") -> str:
    """A value in its unit with at most four digits: the fewest that still tell it from its neighbours.

    `unit_hint` is a unit (`ms`, `s`, `bytes`, `ratio`, …) or anything else that is then written behind the number.

    >>> quantity(112.31, "ms"), quantity(0.0021, "ratio"), quantity(0.19, "s"), quantity(1234567.0), quantity(3.0)
    ('112 ms', '0.21 %', '190 ms', '1.23M', '3')
    """
    unit = _UNITS.get(unit_hint.strip().lower(), unit_hint.strip())
    if not math.isfinite(value):
        return "no value"
    if unit == "ratio":
        value, unit = value * 100, "%"
    elif unit == "s" and 0 < abs(value) < 1:
        value, unit = value * 1000, "ms"
    elif unit == "B":
        power = min(len(_BYTES) - 1, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        value, unit = value / 1024**power, _BYTES[power]
    return f"{number(value)} {unit}".strip()


def number(value: float) -> str:
    """A plain number with three digits, thousands and millions shortened.

    >>> number(0.0), number(0.00321), number(41.04), number(1999.6), number(-12345.0), number(4.2e-9)
    ('0', '0.00321', '41', '2,000', '-12.3k', '4.2e-09')
    """
    size = abs(value)
    if size == 0 or 1e-4 <= size < 999.5:
        return _three_digits(value)
    if size < 1e-4 or size >= 999.5e12:
        return f"{value:.3g}"
    if size < 9999.5:
        return f"{value:,.0f}"
    for scale, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        if size < 999.5 * scale:
            return _three_digits(value / scale) + letter
    raise AssertionError("sizes beyond 999.5e12 have returned above")


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(duration_s: float) -> str:
    """A stretch of time in the words of a sentence, to about a tenth.

    >>> duration(30), duration(3120), duration(5400), duration(3 * 86400)
    ('30 seconds', '52 minutes', '1 h 30 min', '3 days')
    """
    if duration_s < 90:
        return _counted(round(duration_s), "second")
    minutes = round(duration_s / 60)
    if minutes < 60:
        return _counted(minutes, "minute")
    if minutes < 36 * 60:
        hours, rest = divmod(minutes, 60)
        if rest:
            return f"{hours} h {rest} min"
        return _counted(hours, "hour")
    return _counted(round(minutes / 1440), "day")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
