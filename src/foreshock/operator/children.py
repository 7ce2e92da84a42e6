"""AnomalyModel and Anomaly resources: views of what the database holds, owned by their detector, few and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from foreshock.core.clock import Clock
from foreshock.core.errors import KubernetesRefused, Unavailable
from foreshock.core.verdicts import Subject
from foreshock.lifecycle.standing import Standing
from foreshock.manifests.anomaly import anomaly_name
from foreshock.manifests.model import model_name
from foreshock.operator.reconcile import Said
from foreshock.operator.resources import ANOMALIES, MODELS, Child, Seen, anomaly_of, child, model_of
from foreshock.operator.watch import Kind, Reflector, Requests
from foreshock.store.records import Feedback, Incident, ModelRecord

MOST_MODELS = 6  # the active revision and the five before it
MOST_ANOMALIES = 50  # of one detector, ended
KEPT_S = 90 * 86_400.0  # as the database keeps incidents
FIRING, REJECTED = "firing", "Rejected"
CANDIDATE_REJECTED = "CandidateRejected"  # the reason of the event
_CONFLICT, _NOT_FOUND = 409, 404


class Records(Protocol):
    """The port to the database; the calls block and are made from a thread."""

    def models(self, subject: Subject, *, version: str | None = None) -> tuple[ModelRecord, ...]: ...

    def incidents(
        self, *, namespace: str | None = None, name: str | None = None, limit: int = 100
    ) -> tuple[Incident, ...]: ...

    def give_verdict(self, incident_id: str, feedback: Feedback | None, *, now_s: float) -> Incident | None: ...


@dataclass(slots=True)
class Children:
    """Knows which resources each detector owns, and makes them what the database says."""

    api: Requests
    clock: Clock
    records: Records
    artifacts: str
    counted: Callable[[str, str], None]
    _owned: dict[tuple[str, Subject], dict[str, Child]] = field(default_factory=dict)
    _verdicts: dict[Subject, dict[str, Child]] = field(default_factory=dict)  # to be written into the database
    _pins: dict[Subject, int] = field(default_factory=dict)  # as the models that are shown say it
    _moved: set[Subject] = field(default_factory=set)  # of these an incident began or ended
    _reflectors: tuple[Reflector[Child], ...] = ()

    def follow(self, *reflectors: Reflector[Child]) -> None:
        """What is known of them counts only once they are complete."""
        self._reflectors = reflectors

    def put(self, kind: Kind, now: Child) -> bool:
        """Note a child as it is now, and say whether somebody wrote another verdict into it."""
        owner = Subject(now.namespace, now.detector)
        known = self._owned.setdefault((kind.name, owner), {})
        before, known[now.name] = known.get(now.name), now
        said = (now.verdict, now.note)
        if not now.incident or said == ((before.verdict, before.note) if before is not None else ("", "")):
            return False
        self._verdicts.setdefault(owner, {})[now.incident] = now
        return True

    def gone(self, kind: Kind, last: Child) -> None:
        """Note that a child exists no more."""
        owner = (kind.name, Subject(last.namespace, last.detector))
        known = self._owned.get(owner)
        if known is not None:
            known.pop(last.name, None)
            if not known:
                del self._owned[owner]

    def moved(self, subject: Subject) -> None:
        """An incident of this detector began or ended."""
        self._moved.add(Subject(subject.namespace, subject.name))

    def forget(self, subject: Subject) -> None:
        """The owner is gone; garbage collection takes the rest."""
        self._moved.discard(subject)
        self._verdicts.pop(subject, None)
        self._pins.pop(subject, None)

    async def sync(self, owner: Seen, standing: Standing, say: Callable[[Seen, Said], None]) -> bool:
        """Write what differs; False where it could not be done now and should be tried again. `say` tells people.

        Raises:
            KubernetesUnavailable, StoreUnavailable: try again later.

        """
        if not all(each.is_complete for each in self._reflectors):
            return False
        await self._keep_verdicts(owner.subject)
        await self._show_models(owner, standing, say)
        known = self._owned.get((ANOMALIES.name, owner.subject), {})
        firing = {anomaly_name(owner.subject.name, each.incident_id) for _, each in standing.firing}
        shown = {each.name for each in known.values() if each.state == FIRING}
        if firing != shown or owner.subject in self._moved:
            await self._sync_anomalies(owner, known)
        return True

    async def _keep_verdicts(self, subject: Subject) -> None:
        """What people wrote into Anomalies goes into the database, and what they took out goes out of it."""
        given = self._verdicts.get(subject, {})
        while given:
            incident, said = next(iter(given.items()))
            now_s = self.clock.now_s()
            feedback = Feedback(said.verdict, now_s, "anomaly", said.note) if said.verdict else None
            await asyncio.to_thread(self.records.give_verdict, incident, feedback, now_s=now_s)
            if given.get(incident) is said:
                del given[incident]
        self._verdicts.pop(subject, None)

    async def _show_models(self, owner: Seen, standing: Standing, say: Callable[[Seen, Said], None]) -> None:
        """Bring the models up to date where a stage or a pin has changed, and tell of a candidate that failed."""
        subject, known = owner.subject, self._owned.get((MODELS.name, owner.subject), {})
        stages = {each.name: each.state for each in known.values()}
        wanted = {}
        if standing.learnt is not None and standing.learnt.newest is not None:
            name, stage = standing.learnt.newest
            wanted[_resource_of(subject, name)] = stage
        failed = [name for name, stage in wanted.items() if stage == REJECTED != stages.get(name)]
        if standing.revision is not None:
            wanted[_resource_of(subject, standing.revision.name)] = "Active"
        pin = owner.detector.spec.pinned_revision if owner.detector is not None else None
        is_repinned = standing.revision is not None and self._pins.get(subject) != pin
        if not is_repinned and all(stages.get(name) == stage for name, stage in wanted.items()):
            return
        await self._sync_models(owner, known)
        self._pins.pop(subject, None)
        if pin is not None:
            self._pins[subject] = pin
        if failed and standing.learnt is not None:
            say(owner, Said("Warning", CANDIDATE_REJECTED, standing.learnt.message))

    async def _sync_models(self, owner: Seen, known: dict[str, Child]) -> None:
        records = (await asyncio.to_thread(self.records.models, owner.subject))[:MOST_MODELS]
        wanted = [model_of(record, owner, self.artifacts) for record in records]
        for document, status in reversed(wanted):
            await self._write(MODELS, document, status, known)
        names = {document["metadata"]["name"] for document, _ in wanted}
        for name in [name for name in known if name not in names]:
            await self._delete(MODELS, known[name])

    async def _sync_anomalies(self, owner: Seen, known: dict[str, Child]) -> None:
        subject = owner.subject
        self._moved.discard(subject)
        try:
            incidents = await asyncio.to_thread(
                self.records.incidents, namespace=subject.namespace, name=subject.name, limit=MOST_ANOMALIES
            )
            for incident in reversed(incidents):
                document, status = anomaly_of(incident, owner)
                name = document["metadata"]["name"]
                if incident.ended_at_s is None or name in known or self.clock.now_s() - incident.ended_at_s < KEPT_S:
                    await self._write(ANOMALIES, document, status, known)
            names = {anomaly_name(subject.name, incident.incident_id) for incident in incidents}
            old_s = self.clock.now_s() - KEPT_S
            for each in list(known.values()):
                if each.name not in names or (each.ended_s is not None and each.ended_s < old_s):
                    await self._delete(ANOMALIES, each)
        except Unavailable:
            self._moved.add(subject)
            raise

    async def _write(
        self, kind: Kind, document: dict[str, Any], status: dict[str, Any], known: dict[str, Child]
    ) -> None:
        """Create what is missing, and bring its status up to date; both are harmless when done twice."""
        metadata = document["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        now, wanted = known.get(name), child({**document, "status": status})
        if now is not None and (now.state, now.why) == (wanted.state, wanted.why):
            return
        if now is None:
            try:
                await self.api.request("POST", kind.path(namespace), document)
                self.counted(kind.name, "written")
            except KubernetesRefused as error:
                if error.status == _NOT_FOUND:  # its namespace or its kind is going
                    return
                if error.status != _CONFLICT:
                    raise
        try:
            answer = await self.api.request("PATCH", f"{kind.path(namespace, name)}/status", {"status": status})
        except KubernetesRefused as error:
            if error.status == _NOT_FOUND:
                return
            raise
        self.counted(kind.name, "written")
        self.put(kind, child(answer))

    async def _delete(self, kind: Kind, each: Child) -> None:
        try:
            await self.api.request("DELETE", kind.path(each.namespace, each.name))
            self.counted(kind.name, "deleted")
        except KubernetesRefused as error:
            if error.status != _NOT_FOUND:
                raise


def _resource_of(subject: Subject, revision: str) -> str:
    version, number = revision.rsplit("-r", 1)
    return model_name(subject.name, version, int(number))
