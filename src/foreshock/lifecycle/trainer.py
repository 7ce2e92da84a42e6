"""Train the detectors that need it, beside the cycles: fetch the history, fit in an executor, keep, install."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import Damaged, NoSuchRevision, NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Model, dump, load
from foreshock.engine.cohort import Revision
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import Group, frames_of, most_series
from foreshock.engine.watch import Watch
from foreshock.lifecycle import lines
from foreshock.lifecycle.train import WARM, maintenance_rows, teaching_rows, train_revision, warm_share
from foreshock.manifests.detector import DetectorSpec, fingerprint
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.store.records import Incident, ModelChange, ModelRecord, Notice

_RETRY_S = 3_600  # how soon a detector that is still learning looks again, at the latest
_RETRY_AFTER_FAILURE_S = 60
NEVER_S = float("inf")


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


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one round of training came to, in a sentence; `next_s` is when to look again."""

    subject: Subject
    message: str
    next_s: float
    ready: bool
    share: float = 1.0  # of the warm-up that was measured
    warm_at_s: float | None = None  # when the warm-up should be over


class Trainer:
    """One detector at a time in the executor: training is throughput, cycles are latency."""

    def __init__(self, source: MetricSource, artifacts: Artifacts, revisions: Revisions, executor: Executor) -> None:
        self._source, self._artifacts, self._revisions, self._executor = source, artifacts, revisions, executor

    async def restore(self, watch: Watch, now_s: float) -> Learnt | None:
        """Install the pinned or the active revision where it fits the manifest; None where there is none that does.

        Raises:
            Damaged: the artifact is not what its digest says; training anew is the cure.
            NoSuchRevision: the revision that the manifest pins does not exist, or judges other metrics.

        """
        spec, pinned = watch.spec, watch.spec.pinned_revision
        records = await asyncio.to_thread(self._revisions.models, watch.subject, version=spec.model_line)
        if pinned is None:
            record = lines.active(records)
            if record is None or not (record.details.get("by_hand") or _fits(record, spec)):
                return None
        else:
            record = lines.named(records, pinned)
        loaded = await self._load(record)
        if any(model.schema != watch.schema for _, model, _ in loaded):
            if pinned is None:
                return None
            raise NoSuchRevision(f"{record.name} was trained on other metrics or windows; name another model_version.")
        async with watch.settling:
            if not watch.is_retired:
                if bool(record.details.get("pinned")) != (pinned is not None) or record.stage != lines.ACTIVE:
                    await self._pin(record, now_s, pinned=pinned is not None)
                for group, model, digest in loaded:
                    watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, digest))
        if pinned is not None:
            return Learnt(watch.subject, f"{record.name} is pinned", NEVER_S, ready=True)
        chosen_s = float(record.details["active_from_s"]) if record.details.get("by_hand") else 0.0
        due_s = max(record.trained_to_s, chosen_s) + spec.training.retrain_interval
        due_s = max(due_s, lines.held_until_s(record))
        ready = not lines.is_provisional(record)
        return Learnt(
            watch.subject, f"{record.name} judges", max(now_s, due_s) if ready else now_s, ready=ready,
            share=1.0 if ready else float(record.details.get("warm_share", 0.0)),
        )  # fmt: skip

    async def _pin(self, record: ModelRecord, now_s: float, *, pinned: bool) -> None:
        """What spec.model_version names is the active one of its line; a line that is not pinned any more goes on."""
        why = "pinned by spec.model_version" if pinned else "not pinned any more"

        def change(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            return lines.promoted(records, record.revision, now_s, why, pinned=pinned)

        await asyncio.to_thread(self._revisions.change_models, record.subject, record.version, change)

    async def fall_back(self, watch: Watch) -> str | None:
        """Let the last revision that can be read judge in place of a damaged one; its name, or None without any.

        The records stay as they are: what is trained next replaces both.
        """
        spec, schema = watch.spec, watch.schema
        records = await asyncio.to_thread(self._revisions.models, watch.subject, version=spec.model_line)
        for record in lines.instead(records):
            if record.details.get("fingerprint") != fingerprint(spec):
                continue
            try:
                loaded = await self._load(record)
            except Damaged:
                continue
            if all(model.schema == schema for _, model, _ in loaded):
                async with watch.settling:
                    if watch.is_retired:
                        return None
                    for group, model, digest in loaded:
                        watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, digest))
                return record.name
        return None

    async def _load(self, record: ModelRecord) -> list[tuple[Group, Model, str]]:
        """The models of all groups of a revision, each with its digest.

        Raises:
            Damaged: one of them is not what its digest says.
            StoreUnavailable: the store is away.

        """
        loaded: list[tuple[Group, Model, str]] = []
        for member in record.details["members"]:
            group = tuple((str(name), str(value)) for name, value in member["group"])
            facts, arrays = await asyncio.to_thread(self._artifacts.get, member["digest"])
            loaded.append((group, load(arrays, facts["model"]), member["digest"]))
        return loaded

    async def learn(self, watch: Watch, now_s: float) -> Learnt:
        """Train a new revision on what Prometheus holds of `training.window`, one model a group.

        Raises:
            ForeshockError: the history could not be read, or the result not be kept.

        """
        spec, to_s = watch.spec, watch.rhythm.latest_s(now_s)
        history = await self._history(watch, to_s)
        frames = frames_of(watch.manifest, history)
        if not frames:
            return Learnt(
                watch.subject, "its queries have returned nothing so far", now_s + _RETRY_AFTER_FAILURE_S, ready=False,
                share=0.0,
            )  # fmt: skip
        share = max(warm_share(frame, spec.training.warm_up) for frame in frames.values())
        incidents = await asyncio.to_thread(
            self._revisions.incidents, namespace=watch.subject.namespace, name=watch.subject.name
        )
        loop = asyncio.get_running_loop()
        models: dict[Group, Model] = {}
        for group, frame in frames.items():
            fired = _fired(frame, incidents, Subject(watch.subject.namespace, watch.subject.name, group), now_s)
            try:
                fit = partial(train_revision, spec, frame, fired, provisional=share < 1.0, n_groups=len(frames))
                models[group] = await loop.run_in_executor(self._executor, fit)
            except NotEnoughHistory:
                continue
        if models:
            await self._keep(watch, models, frames, now_s, incidents, share)
        if share < 1.0:
            return _learning(watch, share, now_s)
        return Learnt(
            watch.subject, f"learnt from {format_duration(_length_s(frames))} of history",
            now_s + spec.training.retrain_interval, ready=True,
        )  # fmt: skip

    async def _history(self, watch: Watch, to_s: int) -> list[Matrix]:
        from_s = to_s - watch.spec.training.window // watch.schema.step_s * watch.schema.step_s
        limit = most_series(watch.manifest)
        return [
            await self._source.range(RangeQuery(metric.query, from_s, to_s, watch.schema.step_s, limit))
            for metric in watch.metrics
        ]

    async def _keep(
        self,
        watch: Watch,
        models: Mapping[Group, Model],
        frames: Mapping[Group, Frame],
        now_s: float,
        incidents: Sequence[Incident],
        share: float,
    ) -> None:
        spec, subject = watch.spec, watch.subject
        members: list[dict[str, Any]] = []
        for group, model in models.items():
            arrays, facts = dump(model)
            document = {"algorithm": spec.algorithm, "subject": subject.detector, "model": facts}
            members.append(
                {"group": list(group), "digest": await asyncio.to_thread(self._artifacts.put, arrays, document)}
            )
        used, excluded = 0, Counter[str]()
        for group in models:
            fired = _fired(frames[group], incidents, Subject(subject.namespace, subject.name, group), now_s)
            used += _count_rows(watch, frames[group], fired, excluded)
        first, last = min(frame.start_s for frame in frames.values()), max(frame.end_s for frame in frames.values())
        digests: list[str] = [member["digest"] for member in members]
        record = ModelRecord(
            subject=subject,
            version=spec.model_line,
            revision=0,  # counted under the lock
            digest=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
            algorithm=spec.algorithm,
            trained_from_s=first,
            trained_to_s=last,
            rows_used=used,
            rows_excluded=dict(excluded),
            created_s=now_s,
            details={
                "fingerprint": fingerprint(spec), "members": members, "provisional": share < 1.0, "warm_share": share,
                "schema": watch.schema.fingerprint, "budget": str(spec.false_alarm_budget),
            },
        )  # fmt: skip
        async with watch.settling:  # a detector that was changed or deleted meanwhile keeps nothing of this
            if watch.is_retired:
                return
            record = await self._record(record, incidents, now_s)
            if record.stage != lines.ACTIVE:
                return
            for member, (group, model) in zip(members, models.items(), strict=True):
                watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, member["digest"]))

    async def _record(self, new: ModelRecord, incidents: Sequence[Incident], now_s: float) -> ModelRecord:
        """The new revision as it was stored; where this very training was stored before a crash, it is that one."""
        kept = replace(new)

        def change(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            nonlocal kept
            again = next(
                (one for one in records if (one.digest, one.trained_to_s) == (new.digest, new.trained_to_s)), None
            )
            if again is not None:
                kept = again
                return ()
            kept = replace(new, revision=max((one.revision for one in records), default=0) + 1)
            return lines.promoted((kept, *records), kept.revision, now_s, "learnt")

        def forget(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            return lines.superfluous(records, _referenced(incidents), now_s)

        after = await asyncio.to_thread(self._revisions.change_models, new.subject, new.version, change, forget=forget)
        return lines.named(after, kept.revision)


def _fits(record: ModelRecord, spec: DetectorSpec) -> bool:
    return bool(record.details.get("fingerprint") == fingerprint(spec))


def _referenced(incidents: Sequence[Incident]) -> set[str]:
    """The names of the revisions that the incidents' evidence refers to."""
    models = (((incident.evidence or {}).get("data") or {}).get("model") or {} for incident in incidents)
    return {str(model["revision"]) for model in models if "revision" in model}


def _revision(record: ModelRecord, digest: str) -> Revision:
    return Revision(
        record.version, record.name, digest, record.trained_from_s, record.trained_to_s,
        provisional=bool(record.details.get("provisional")),
        rows_used=record.rows_used, rows_excluded=record.rows_excluded,
    )  # fmt: skip


def _fired(frame: Frame, incidents: Sequence[Incident], subject: Subject, now_s: float) -> NDArray[np.bool_]:
    """The rows of this subject's incidents: they calibrate, and do not teach."""
    fired = np.zeros(frame.n_times, np.bool_)
    for incident in incidents:
        if incident.subject == subject:
            end_s = incident.ended_at_s if incident.ended_at_s is not None else now_s
            fired |= (frame.times_s >= incident.started_at_s) & (frame.times_s <= end_s)
    return fired


def _count_rows(watch: Watch, frame: Frame, fired: NDArray[np.bool_], excluded: Counter[str]) -> int:
    """How many rows taught; the others are counted in `excluded` by their first reason, as rows of the grid."""
    measured = np.asarray(np.isfinite(frame.values).any(axis=1))
    named = np.zeros(frame.n_times, np.bool_)
    for exclusion in watch.spec.training.exclude:
        named |= (frame.times_s >= exclusion.start) & (frame.times_s < exclusion.end)
    teaches = teaching_rows(watch.spec, frame, fired)
    reasons: dict[str, NDArray[np.bool_]] = {
        "not_measured": ~measured,
        "incident": measured & fired,
        "exclude": measured & ~fired & named,
    }
    for reason, rows in maintenance_rows(watch.spec, frame).items():
        excluded_by = f"maintenance: {reason}" if reason else "maintenance"
        reasons[excluded_by] = measured & ~fired & ~named & rows
    for reason, rows in reasons.items():
        if count := int(rows.sum()):
            excluded[reason] += count
    return int((measured & teaches).sum())


def _length_s(frames: Mapping[Group, Frame]) -> int:
    return max(frame.n_times * frame.step_s for frame in frames.values())


def _learning(watch: Watch, share: float, now_s: float) -> Learnt:
    """Say how far the warm-up is and when it should be over."""
    warm_up_s = watch.spec.training.warm_up
    left_s = (1.0 - share) * WARM * warm_up_s
    measured_s = int(share * WARM * warm_up_s) // 60 * 60
    message = (
        f"learning: {share:.0%} of the warm-up ({format_duration(measured_s)} of {format_duration(warm_up_s)}), "
        f"expected to end at {rfc3339(int(now_s + left_s))}; it judges and does not page until then"
    )
    next_s = now_s + min(max(left_s, 60.0), _RETRY_S)
    return Learnt(watch.subject, message, next_s, ready=False, share=share, warm_at_s=now_s + left_s)
