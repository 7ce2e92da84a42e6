"""Cron schedules of five fields: when a recurring maintenance begins, in civil time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import product
from zoneinfo import ZoneInfo

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()  # the first one stands for `least`

    def number(self, text: str) -> int:
        if text.lower() in self.words:
            return self.least + self.words.index(text.lower())
        if not (text.isascii() and text.isdigit() and len(text) <= 2 and self.least <= int(text) <= self.most):
            raise ValueError(f"{text!r} is not a {self.name} between {self.least} and {self.most}")
        return int(text)

    def values(self, text: str) -> frozenset[int]:
        """Every number that a list of `*`, numbers, ranges and steps (`*/5`, `1-5`, `mon,wed`) stands for."""
        found: set[int] = set()
        for part in text.split(","):
            span, slash, step = part.partition("/")
            if slash and not (step.isascii() and step.isdigit() and 1 <= int(step[:3]) <= self.most):
                raise ValueError(f"{step!r} is not a step of a {self.name}")
            low, dash, high = span.partition("-")
            if span == "*":
                first, last = self.least, self.most
            else:
                first = self.number(low)
                last = self.number(high) if dash else self.most if slash else first
            if first > last:
                raise ValueError(f"{span!r} is a range of {self.name}s that ends before it begins")
            found.update(range(first, last + 1, int(step) if slash else 1))
        return frozenset(found)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),  # both 0 and 7 are Sunday
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Minutes of civil time. A restricted day of month and a restricted day of week mean "either", as in cron(8)."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days_of_month: frozenset[int]
    months: frozenset[int]
    days_of_week: frozenset[int]  # 0 is Sunday
    either_day: bool

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read five cron fields; names of months and days may stand for their numbers.

        Raises:
            ValueError: the text is no such schedule.

        """
        fields = text.split()
        if len(fields) != len(_FIELDS) or len(text) > 100:
            raise ValueError(f"{text[:60]!r} does not have five")
        sets = [field.values(part) for field, part in zip(_FIELDS, fields, strict=True)]
        days_of_week = frozenset(day % 7 for day in sets[4])
        either_day = not fields[2].startswith("*") and not fields[4].startswith("*")
        schedule = cls(text, sets[0], sets[1], sets[2], sets[3], days_of_week, either_day)
        if not either_day and not any(day <= _days_in(month) for day in sets[2] for month in sets[3]):
            raise ValueError(f"{text!r} names a day that none of its months has")
        return schedule

    def begins(self, from_s: float, to_s: float, zone: ZoneInfo) -> tuple[float, ...]:
        """The instants, in UTC seconds, after `from_s` and up to `to_s` at which something begins, oldest first.

        A time that the clocks skip in spring begins nothing; one that they show twice begins once, at the first.
        """
        day = datetime.fromtimestamp(from_s, zone).date()
        last = datetime.fromtimestamp(to_s, zone).date()
        found: list[float] = []
        while day <= last:
            if self._on(day):
                found.extend(self._instants(day, zone))
            day += timedelta(days=1)
        return tuple(sorted(instant_s for instant_s in found if from_s < instant_s <= to_s))

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days_of_month, day.isoweekday() % 7 in self.days_of_week
        return (of_month or of_week) if self.either_day else (of_month and of_week)

    def _instants(self, day: date, zone: ZoneInfo) -> Iterator[float]:
        for hour, minute in product(self.hours, self.minutes):
            civil = datetime.combine(day, time(hour, minute), zone)
            instant_s = civil.timestamp()
            if datetime.fromtimestamp(instant_s, zone).replace(fold=0) == civil:
                yield instant_s

    def __str__(self) -> str:
        return self.text


def _days_in(month: int) -> int:
    return 29 if month == 2 else 30 if month in {4, 6, 9, 11} else 31
