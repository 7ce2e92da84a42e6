"""The events of an iCalendar file (RFC 5545) as maintenances. Pure, and bounded: a calendar may come from anybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time
from itertools import islice, takewhile
from math import prod
from typing import Final
from zoneinfo import ZoneInfo

import recurring_ical_events
from icalendar import Calendar, Component, Event

from foreshock.core.clock import rfc3339
from foreshock.core.errors import InvalidFile
from foreshock.manifests.detector import Maintenance

MAX_CALENDAR_BYTES: Final = 1 << 20
MOST_MAINTENANCES: Final = 100  # what one manifest may hold
_MOST_REASON_CHARS = 256
_FREQUENCIES = {"DAILY", "WEEKLY", "MONTHLY", "YEARLY"}
_MOST_A_DAY = 24  # a rule of every second since 1970 would never end


def maintenances_of(content: bytes, from_s: float, to_s: float, zone: ZoneInfo) -> tuple[Maintenance, ...]:
    """One maintenance for each time of an event that has a part after `from_s` and begins before `to_s`, oldest first.

    Rules, exceptions and the calendar's own time zones are followed; a time without a zone, and a whole day, is civil
    time of `zone`. Cancelled events are none, and neither is one that takes no time.

    Raises:
        InvalidFile: it is no calendar, too large, repeats too often, or has more than 100 times in this stretch.

    """
    if len(content) > MAX_CALENDAR_BYTES:
        raise InvalidFile(f"The calendar is larger than {MAX_CALENDAR_BYTES} bytes; export a shorter stretch of it.")
    try:
        calendar = Calendar.from_ical(content)
        for each in calendar.walk("VEVENT"):
            _check_rules(each)
        first = datetime.fromtimestamp(from_s, UTC)
        events: Iterator[Event] = recurring_ical_events.of(calendar).after(first)
        wanted = takewhile(lambda event: _instant_s(event.start, zone) < to_s, events)
        found = tuple(
            islice((each for event in wanted for each in _maintenances(event, from_s, zone)), MOST_MAINTENANCES + 1)
        )
    except InvalidFile:
        raise
    except Exception as error:  # the libraries raise whatever a broken line makes them stumble over
        raise InvalidFile(
            f"This is no calendar that can be read ({type(error).__name__}: {str(error)[:100]})."
        ) from error
    if len(found) > MOST_MAINTENANCES:
        raise InvalidFile(f"There are more than {MOST_MAINTENANCES} times in this stretch; ask for fewer days.")
    return found


def _maintenances(event: Event, from_s: float, zone: ZoneInfo) -> Sequence[Maintenance]:
    start_s, end_s = _instant_s(event.start, zone), _instant_s(event.end, zone)
    if str(event.get("STATUS", "")).upper() == "CANCELLED" or end_s <= max(start_s, from_s):
        return ()
    reason = " ".join(str(event.get("SUMMARY", "")).split())[:_MOST_REASON_CHARS]
    return (Maintenance.model_validate({"start": rfc3339(start_s), "end": rfc3339(end_s), "reason": reason}),)


def _instant_s(when: date, zone: ZoneInfo) -> float:
    if not isinstance(when, datetime):
        when = datetime.combine(when, time(), zone)
    return (when if when.tzinfo is not None else when.replace(tzinfo=zone)).timestamp() // 1


def _check_rules(event: Component) -> None:
    """Refuse what would repeat more often than a maintenance can.

    Raises:
        InvalidFile: a rule of the event does.

    """
    rules = event.get("RRULE", ())
    for rule in rules if isinstance(rules, list) else [rules] if rules else []:
        frequency = str((rule.get("FREQ") or [""])[0]).upper()
        a_day = prod(max(1, len(rule.get(part) or ())) for part in ("BYHOUR", "BYMINUTE", "BYSECOND"))
        if frequency not in _FREQUENCIES or a_day > _MOST_A_DAY:
            name = str(event.get("SUMMARY", "without a name"))[:60]
            raise InvalidFile(f"The event {name!r} repeats more than hourly; a maintenance is no more than daily.")
