"""The operator on a real API server and a real Prometheus: what a person sees with kubectl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.app.operators import World, eventually, install_definitions, manifest, operating
from tests.servers.kubernetes import ControlPlane, new_namespace, serving
from tests.servers.shop import BROKEN, HEALTHY, TO_THE_FAULT_S

from foreshock.app.operator import Operator
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.core.verdicts import Subject
from foreshock.operator.resources import ANOMALIES, DETECTORS, EVENTS, MODELS
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.store.history import History


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane of this module, with our kinds and a garbage collector."""
    with serving(tmp_path_factory.mktemp("kubernetes")) as started:
        install_definitions(started)
        yield started


@pytest.fixture
def world(plane: ControlPlane) -> World:
    return World(plane, new_namespace(plane))


@pytest.fixture
def settings(breaking_shop: LocalPrometheus, tmp_path: Path) -> Settings:
    state = f"sqlite:///{tmp_path / 'state.db'}"
    return load_settings(None, {}, Overrides(breaking_shop.url, state, str(tmp_path / "models"), "127.0.0.1:0"))


async def test_the_story_of_one_detector(world: World, settings: Settings) -> None:
    """Applied, it gets ready with a model; broken, status, Anomaly and Event say so; deleted, nothing is left.

    In between, people say what the incident was, and which revision shall judge.
    """
    async with operating(world, settings) as operator:
        world.apply(manifest(query=BROKEN))
        ready = await eventually(
            lambda: (now := world.conditions(DETECTORS, "checkout").get("Ready")) and now["status"] == "True" and now
        )
        assert (ready["reason"], ready["observedGeneration"]) == ("AllWell", 1)
        conditions = world.conditions(DETECTORS, "checkout")
        assert [conditions[kind]["status"] for kind in ("DataAvailable", "ModelReady", "SinksHealthy", "WarmedUp")] == (
            ["True"] * 4
        )
        world.clock.skip(60)  # the next window is the first that the model judges
        await eventually(lambda: world.conditions(DETECTORS, "checkout")["Anomalous"]["status"] == "False")

        def complete() -> dict[str, Any] | None:
            now = world.get(MODELS, "checkout-v1-r1")
            return now if now and "status" in now else None

        model = await eventually(complete)
        (owner,) = model["metadata"]["ownerReferences"]
        assert owner["uid"] == world.get(DETECTORS, "checkout")["metadata"]["uid"]  # type: ignore[index]
        status = model["status"]
        assert status["stage"] == "Active"
        assert status["rowsUsed"] > 1000
        world.clock.skip(TO_THE_FAULT_S)
        anomalous = await eventually(
            lambda: (now := world.conditions(DETECTORS, "checkout")["Anomalous"])["status"] == "True" and now
        )
        assert "broken_wait" in anomalous["message"].lower()
        (anomaly,) = await eventually(lambda: [each for each in world.list(ANOMALIES) if "status" in each])
        assert anomaly["status"]["state"] == "firing"
        assert anomaly["status"]["contributions"][0]["metric"] == "broken_wait"
        (fired,) = world.told
        assert anomaly["metadata"]["name"] == f"checkout-{fired['incident'][:10]}"
        events = await eventually(lambda: [each for each in world.list(EVENTS) if each["reason"] == "Anomalous"])
        assert events[0]["type"] == "Warning"
        await _people_have_their_say(world, settings, operator, anomaly["metadata"]["name"])
        world.delete(DETECTORS, "checkout")
        await eventually(lambda: len(world.told) == 2)
        assert (world.told[1]["status"], world.told[1]["reason"]) == ("expired", "detector_deleted")
        await eventually(lambda: not world.list(MODELS) and not world.list(ANOMALIES))
        assert HEALTHY not in str(world.told)


async def _people_have_their_say(world: World, settings: Settings, operator: Operator, anomaly: str) -> None:
    """With kubectl: verdicts reach history, training and precision; a pin reaches the models and the status."""
    history, subject = History(settings.database), Subject(world.namespace, "checkout")
    precision = partial(
        operator._metrics.registry.get_sample_value, "foreshock_precision_ratio", {"detector": subject.detector}
    )

    def patch(kind: str, name: str, **spec: object) -> None:
        body = json.dumps({"spec": spec})
        world.plane.kubectl("patch", kind, name, "-n", world.namespace, "--type=merge", "-p", body)

    def said() -> tuple[str, str] | None:
        (incident,) = history.incidents()
        return (incident.feedback.verdict, incident.feedback.note) if incident.feedback else None

    def left_out(revision: int) -> list[str] | None:
        status = (world.get(MODELS, f"checkout-v1-r{revision}") or {}).get("status")
        return [each["reason"] for each in status["rowsExcluded"]] if status else None

    for revision, verdict, note, reasons, share in (
        (2, "true_positive", "the gateway", ["incident"], 1.0),
        (3, "false_positive", "", [], 0.0),
    ):
        patch("an", anomaly, verdict=verdict, note=note)
        await eventually(lambda expected=(verdict, note): said() == expected)
        world.clock.skip(60)  # what was said counts from the next cycle on
        await eventually(lambda revision=revision: left_out(revision) is not None)
        assert left_out(revision) == reasons
        assert precision() == share
    patch("an", anomaly, verdict=None)
    await eventually(lambda: said() is None)
    patch("ad", "checkout", model_version="v1-r2")
    await eventually(lambda: (world.get(DETECTORS, "checkout") or {})["status"]["activeModel"] == "v1-r2")
    stages = await eventually(
        lambda: (
            (now := {each["spec"]["revision"]: each["status"] for each in world.list(MODELS)})[2]["stage"] == "Active"
            and now
        )
    )
    assert stages[2]["message"] == (
        "pinned by spec.model_version; "
        "CalibrationUncertain: 1d of history hold fewer than 3 intervals of the budget 1/7d"
    )
    assert (stages[1]["stage"], stages[1]["message"]) == ("Retired", "replaced by v1-r2")
    history.close()


async def test_bad_news_is_said_and_a_good_detector_goes_on(world: World, settings: Settings) -> None:
    """A sink nobody configured and a refused query spoil their own Ready; a broken change stops nothing that ran."""
    async with operating(world, settings) as operator:
        world.apply(
            manifest("lost", query=HEALTHY, sinks=["nowhere"]),
            manifest("refused", query=f"{HEALTHY} * on() group_left() {{__name__=~'.+'}}"),
            manifest(query=HEALTHY),
        )
        for name, reason in (("lost", "NotConfigured"), ("refused", "QueryRejected"), ("checkout", "AllWell")):
            await eventually(
                lambda name=name, reason=reason: (
                    world.conditions(DETECTORS, name).get("Ready", {}).get("reason") == reason
                )
            )
        assert "nowhere" in world.conditions(DETECTORS, "lost")["Ready"]["message"]
        world.apply(manifest(query=HEALTHY, sinks=["nowhere"]))
        ready = await eventually(
            lambda: (now := world.conditions(DETECTORS, "checkout")["Ready"])["status"] == "False" and now
        )
        assert (ready["reason"], ready["observedGeneration"]) == ("NotConfigured", 2)
        assert "goes on" in ready["message"]
        assert operator.engine is not None
        standing = operator.engine.standing(Subject(world.namespace, "checkout"))
        assert standing is not None
        assert standing.revision is not None


async def test_a_status_that_somebody_wrote_meanwhile_is_decided_again(world: World, settings: Settings) -> None:
    """A write based on an old version is refused by the API server; the next one is based on what is there."""
    async with operating(world, settings) as operator:
        world.apply(manifest(query=HEALTHY))
        await eventually(lambda: world.conditions(DETECTORS, "checkout").get("Ready", {}).get("status") == "True")
        key = (world.namespace, "checkout")
        now = operator.detectors.objects[key]
        operator.detectors.objects[key] = replace(now, version="1", told=())
        assert operator.reporter is not None
        operator.reporter.changed(now.subject)
        conflicts = partial(operator._metrics.registry.get_sample_value, "foreshock_status_writes_total")
        await eventually(lambda: conflicts({"kind": "AnomalyDetector", "outcome": "conflict"}) == 1)
        await eventually(lambda: operator.detectors.objects[key].version != "1")
        assert world.conditions(DETECTORS, "checkout")["Ready"]["status"] == "True"


async def test_status_is_written_on_change_only_and_not_in_a_hurry(world: World, settings: Settings) -> None:
    """After a detector is ready, minutes of the same verdict write nothing."""
    async with operating(world, settings) as operator:
        world.apply(manifest(query=HEALTHY))
        await eventually(
            lambda: (
                world.conditions(DETECTORS, "checkout").get("Anomalous", {}).get("status") in {"False", "Unknown"}
                and world.conditions(DETECTORS, "checkout")["Ready"]["status"] == "True"
            )
        )
        world.clock.skip(60)
        await eventually(lambda: world.conditions(DETECTORS, "checkout")["Anomalous"]["status"] == "False")
        value = operator._metrics.registry.get_sample_value
        written = partial(value, "foreshock_status_writes_total", {"kind": "AnomalyDetector", "outcome": "written"})
        normal = partial(value, "foreshock_cycles_total", {"datasource": "default", "verdict": "normal"})
        before = written()
        assert operator.reporter is not None
        for _ in range(3):
            judged = normal() or 0
            world.clock.skip(60)
            await eventually(lambda judged=judged: (normal() or 0) > judged)
            operator.reporter.changed(Subject(world.namespace, "checkout"))  # looked at, and found as it was
            await eventually(lambda: operator.reporter is not None and operator.reporter.waiting == 0)
        assert written() == before


async def test_a_refused_event_blocks_nothing(world: World, settings: Settings) -> None:
    """An account that may write no Event: each is counted, and status and models are written all the same."""
    user = world.plane.user(f"operator-{world.namespace}")
    subject = {"kind": "User", "name": f"operator-{world.namespace}", "apiGroup": "rbac.authorization.k8s.io"}
    everything = ["get", "list", "watch", "create", "update", "patch", "delete"]
    rules = [
        {"apiGroups": ["devopsroles.com"], "resources": ["*"], "verbs": everything},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": everything},
    ]
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}"
    world.plane.request("POST", f"{base}/roles", {"metadata": {"name": "operator"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"}
    binding = {"metadata": {"name": "operator"}, "roleRef": role, "subjects": [subject]}
    world.plane.request("POST", f"{base}/rolebindings", binding)
    async with operating(world, settings, kubeconfig=user) as operator:
        world.apply(manifest(query=HEALTHY))
        await eventually(lambda: world.conditions(DETECTORS, "checkout").get("Ready", {}).get("status") == "True")
        await eventually(lambda: world.get(MODELS, "checkout-v1-r1"))
        refused = partial(operator._metrics.registry.get_sample_value, "foreshock_status_writes_total")
        await eventually(lambda: refused({"kind": "Event", "outcome": "refused"}))
        assert world.list(EVENTS) == []


async def test_an_api_server_without_patience_is_waited_for(world: World, settings: Settings) -> None:
    """429 for most requests: a hundred detectors get there nevertheless, and at most eight writes are tried at once."""
    world.apply(*(manifest(f"d{number:03}", query=HEALTHY, suspend=True) for number in range(100)))
    flags = ("--max-requests-inflight=2", "--max-mutating-requests-inflight=1", "--enable-priority-and-fairness=false")
    world.plane.restart(*flags)
    try:
        async with operating(world, settings) as operator:
            await eventually(
                lambda: sum(each.said_generation == 1 for each in operator.detectors.objects.values()) == 100,
                within_s=120,
            )
            assert len(operator.detectors.objects) == 100
    finally:
        world.plane.restart("--max-requests-inflight=400")


async def test_judging_goes_on_without_the_definition_and_without_the_api_server(
    world: World, settings: Settings
) -> None:
    """SIGKILL of the API server, then the kind itself deleted: the known detector is judged on, and nothing ends."""
    async with operating(world, settings) as operator:
        world.apply(manifest(query=HEALTHY))
        await eventually(lambda: world.conditions(DETECTORS, "checkout").get("Ready", {}).get("status") == "True")
        cycles = partial(operator._metrics.registry.get_sample_value, "foreshock_cycles_total")
        normal = {"datasource": "default", "verdict": "normal"}

        async def judged_on() -> None:
            before = cycles(normal) or 0
            world.clock.skip(60)
            await eventually(lambda: (cycles(normal) or 0) > before)

        await judged_on()
        world.plane.kill()
        await judged_on()
        await judged_on()
        world.plane.restart()
        world.plane.kubectl("delete", "crd", "anomalydetectors.devopsroles.com", "--wait=true", "--timeout=60s")
        try:
            await judged_on()
            assert (world.namespace, "checkout") in operator.detectors.objects
            assert world.told == []
        finally:
            install_definitions(world.plane)
        world.apply(manifest(query=HEALTHY))
        await eventually(
            lambda: world.conditions(DETECTORS, "checkout").get("Ready", {}).get("status") == "True", within_s=120
        )


async def test_a_storm_of_changes_is_bounded_and_converges(world: World, settings: Settings) -> None:
    """Three hundred applied and deleted at once: a few tasks, every status written once or twice, all gone."""
    n = 300
    async with operating(world, settings) as operator:
        await eventually(lambda: operator.engine is not None)
        idle = len(asyncio.all_tasks())
        world.apply(*(manifest(f"d{number:03}", query=HEALTHY, suspend=True) for number in range(n)))
        most = 0

        def written() -> bool:
            return sum(each.said_generation == 1 for each in operator.detectors.objects.values()) == n

        async with asyncio.timeout(120):
            while not written():
                most = max(most, len(asyncio.all_tasks()))
                await asyncio.sleep(0.1)
        assert most < idle + 60
        world.plane.request("DELETE", DETECTORS.path(world.namespace))
        await eventually(lambda: not operator.detectors.objects and operator.reporter is not None)
        assert operator.reporter is not None
        await eventually(lambda: operator.reporter is not None and operator.reporter.waiting == 0)
        assert operator._given == {}


async def test_no_secret_is_in_anything_that_is_written(
    world: World, breaking_shop: LocalPrometheus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A canary in the administrator's settings is in no status, event, metric, alert or log."""
    canary = "canary-7f3a9"
    file = tmp_path / "foreshock.yaml"
    file.write_text(
        f"datasources: [{{name: default, url: '{breaking_shop.url}', bearer_token: {canary}}}]\n"
        f"sinks: [{{name: hook, type: webhook, url: 'http://127.0.0.1:1/{canary}', secret: {canary},"
        " allow_private: true}]\n"
        f"default_sinks: [hook]\ndatabase: sqlite:///{tmp_path / 'state.db'}\nartifacts: {tmp_path / 'models'}\n"
    )
    settings = load_settings(file, {})
    async with operating(world, settings) as operator:
        world.apply(manifest("refused", query=f"{HEALTHY} * on() group_left() {{__name__=~'.+'}}"))
        await eventually(lambda: world.conditions(DETECTORS, "refused").get("Ready", {}).get("status") == "False")
        await eventually(lambda: world.list(EVENTS))
        shown = str(world.get(DETECTORS, "refused")) + str(world.list(EVENTS)) + world.stream.getvalue()
        shown += generate_latest(operator._metrics.registry).decode() + "".join(capsys.readouterr())
    assert canary not in shown
