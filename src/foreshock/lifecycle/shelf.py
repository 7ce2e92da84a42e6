"""Where revisions are kept and taken from: artifacts, their records, and the rows of a fleet that they judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Model, dump, load
from foreshock.engine.cohort import Revision
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.lifecycle import lines, promote
from foreshock.lifecycle.drift import Reference
from foreshock.lifecycle.lesson import Fitted
from foreshock.store.records import Incident, ModelChange, ModelRecord, Notice

Loaded = Sequence[tuple[Group, Model, str]]  # the models of all groups of a revision, each with its digest


class Artifacts(Protocol):
    """The port to the artifact store."""

    def put(self, arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> str: ...

    def get(self, digest: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]: ...


class Revisions(Protocol):
    """The port to the record of models and incidents."""

    def models(self, subject: Subject, *, version: str | None = None) -> tuple[ModelRecord, ...]: ...

    def change_models(
        self, subject: Subject, version: str, change: ModelChange, *, forget: ModelChange = ...
    ) -> tuple[ModelRecord, ...]: ...

    def incidents(self, *, namespace: str | None = None, name: str | None = None) -> tuple[Incident, ...]: ...

    def notices(self) -> tuple[Notice, ...]: ...

    def settle_notices(self, done: Collection[Notice]) -> None: ...


class Shelf:
    """The kept revisions of all detectors; what is retired meanwhile keeps nothing and is given nothing."""

    def __init__(self, artifacts: Artifacts, revisions: Revisions) -> None:
        self._artifacts, self._revisions = artifacts, revisions

    async def records(self, watch: Watch) -> tuple[ModelRecord, ...]:
        """The detector's line, newest first."""
        return await asyncio.to_thread(self._revisions.models, watch.subject, version=watch.spec.model_line)

    async def incidents(self, watch: Watch) -> tuple[Incident, ...]:
        """Everything that happened to the detector, of all its groups."""
        subject = watch.subject
        return await asyncio.to_thread(self._revisions.incidents, namespace=subject.namespace, name=subject.name)

    async def load(self, record: ModelRecord) -> Loaded:
        """The models of a revision.

        Raises:
            Damaged: one of them is not what its digest says.
            StoreUnavailable: the store is away.

        """
        loaded: list[tuple[Group, Model, str]] = []
        models: dict[str, Model] = {}  # siblings share theirs
        for member in record.details["members"]:
            digest = member["digest"]
            if digest not in models:
                facts, arrays = await asyncio.to_thread(self._artifacts.get, digest)
                models[digest] = load(arrays, facts["model"])
            loaded.append((lines.group_from(member["group"]), models[digest], digest))
        return loaded

    async def references(self, record: ModelRecord, n_metrics: int) -> dict[Group, Reference]:
        """What drift from a revision is measured against; nothing of one that an earlier version trained.

        Raises:
            Damaged: an artifact is not what its digest says.
            StoreUnavailable: the store is away.

        """
        found: dict[Group, Reference] = {}
        for member in record.details["members"]:
            if "sibling" in member:
                continue
            _, arrays = await asyncio.to_thread(self._artifacts.get, member["digest"])
            if (reference := Reference.load(arrays, n_metrics)) is not None:
                found[lines.group_from(member["group"])] = reference
        return found

    async def save(self, watch: Watch, fitted: Mapping[Group, Fitted]) -> dict[Group, str]:
        """Write an artifact for each group; its digests. What no record comes to name is swept later."""
        digests: dict[Group, str] = {}
        for group, (model, _, reference) in fitted.items():
            arrays, facts = dump(model)
            arrays |= reference.dump() if reference is not None else {}
            document = {"algorithm": watch.spec.algorithm, "subject": watch.subject.detector, "model": facts}
            digests[group] = await asyncio.to_thread(self._artifacts.put, arrays, document)
        return digests

    async def install(self, watch: Watch, record: ModelRecord, loaded: Loaded) -> bool:
        """Let a revision judge; False where the detector was changed or deleted meanwhile."""
        async with watch.settling:
            if not watch.is_retired:
                _put_to_work(watch, record, loaded)
            return not watch.is_retired

    async def restore(self, watch: Watch, record: ModelRecord, loaded: Loaded, now_s: float, *, pinned: bool) -> None:
        """Let a revision judge that is the active one, or that the manifest names, which makes it the active one."""
        why = "pinned by spec.model_version" if pinned else "not pinned any more"

        def change(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            return lines.promoted(records, record.revision, now_s, why, pinned=pinned)

        async with watch.settling:
            if watch.is_retired:
                return
            if bool(record.details.get("pinned")) != pinned or record.stage != lines.ACTIVE:
                await self._change(record, change)
            _put_to_work(watch, record, loaded)

    async def change(
        self,
        watch: Watch,
        record: ModelRecord,
        loaded: Loaded,
        change: ModelChange,
        forget: ModelChange = lambda _: (),
    ) -> ModelRecord | None:
        """Change a line; `record` as it stands then, judging where it became the active one; None as in `install`.

        A record of revision 0 is a new one: what stands then is the record of the same training.
        """
        async with watch.settling:
            if watch.is_retired:
                return None
            after = await self._change(record, change, forget)
            stands = promote.same_training(after, record) or lines.named(after, record.revision)
            if stands.stage == lines.ACTIVE:
                _put_to_work(watch, stands, loaded)
            return stands

    async def _change(
        self, record: ModelRecord, change: ModelChange, forget: Callable[..., Any] = lambda _: ()
    ) -> tuple[ModelRecord, ...]:
        return await asyncio.to_thread(
            self._revisions.change_models, record.subject, record.version, change, forget=forget
        )


def _put_to_work(watch: Watch, record: ModelRecord, loaded: Loaded) -> None:
    members = {lines.group_from(member["group"]): member for member in record.details["members"]}
    for group, model, digest in loaded:
        member = members.get(group, {})
        revision = Revision(
            record.version, record.name, digest, record.trained_from_s, record.trained_to_s,
            provisional=lines.is_provisional(record) or bool(member.get("provisional")),
            rows_used=record.rows_used, rows_excluded=record.rows_excluded,
            sibling=lines.group_from(member["sibling"]) if "sibling" in member else None,
        )  # fmt: skip
        watch.cohort.install(watch.row_of(dict(group)), model, revision)
