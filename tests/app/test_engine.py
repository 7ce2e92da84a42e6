"""The live engine on a real Prometheus: detectors come, change, are suspended and go, and no alert is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.app.hurried import HurriedClock, until
from tests.servers.postgresql import NewPostgreSQL
from tests.servers.shop import BROKEN, HEALTHY, TO_THE_FAULT_S

from foreshock.alerting.state import EndReason, Kind
from foreshock.app.engine import Engine
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.core.verdicts import Subject
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.store.history import History
from foreshock.store.on_postgresql import Patience


def detector(name: str = "checkout", *, query: str = BROKEN, **spec: Any) -> AnomalyDetector:
    """A detector that has learnt enough from half a day."""
    training = {"window": "1d", "warm_up": "12h", "retrain_interval": "1d"}
    fields = {
        "target_service": "checkout", "prometheus_query": query, "detection_window": "10m", "query_offset": "0s",
        "keep_firing_for": "1h", "training": training,
    }  # fmt: skip
    return AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": name},
            "spec": fields | spec,
        }
    )


class Running:
    """One engine with its database, its clock and what it told the world."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.clock, self.stream = settings, HurriedClock(), io.StringIO()
        self.history = History(settings.database, patience=Patience(connect_s=2, lock_s=1, statement_s=2))
        self.engine = Engine(
            settings, self.history, clock=self.clock, executor=ThreadPoolExecutor(1), events=self.stream
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line)["data"] for line in self.stream.getvalue().splitlines()]

    async def until_it_fires(self, subject: Subject) -> None:
        await until(lambda: bool((now := self.engine.standing(subject)) and now.revision))
        self.clock.skip(TO_THE_FAULT_S)
        await until(lambda: bool((now := self.engine.standing(subject)) and now.firing))
        await until(lambda: bool(self.events))


@contextlib.asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Running]:
    run = Running(settings)
    task = asyncio.create_task(run.engine.run())
    try:
        yield run
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        run.history.close()


@pytest.fixture
def settings(breaking_shop: LocalPrometheus, tmp_path: Path) -> Settings:
    return load_settings(
        None,
        {},
        Overrides(breaking_shop.url, f"sqlite:///{tmp_path / 'state.db'}", str(tmp_path / "models"), "127.0.0.1:0"),
    )


SUBJECT = Subject("default", "checkout")


async def test_a_change_keeps_the_alert_and_the_model_and_a_deletion_leaves_nothing(settings: Settings) -> None:
    """Severity changes: same incident, same revision. Deleted: expired once, no row, no artifact after the grace."""
    async with _running(settings) as run:
        run.engine.put(detector())
        await run.until_it_fires(SUBJECT)
        before = run.engine.standing(SUBJECT)
        assert before is not None
        run.engine.put(detector(alert_severity="critical"))
        watches = run.engine._lanes["default", None].watches
        await until(lambda: (now := watches[SUBJECT]).spec.alert_severity == "critical" and now.mark is not None)
        after = run.engine.standing(SUBJECT)
        assert after is not None
        assert after.revision == before.revision
        assert [incident.incident_id for _, incident in after.firing] == [
            incident.incident_id for _, incident in before.firing
        ]
        assert len(run.history.models(SUBJECT)) == 1
        digests = run.history.live_digests()
        run.engine.remove(detector())
        await until(lambda: len(run.events) == 2)
        firing, gone = run.events
        assert (gone["status"], gone["reason"], gone["incident"]) == ("expired", "detector_deleted", firing["incident"])
        assert run.engine.standing(SUBJECT) is None
        assert run.history.detectors() == frozenset()
        assert run.history.load_alert_states() == {}
        (incident,) = run.history.incidents()
        assert (incident.status, incident.reason) == (Kind.EXPIRED, EndReason.DETECTOR_DELETED)
        assert run.engine.sweep_artifacts(grace_s=3600) == ()
        assert set(run.engine.sweep_artifacts(grace_s=-1)) == digests


async def test_suspended_ends_as_suspended_and_resumes_with_its_model(settings: Settings) -> None:
    """Nobody judges while it is suspended; resumed, the model that it had judges again and a new incident begins."""
    async with _running(settings) as run:
        run.engine.put(detector())
        await run.until_it_fires(SUBJECT)
        run.engine.put(detector(suspend=True))
        await until(lambda: len(run.events) == 2)
        assert (run.events[1]["status"], run.events[1]["reason"]) == ("expired", "suspended")
        standing = run.engine.standing(SUBJECT)
        assert standing is not None
        assert standing.is_suspended
        run.engine.put(detector())
        run.clock.skip(60)
        await until(lambda: len(run.events) == 3)
        assert run.events[2]["status"] == "firing"
        assert run.events[2]["incident"] != run.events[0]["incident"]
        assert len(run.history.models(SUBJECT)) == 1


async def test_what_was_deleted_while_nobody_looked_ends_at_the_next_start(settings: Settings) -> None:
    """After a restart the database still knows the detector: it ends unless somebody else's namespace holds it."""
    async with _running(settings) as run:
        run.engine.put(detector())
        await run.until_it_fires(SUBJECT)
    async with _running(settings) as run:
        run.engine.put(detector("other", query=HEALTHY))
        await until(lambda: run.engine.standing(Subject("default", "other")) is not None)
        known = {Subject("default", "other")}
        assert await run.engine.remove_vanished(known, lambda namespace: namespace == "shop") == 0
        assert await run.engine.remove_vanished(known, lambda _: True) == 1
        await until(lambda: bool(run.events))
        assert [(each["status"], each["reason"], each["service"]) for each in run.events] == [
            ("expired", "detector_deleted", "checkout")
        ]
        assert SUBJECT not in run.history.detectors()


async def test_who_leaves_and_comes_back_at_once_begins_anew(settings: Settings) -> None:
    """Deleted and made again between two cycles: the old incident expires, and nothing of the old one is kept."""
    async with _running(settings) as run:
        run.engine.put(detector())
        await run.until_it_fires(SUBJECT)
        run.engine.remove(detector())
        run.engine.put(detector(query=HEALTHY))
        await until(lambda: len(run.events) == 2)
        assert run.events[1]["reason"] == "detector_deleted"
        await until(lambda: bool((now := run.engine.standing(SUBJECT)) and now.revision))
        assert [record.name for record in run.history.models(SUBJECT)] == ["v1-r1"]
        assert run.history.load_alert_states() == {}


async def test_another_query_is_not_judged_by_the_old_model(settings: Settings) -> None:
    """A model of one query knows nothing about another: the changed detector has none until it has learnt anew."""
    async with _running(settings) as run:
        run.engine.put(detector(query=HEALTHY))
        await until(lambda: bool((now := run.engine.standing(SUBJECT)) and now.revision))
        run.engine.put(detector(query=f"{HEALTHY} * 1000"))
        await until(lambda: len(run.history.models(SUBJECT)) == 2)
        run.clock.skip(60)
        watch = run.engine._lanes["default", None].watches[SUBJECT]
        await until(lambda: watch.mark is not None and watch.mark.inconclusive == 0)
        assert watch.mark is not None
        assert watch.mark.anomalous == 0
        assert run.events == []


@pytest.mark.parametrize("how", ["hung", "crashed"])
async def test_nothing_is_published_that_the_database_did_not_take(
    settings: Settings, new_postgresql: NewPostgreSQL, how: str
) -> None:
    """PostgreSQL is away while an alert is decided: nobody hears of it until it is committed, and then once."""
    server = new_postgresql(fsync=True)
    settings = settings.model_copy(update={"database": server.url(server.new_database())})
    async with _running(settings) as run:
        run.engine.put(detector())
        await until(lambda: bool((now := run.engine.standing(SUBJECT)) and now.revision))
        with contextlib.ExitStack() as away:
            if how == "hung":
                away.enter_context(server.paused())
            else:
                server.kill()
            said = away.enter_context(capture_logs())
            run.clock.skip(TO_THE_FAULT_S)
            # the datasource's clock stands where it was, so that the next window may be a real minute away
            await until(lambda: any(each["event"] == "nothing was published" for each in said), within_s=150)
            assert run.events == []
        if how == "crashed":
            server.restart()
        run.clock.skip(60)
        await until(lambda: bool(run.events), within_s=150)
        (event,) = run.events
        (incident,) = run.history.incidents()
        assert (event["status"], event["incident"]) == ("firing", incident.incident_id)
        standing = run.engine.standing(SUBJECT)
        assert standing is not None
        assert standing.firing


@pytest.mark.parametrize("wrong_s", [600, -600])
async def test_a_clock_that_is_wrong_judges_at_the_time_of_the_datasource(settings: Settings, wrong_s: int) -> None:
    """Ten minutes ahead or behind: windows end where the datasource's newest data is, not where our clock thinks."""
    run = Running(settings)
    run.clock.skip(wrong_s)
    task = asyncio.create_task(run.engine.run())
    try:
        run.engine.put(detector(query=HEALTHY))
        await until(lambda: (now := run.engine.standing(SUBJECT)) is not None and now.mark is not None)
        (lane,) = run.engine._lanes.values()
        judged_at_s = lane.watches[SUBJECT].judged_at_s
        assert judged_at_s is not None
        assert -5 < time.time() - judged_at_s < 90
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        run.history.close()
