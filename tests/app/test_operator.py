"""The operator on a real API server and a real Prometheus: what a person sees with kubectl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.app.operators import World, eventually, install_definitions, manifest, operating
from tests.servers.kubernetes import ControlPlane, new_namespace, serving
from tests.servers.shop import BROKEN, HEALTHY, TO_THE_FAULT_S

from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.operator.resources import ANOMALIES, DETECTORS, EVENTS, MODELS
from foreshock.prometheus.local_server import LocalPrometheus


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
    """Applied, it gets ready with a model; broken, status, Anomaly and Event say so; deleted, nothing is left."""
    async with operating(world, settings):
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
        world.delete(DETECTORS, "checkout")
        await eventually(lambda: len(world.told) == 2)
        assert (world.told[1]["status"], world.told[1]["reason"]) == ("expired", "detector_deleted")
        await eventually(lambda: not world.list(MODELS) and not world.list(ANOMALIES))
        assert HEALTHY not in str(world.told)
