"""AnomalyModels on a real API server: views of the database, with the reason of each stage; bad news is an Event."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.app.hurried import HurriedClock, until
from tests.servers.kubernetes import ControlPlane
from tests.store.records_for_tests import model

from foreshock.core.verdicts import Subject
from foreshock.engine.cohort import Revision
from foreshock.lifecycle import lines
from foreshock.lifecycle.learnt import Learnt
from foreshock.lifecycle.standing import Standing
from foreshock.operator.api import ApiServer
from foreshock.operator.children import Children
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.events import Events
from foreshock.operator.resources import DETECTORS, EVENTS, MODELS, Seen, child, seen
from foreshock.store.history import History

WHY = "it misses 3 of 3 known incidents"
SPEC = {"target_service": "checkout", "prometheus_query": "up"}


class World:
    """One detector, its records, and one process that shows them."""

    def __init__(self, plane: ControlPlane, api: ApiServer, namespace: str, history: History) -> None:
        self.plane, self.api, self.history = plane, api, history
        self.subject = Subject(namespace, "checkout")
        body = {
            "apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector",
            "metadata": {"name": "checkout"}, "spec": SPEC,
        }  # fmt: skip
        self.owner: Seen = seen(plane.request("POST", DETECTORS.path(namespace), body), None)
        self.start_anew()

    def start_anew(self) -> None:
        """As another process, which knows what the API server lists."""
        self.written = 0
        self.children = Children(self.api, HurriedClock(), self.history, "file:///models", lambda *_: None)
        self.events = Events(self.api, HurriedClock(), self._count)
        for each in self.models().values():
            self.children.put(MODELS, child(each))

    def _count(self, _: str, outcome: str) -> None:
        self.written += outcome == "written"

    def change(self, change: Any) -> None:
        """As the engine does it."""
        self.history.change_models(self.subject, "v1", change)

    def change_spec(self, **spec: object) -> None:
        """As kubectl does it."""
        path = DETECTORS.path(self.subject.namespace, "checkout")
        found = self.plane.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")
        self.owner = seen(found, self.owner)

    async def show(self, standing: Standing, *, events: int = 0) -> None:
        """Bring the API server up to date, with so many Events."""
        writing = asyncio.create_task(self.events.run())
        try:
            assert await self.children.sync(self.owner, standing, self.events.say)
            await until(lambda: self.written >= events)
        finally:
            writing.cancel()
        assert self.written == events

    def models(self) -> dict[str, dict[str, Any]]:
        found = self.plane.request("GET", MODELS.path(self.subject.namespace))["items"]
        return {each["metadata"]["name"]: each for each in found}

    def stages(self) -> dict[str, tuple[str, str]]:
        """The stage of each revision, and why."""
        return {
            f"r{each['spec']['revision']}": (each["status"]["stage"], each["status"].get("message", ""))
            for each in self.models().values()
        }


def standing(world: World, judges: int, newest: tuple[int, str], message: str) -> Standing:
    """What the engine says after a round of learning."""
    record = next(each for each in world.history.models(world.subject) if each.revision == judges)
    revision = Revision(record.version, record.name, record.digest, record.trained_from_s, record.trained_to_s)
    learnt = Learnt(world.subject, message, 0.0, ready=True, newest=(f"v1-r{newest[0]}", newest[1]))
    return Standing(learnt=learnt, revision=revision)


async def test_a_rejected_candidate_is_an_event_and_a_status_with_the_reason(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Told once, by whichever process; the AnomalyModel says the same, and the active revision stays what it was."""
    history = History(f"sqlite:///{tmp_path / 'state.db'}")
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        world = World(kubernetes, api, namespace, history)
        first, second = (model(n, subject=world.subject, version="v1") for n in (1, 2))
        world.change(lambda _: (first,))
        world.change(lambda records: lines.promoted(records, 1, 0.0, "the first of its line"))
        world.change(lambda _: (lines.rejected(second, WHY),))
        said = standing(world, 1, (2, lines.REJECTED), f"v1-r2 is Rejected: {WHY}")
        await world.show(said, events=1)
        await world.show(said, events=1)
        assert world.stages() == {"r1": ("Active", "the first of its line"), "r2": ("Rejected", WHY)}
        (event,) = kubernetes.request("GET", EVENTS.path(namespace))["items"]
        assert (event["type"], event["reason"], event["message"]) == (
            "Warning", "CandidateRejected", f"v1-r2 is Rejected: {WHY}",
        )  # fmt: skip
        assert event["involvedObject"]["name"] == "checkout"
        assert event["involvedObject"]["uid"] == world.owner.uid
        world.start_anew()
        await world.show(said, events=0)
    history.close()


async def test_a_pin_and_its_end_are_visible_on_the_models(
    kubernetes: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Stage and reason of every revision follow `spec.model_version`, also where the same revision judges on."""
    history = History(f"sqlite:///{tmp_path / 'state.db'}")
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        world = World(kubernetes, api, namespace, history)
        world.change(lambda _: tuple(model(n, subject=world.subject, version="v1") for n in (1, 2)))
        for number in (1, 2):
            world.change(lambda records, number=number: lines.promoted(records, number, number, "better"))
        await world.show(standing(world, 2, (2, lines.ACTIVE), "learnt"))
        assert world.stages() == {"r1": ("Retired", "replaced by v1-r2"), "r2": ("Active", "better")}
        for pinned in (2, 1):
            world.change(lambda records, pinned=pinned: lines.promoted(records, pinned, 3.0, "pinned"))
            world.change_spec(model_version=f"v1-r{pinned}")
            await world.show(standing(world, pinned, (pinned, lines.ACTIVE), "pinned"))
            assert world.stages()[f"r{pinned}"] == ("Active", "pinned")
        assert world.stages()["r2"] == ("Retired", "replaced by v1-r1")
        world.change(lambda records: lines.promoted(records, 1, 4.0, "not pinned any more"))
        world.change_spec(model_version="v1")
        await world.show(standing(world, 1, (1, lines.ACTIVE), "judges"))
        assert world.stages()["r1"] == ("Active", "not pinned any more")
    history.close()
