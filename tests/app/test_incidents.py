"""Incidents as people meet them: three services of which one is the origin, and what changed before, live."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.app.hurried import HurriedClock, until
from tests.app.operators import World, eventually, manifest, operating
from tests.operator import objects
from tests.servers.alertmanager import NewAlertmanager
from tests.servers.binaries import require
from tests.servers.kubernetes import ControlPlane
from tests.servers.processes import free_port

from foreshock.alerting.state import Kind
from foreshock.app.engine import Engine
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.app.shop import Series, openmetrics_lines
from foreshock.core.clock import parse_instant
from foreshock.core.verdicts import Subject
from foreshock.manifests.detector import AnomalyDetector
from foreshock.operator.resources import ANOMALIES, DETECTORS
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running
from foreshock.store.history import History

FAULT_S = 1_800  # from the start of the tests until the store breaks; the others follow
AFTER_MINUTES = {"store_wait": 0, "orders_wait": 3, "front_wait": 6}
A_LITTLE = 12.0  # by which `mail_wait` moves when the store breaks: just beyond its threshold


@pytest.fixture(scope="module")
def breaks_s() -> int:
    """When the store breaks: a full minute, so that tests can say between which two cycles they are."""
    return int(time.time()) // 60 * 60 + FAULT_S


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, breaks_s: int) -> Iterator[LocalPrometheus]:
    """A day of three series that break one after the other, until two hours from now."""
    require("prometheus", "promtool", package="prometheus")
    folder = tmp_path_factory.mktemp("shop")
    chance, now_s = np.random.default_rng(5), breaks_s - FAULT_S
    times_s = np.arange(now_s - 86_400, now_s + 7200, 60)
    series = []
    for name, minutes in AFTER_MINUTES.items():
        values = 40.0 + chance.normal(0, 2, times_s.size)
        values[times_s > breaks_s + 60 * minutes] += 3000.0
        series.append(Series(name, "gauge", "A test.", (), times_s, values))
    mail = 40.0 + chance.normal(0, 2, times_s.size) + A_LITTLE * (times_s > breaks_s)
    series.append(Series("mail_wait", "gauge", "A test.", (), times_s, mail))
    file = folder / "shop.om"
    file.write_text("".join(openmetrics_lines(tuple(series))))
    backfill(folder / "data", file)
    with running(folder) as server:
        yield server


@pytest.fixture
def settings(shop: LocalPrometheus, tmp_path: Path) -> Settings:
    state = f"sqlite:///{tmp_path / 'state.db'}"
    return load_settings(None, {}, Overrides(shop.url, state, str(tmp_path / "models"), "127.0.0.1:0"))


async def test_three_services_and_one_origin(settings: Settings, breaks_s: int) -> None:
    """`foreshock run`: the store breaks, orders and front follow; all are one group, and the store its origin."""
    clock, stream, metrics = HurriedClock(), io.StringIO(), Metrics()
    history = History(settings.database)
    engine = Engine(settings, history, clock=clock, executor=ThreadPoolExecutor(1), events=stream, metrics=metrics)
    subjects = {}
    for name in AFTER_MINUTES:
        wanted = manifest(name.removesuffix("_wait"), query=name, target_service=name.removesuffix("_wait"))
        detector = AnomalyDetector.model_validate(wanted)
        subjects[name] = detector.subject
        engine.put(detector)
    task = asyncio.create_task(engine.run())

    def told() -> list[dict[str, Any]]:
        return [json.loads(line)["data"] for line in stream.getvalue().splitlines()]

    try:
        for subject in subjects.values():
            await until(partial(_has_model, engine, subject))
        clock.skip(breaks_s - 30 - clock.now_s())  # between two cycles, half a minute from either
        cycles = partial(metrics.registry.get_sample_value, "foreshock_cycle_seconds_count", {"datasource": "default"})
        for _ in range(9):
            await _to_next_cycle(clock, cycles)
        await until(lambda: len(told()) == 3)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        history.close()
    first, second, third = told()
    assert [each["detector"] for each in (first, second, third)] == ["default/store", "default/orders", "default/front"]
    assert {each["incident_group"] for each in (first, second, third)} == {first["incident"]}
    assert (first["neighbours"], first["likely_origin"]) == ([], None)
    assert second["neighbours"] == ["likely origin: default/store fired 3 minutes earlier: store_wait (100 %)"]
    assert third["neighbours"] == [
        "likely origin: default/store fired 6 minutes earlier: store_wait (100 %)",
        "default/orders fired 3 minutes earlier: orders_wait (100 %)",
    ]
    assert {each["likely_origin"] for each in (second, third)} == {"default/store"}
    assert "incident_group" not in first["labels"]


async def test_the_share_of_false_alerts_changes_the_route_and_no_verdict(
    shop: LocalPrometheus, breaks_s: int, new_alertmanager: NewAlertmanager, tmp_path: Path
) -> None:
    """Both fire, with budgets of one a day: the weak one is kept from the pager that wants at most one in 500 false."""
    pager, digest = new_alertmanager(), new_alertmanager()
    sinks = [
        {"name": "pager", "type": "alertmanager", "urls": [pager.url], "max_false_share": 0.002},
        {"name": "digest", "type": "alertmanager", "urls": [digest.url]},
    ]
    file = tmp_path / "foreshock.yaml"
    file.write_text(json.dumps({"sinks": sinks, "default_sinks": ["pager", "digest"]}))
    state = f"sqlite:///{tmp_path / 'state.db'}"
    settings = load_settings(file, {}, Overrides(shop.url, state, str(tmp_path / "models"), "127.0.0.1:0"))
    clock, metrics, history = HurriedClock(), Metrics(), History(settings.database)
    engine = Engine(settings, history, clock=clock, executor=ThreadPoolExecutor(1), metrics=metrics)
    names = ("mail", "store")
    for name in names:
        engine.put(
            AnomalyDetector.model_validate(manifest(name, query=f"{name}_wait", false_alarm_budget="1/1d"))
        )  # fmt: skip
    task = asyncio.create_task(engine.run())
    try:
        for name in names:
            await until(partial(_has_model, engine, Subject("default", name)))
        clock.skip(breaks_s - 30 - clock.now_s())  # between two cycles, half a minute from either
        cycles = partial(metrics.registry.get_sample_value, "foreshock_cycle_seconds_count", {"datasource": "default"})
        for _ in range(6):
            await _to_next_cycle(clock, cycles)
        await until(lambda: len(digest.firing()) == 2)
        await until(lambda: not history.backlog())
        incidents = history.incidents()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        history.close()
    assert {each.subject.name for each in incidents if each.status is Kind.FIRING} == set(names)
    assert {each.incident_id for each in incidents} == digest.firing()
    assert [each["labels"]["detector"] for each in pager.alerts()] == ["store"]


async def test_other_sinks_while_an_alert_fires(
    shop: LocalPrometheus, new_alertmanager: NewAlertmanager, tmp_path: Path
) -> None:
    """A sink that never answered is removed, another added: the one is counted, the other told, the incident one."""
    clock, state = HurriedClock(), f"sqlite:///{tmp_path / 'state.db'}"
    added = new_alertmanager()
    detector = AnomalyDetector.model_validate(manifest("store", query="store_wait"))
    incidents, counted = [], []
    for name, url in (("gone", f"http://127.0.0.1:{free_port()}"), ("added", added.url)):
        file = tmp_path / "foreshock.yaml"
        sinks = [{"name": name, "type": "alertmanager", "urls": [url]}]
        file.write_text(json.dumps({"sinks": sinks, "default_sinks": [name]}))
        settings = load_settings(file, {}, Overrides(shop.url, state, str(tmp_path / "models"), "127.0.0.1:0"))
        metrics, history = Metrics(), History(settings.database)
        engine = Engine(settings, history, clock=clock, executor=ThreadPoolExecutor(1), metrics=metrics)
        engine.put(detector)
        task = asyncio.create_task(engine.run())
        try:
            if name == "gone":
                await until(partial(_has_model, engine, detector.subject))
                clock.skip(FAULT_S + 120)
            await until(lambda history=history: bool(history.incidents()))
            if name == "added":
                await until(lambda: len(added.firing()) == 1)
                await until(lambda history=history: not history.backlog())
            incidents += history.incidents()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            history.close()
        labels = {"sink": "gone", "outcome": "sink_removed"}
        counted.append(metrics.registry.get_sample_value("foreshock_deliveries_total", labels))
    assert {each.incident_id for each in incidents} == added.firing()
    assert counted == [None, 1.0]


async def _to_next_cycle(clock: HurriedClock, cycles: Callable[[], float | None]) -> None:
    """A minute on, and a little more where the skip fell before the engine slept again, so that the minute was over."""
    before = cycles() or 0
    clock.skip(60)
    for _ in range(12):
        with suppress(TimeoutError):
            await until(lambda: (cycles() or 0) > before, within_s=5)
            return
        clock.skip(10)
    raise TimeoutError


def _has_model(engine: Engine, subject: Subject) -> bool:
    now = engine.standing(subject)
    return now is not None and now.revision is not None


async def test_an_alert_says_what_changed_in_the_cluster(
    kubernetes: ControlPlane, namespace: str, settings: Settings
) -> None:
    """The operator: a rollout an hour before and a kill are in the event and in the Anomaly that kubectl describes."""
    world = World(kubernetes, namespace)

    def post(kind: str, document: dict[str, Any]) -> dict[str, Any]:
        return kubernetes.request("POST", f"/apis/apps/v1/namespaces/{namespace}/{kind}", document)

    owner = post("deployments", objects.workload(image="shop/checkout:2"))
    post("replicasets", objects.replica_set(1, owner, image="shop/checkout:1"))
    post("replicasets", objects.replica_set(2, owner, image="shop/checkout:2"))
    pods = f"/api/v1/namespaces/{namespace}/pods"
    kubernetes.request("POST", pods, objects.pod("checkout-h2-a"))
    status = {"status": objects.ended(time.time() - 600, restarts=2)}
    merge = "application/merge-patch+json"
    kubernetes.request("PATCH", f"{pods}/checkout-h2-a/status", status, content_type=merge)
    async with operating(world, settings):
        world.apply(manifest(query="store_wait"))
        await eventually(lambda: world.conditions(DETECTORS, "checkout").get("Ready", {}).get("status") == "True")
        world.clock.skip(FAULT_S + 900)
        (anomaly,) = await eventually(
            lambda: [each for each in world.list(ANOMALIES) if each.get("status", {}).get("changes")]
        )
        (fired,) = await eventually(lambda: world.told)
    rollout, created, killed = fired["changes"]
    assert "before: Deployment checkout rolled out revision 2: image shop/checkout from 1 to 2" in rollout
    assert "before: Deployment checkout was created" in created
    assert "before: container app was OOM-killed in pod checkout-h2-a" in killed
    assert anomaly["status"]["changes"] == fired["changes"]
    described = kubernetes.kubectl("describe", "anomaly", "-n", namespace, anomaly["metadata"]["name"]).stdout
    assert all(each in described for each in fired["changes"])
    print(described)
    print(kubernetes.kubectl("get", "anomalies", "-n", namespace).stdout)


class _AlwaysRollingOut:
    """A cluster in which a rollout of the service never ends."""

    def changes(self, namespace: str, service: str, *, onset_s: float) -> tuple[str, ...]:  # noqa: ARG002
        return (f"at the onset: Deployment {service} is rolling out revision 2",)

    def rollout_s(self, namespace: str, service: str, *, at_s: float) -> float | None:  # noqa: ARG002
        return at_s


async def test_amid_a_rollout_an_alert_waits_five_intervals_and_names_it(settings: Settings) -> None:
    """It is not muted: five minutes after its onset it fires, with the rollout in its changes."""
    clock, stream, metrics = HurriedClock(), io.StringIO(), Metrics()
    history = History(settings.database)
    engine = Engine(
        settings, history, clock=clock, executor=ThreadPoolExecutor(1), events=stream, metrics=metrics,
        surroundings=_AlwaysRollingOut(),
    )  # fmt: skip
    detector = AnomalyDetector.model_validate(manifest("store", query="store_wait", target_service="store"))
    engine.put(detector)
    task = asyncio.create_task(engine.run())
    try:
        await until(partial(_has_model, engine, detector.subject))
        clock.skip(FAULT_S)
        cycles = partial(metrics.registry.get_sample_value, "foreshock_cycle_seconds_count", {"datasource": "default"})
        for _ in range(12):
            await _to_next_cycle(clock, cycles)
            if stream.getvalue():
                break
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        history.close()
    event = json.loads(stream.getvalue())
    started_s, fired_s = parse_instant(event["data"]["started_at"]), parse_instant(event["time"])
    assert fired_s - started_s == 300
    assert event["data"]["changes"] == ["at the onset: Deployment store is rolling out revision 2"]
