"""When a cron schedule begins, across months, weekdays and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.manifests.schedule import Schedule

UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    """UTC seconds of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def begins(schedule: str, start: str, end: str, zone: ZoneInfo = UTC_ZONE) -> list[str]:
    """The beginnings between two times in UTC, in UTC."""
    found = Schedule.parse(schedule).begins(at(start), at(end), zone)
    return [datetime.fromtimestamp(instant_s, UTC).strftime("%d %H:%M") for instant_s in found]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 3 * * 0", ["04 03:00", "11 03:00"]),
        ("0 3 * * 7", ["04 03:00", "11 03:00"]),
        ("0 3 * * sun", ["04 03:00", "11 03:00"]),
        ("30 4 13 * *", ["13 04:30"]),
        ("30 4 13 * mon", ["05 04:30", "12 04:30", "13 04:30"]),  # either, as both are restricted
        ("30 4 */9 * *", ["01 04:30", "10 04:30"]),
        ("0,30 23 1 1 *", ["01 23:00", "01 23:30"]),
        ("0 3 * feb *", []),
    ],
)
def test_a_schedule_begins_as_cron_does(schedule: str, expected: list[str]) -> None:
    """Two weeks of January 2026, which began on a Thursday."""
    assert begins(schedule, "2026-01-01T00:00", "2026-01-14T00:00") == expected


def test_a_time_that_the_clocks_skip_begins_nothing_and_one_shown_twice_begins_once() -> None:
    """02:30 in Berlin on the last Sundays of March and October 2026."""
    assert begins("30 2 29 3 *", "2026-03-28T00:00", "2026-03-30T00:00", BERLIN) == []
    assert begins("30 2 25 10 *", "2026-10-24T00:00", "2026-10-26T00:00", BERLIN) == ["25 00:30"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("@daily", "'@daily' does not have five"),
        ("* * * * * *", "'* * * * * *' does not have five"),
        ("60 * * * *", "'60' is not a minute between 0 and 59"),
        ("* * 0 * *", "'0' is not a day of month between 1 and 31"),
        ("* * * 13 *", "'13' is not a month between 1 and 12"),
        ("* * * * foo", "'foo' is not a day of week between 0 and 7"),
        ("*/0 * * * *", "'0' is not a step of a minute"),
        ("5-1 * * * *", "'5-1' is a range of minutes that ends before it begins"),
        ("0 0 30 2 *", "'0 0 30 2 *' names a day that none of its months has"),
        ("-1 * * * *", "'' is not a minute between 0 and 59"),
        ("², * * * *", "'²' is not a minute between 0 and 59"),
    ],
)
def test_what_is_no_schedule_says_why(schedule: str, message: str) -> None:
    """The message names the part that is wrong."""
    with pytest.raises(ValueError, match="^" + message.replace("*", r"\*").replace("²", "²") + "$"):
        Schedule.parse(schedule)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds UTC
    st.integers(1, 7 * 86_400),
)
def test_a_schedule_covers_exactly_its_duration_after_each_beginning(instant: datetime, duration_s: int) -> None:
    """Beside every instant, the last beginning decides alone."""
    schedule = Schedule.parse("15 4 * * *")
    last = instant.replace(hour=4, minute=15, second=0, microsecond=0)
    last = last if last <= instant else last - timedelta(days=1)
    expected = instant - last < timedelta(seconds=duration_s)
    now_s = instant.timestamp()
    assert bool(schedule.begins(now_s - duration_s, now_s, ZoneInfo("UTC"))) == expected
