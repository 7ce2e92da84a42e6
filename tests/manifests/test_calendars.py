"""Calendars as people export them become maintenances; what is broken, huge or endless becomes a sentence."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.core.errors import InvalidFile
from foreshock.manifests.calendars import MAX_CALENDAR_BYTES, maintenances_of

BERLIN = ZoneInfo("Europe/Berlin")
MARCH_S = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
QUARTER_S = MARCH_S + 90 * 86_400


def calendar(*lines: str) -> bytes:
    """A calendar with one event of these lines."""
    parts = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//t//t//EN",
        "BEGIN:VEVENT",
        "UID:1@t",
        "DTSTAMP:20260101T000000Z",
    ]
    return "\r\n".join([*parts, *lines, "END:VEVENT", "END:VCALENDAR", ""]).encode()


def times(content: bytes) -> list[tuple[str, str, str]]:
    found = maintenances_of(content, MARCH_S, QUARTER_S, BERLIN)
    return [(_text(each.start), _text(each.end), each.reason) for each in found]


def _text(instant_s: float | None) -> str:
    assert instant_s is not None
    return datetime.fromtimestamp(instant_s, UTC).strftime("%m-%d %H:%M")


def test_a_weekly_event_follows_its_own_clock_through_the_change_and_leaves_out_its_exceptions() -> None:
    """Half past two in Berlin is half past one in winter and half past midnight in summer; one week was called off."""
    event = calendar(
        "DTSTART;TZID=Europe/Berlin:20260314T023000",
        "DTEND;TZID=Europe/Berlin:20260314T043000",
        "RRULE:FREQ=WEEKLY;COUNT=5",
        "EXDATE;TZID=Europe/Berlin:20260321T023000",
        "SUMMARY:Storage\\, firmware",
    )
    assert times(event) == [
        ("03-14 01:30", "03-14 03:30", "Storage, firmware"),
        ("03-28 01:30", "03-28 03:30", "Storage, firmware"),
        ("04-04 00:30", "04-04 02:30", "Storage, firmware"),
        ("04-11 00:30", "04-11 02:30", "Storage, firmware"),
    ]


def test_a_whole_day_is_one_of_the_named_time_zone() -> None:
    """The day on which the clocks skip an hour has 23 of them."""
    assert times(calendar("DTSTART;VALUE=DATE:20260329", "SUMMARY:x")) == [("03-28 23:00", "03-29 22:00", "x")]
    assert times(calendar("DTSTART:20260401T100000", "DURATION:PT30M")) == [("04-01 08:00", "04-01 08:30", "")]


def test_what_runs_at_the_start_counts_and_what_is_over_cancelled_or_takes_no_time_does_not() -> None:
    """Only what may still hold back a page is written out."""
    assert times(calendar("DTSTART:20260228T200000Z", "DTEND:20260301T020000Z"))
    assert not times(calendar("DTSTART:20260228T200000Z", "DTEND:20260228T230000Z"))
    assert not times(calendar("DTSTART:20260401T200000Z", "DTEND:20260401T210000Z", "STATUS:CANCELLED"))
    assert not times(calendar("DTSTART:20260401T200000Z"))
    assert not times(calendar("DTSTART:20270401T200000Z", "DTEND:20270401T210000Z"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (calendar("DTSTART:20260301T000000Z", "DURATION:PT1S", "RRULE:FREQ=SECONDLY"), "repeats more than hourly"),
        (calendar("DTSTART:19700101T000000Z", "DURATION:PT1S", "RRULE:FREQ=MINUTELY"), "repeats more than hourly"),
        (
            calendar(
                "DTSTART:20260301T000000Z",
                "DURATION:PT1S",
                f"RRULE:FREQ=DAILY;BYHOUR=1,2,3;BYMINUTE={','.join(map(str, range(60)))}",
            ),
            "repeats more than hourly",
        ),
        (
            calendar("DTSTART:20260301T000000Z", "DURATION:PT1M", "RRULE:FREQ=DAILY;BYHOUR=1,5"),
            "more than 100 times in this stretch",
        ),
        (b"x" * (MAX_CALENDAR_BYTES + 1), "larger than"),
        (b"", "no calendar that can be read"),
        (b"hello\n", "no calendar that can be read"),
        (calendar("DTSTART:20260301T000000Z", "RRULE:FREQ=NEVER"), "no calendar|repeats"),
        (calendar("DTSTART:tomorrow", "DURATION:PT1M"), "no calendar that can be read"),
    ],
)
def test_what_is_broken_or_endless_is_a_sentence(content: bytes, words: str) -> None:
    """Within no time, and never a traceback."""
    with pytest.raises(InvalidFile, match=words):
        times(content)


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_bytes_break_it(noise: bytes, position: int) -> None:
    """Anything is maintenances or a sentence."""
    good = calendar("DTSTART:20260314T023000Z", "DURATION:PT1H", "RRULE:FREQ=WEEKLY;COUNT=5", "SUMMARY:x")
    with contextlib.suppress(InvalidFile):
        times(good[:position] + noise + good[position:])
