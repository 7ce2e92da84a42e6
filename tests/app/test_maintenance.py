"""An incident in a maintenance, through the live engine: recorded and logged at once, paged only if it outlasts it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from tests.app.hurried import until
from tests.app.test_engine import SUBJECT, Running, _running, detector
from tests.servers.shop import TO_THE_FAULT_S

from foreshock.app.settings import Settings
from foreshock.prometheus.local_server import LocalPrometheus

SINKS: dict[str, Any] = {
    "sinks": [{"name": "pager", "type": "log", "during_maintenance": False}],
    "default_sinks": ["log", "pager"],
}


@pytest.fixture
def settings(breaking_shop: LocalPrometheus, tmp_path: Any) -> Settings:
    return Settings.model_validate(
        {
            "datasources": [{"url": breaking_shop.url}],
            "database": f"sqlite:///{tmp_path / 'state.db'}",
            "artifacts": str(tmp_path / "models"),
            **SINKS,
        }
    )


def told(run: Running) -> list[tuple[str, str]]:
    """Which sink hears of what, as the outbox has it."""
    with run.history._database.reading() as connection:
        found = connection.execute(text("SELECT sink, kind FROM outbox ORDER BY sequence, created_s, sink"))
        return [(row.sink, row.kind) for row in found]


def around_the_fault(run: Running, *, until_s: float) -> list[dict[str, str]]:
    """A maintenance from now until some seconds after the fault."""
    start_s = run.clock.now_s() - 60
    start, end = (
        datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for each in (start_s, start_s + TO_THE_FAULT_S + until_s)
    )
    return [{"start": start, "end": end, "reason": "kernel patches"}]


async def test_what_begins_in_a_maintenance_pages_when_it_outlasts_it(settings: Settings) -> None:
    """Log and database have it at once, with the reason; the pager when a window without any of it is anomalous too."""
    async with _running(settings) as run:
        run.engine.put(detector(maintenance=around_the_fault(run, until_s=600)))
        await run.until_it_fires(SUBJECT)
        assert told(run) == [("log", "firing")]
        (event,) = run.events
        assert event["maintenance"] == "kernel patches"
        run.clock.skip(600)  # the maintenance is over, the window of ten minutes still holds some of it
        before_s = run.engine._states[SUBJECT].judged_at_s
        await until(lambda: run.engine._states[SUBJECT].judged_at_s > before_s)
        assert told(run) == [("log", "firing")]
        run.clock.skip(660)
        await until(lambda: len(told(run)) == 2)
        assert told(run) == [("log", "firing"), ("pager", "firing")]
        await until(lambda: len(run.events) == 2)
        first, second = run.events
        assert second["incident"] == first["incident"]
        assert second["maintenance"] == "kernel patches"
        run.engine.remove(detector())
        await until(lambda: len(told(run)) == 4)
        assert told(run)[2:] == [("log", "expired"), ("pager", "expired")]


async def test_what_ends_in_its_maintenance_pages_nobody(settings: Settings) -> None:
    """Whoever was not told of the beginning is not told of the end."""
    async with _running(settings) as run:
        run.engine.put(detector(maintenance=around_the_fault(run, until_s=7_200)))
        await run.until_it_fires(SUBJECT)
        run.engine.remove(detector())
        await until(lambda: len(told(run)) == 2)
        assert told(run) == [("log", "firing"), ("log", "expired")]
