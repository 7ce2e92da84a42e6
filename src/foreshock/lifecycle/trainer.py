"""Train the detectors that need it, beside the cycles: fetch the history, fit in an executor, keep, install."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Model, dump, load
from foreshock.engine.cohort import Revision
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import Group, frames_of
from foreshock.engine.watch import Watch
from foreshock.lifecycle.train import WARM, train_revision, warm_share
from foreshock.manifests.detector import fingerprint
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.store.records import Incident, ModelRecord

_RETRY_S = 3_600  # how soon a detector that is still learning looks again, at the latest
_RETRY_AFTER_FAILURE_S = 60


class Artifacts(Protocol):
    """The port to the artifact store."""

    def put(self, arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> str: ...

    def get(self, digest: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]: ...


class Revisions(Protocol):
    """The port to the record of models and incidents."""

    def record_model(self, record: ModelRecord) -> None: ...

    def active_model(self, subject: Subject, version: str) -> ModelRecord | None: ...

    def next_revision(self, subject: Subject, version: str) -> int: ...

    def incidents(self, *, namespace: str | None = None, name: str | None = None) -> tuple[Incident, ...]: ...


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one round of training came to, in a sentence; `next_s` is when to look again."""

    subject: Subject
    message: str
    next_s: float
    ready: bool


class Trainer:
    """One detector at a time in the executor: training is throughput, cycles are latency."""

    def __init__(self, source: MetricSource, artifacts: Artifacts, revisions: Revisions, executor: Executor) -> None:
        self._source, self._artifacts, self._revisions, self._executor = source, artifacts, revisions, executor

    async def restore(self, watch: Watch, now_s: float) -> Learnt | None:
        """Install the active revision where it still fits the manifest; None where there is none that does.

        Raises:
            Damaged: the artifact is not what its digest says; training anew is the cure.

        """
        record = await asyncio.to_thread(self._revisions.active_model, watch.subject, watch.spec.model_line)
        if record is None or record.details.get("fingerprint") != fingerprint(watch.spec):
            return None
        members = record.details["members"]
        for member in members:
            group = tuple((str(name), str(value)) for name, value in member["group"])
            facts, arrays = await asyncio.to_thread(self._artifacts.get, member["digest"])
            row = watch.row_of(dict(group))
            watch.cohort.install(row, load(arrays, facts["model"]), _revision(record, member["digest"]))
        due_s = record.trained_to_s + watch.spec.training.retrain_interval
        return Learnt(watch.subject, f"{record.name} is active again", max(now_s, due_s), ready=True)

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
                watch.subject, "its queries have returned nothing so far", now_s + _RETRY_AFTER_FAILURE_S, ready=False
            )
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
            await self._keep(watch, models, frames, now_s, provisional=share < 1.0)
        if share < 1.0:
            return _learning(watch, share, now_s)
        return Learnt(
            watch.subject, f"learnt from {format_duration(_length_s(frames))} of history",
            now_s + spec.training.retrain_interval, ready=True,
        )  # fmt: skip

    async def _history(self, watch: Watch, to_s: int) -> list[Matrix]:
        from_s = to_s - watch.spec.training.window // watch.schema.step_s * watch.schema.step_s
        return [
            await self._source.range(RangeQuery(metric.query, from_s, to_s, watch.schema.step_s))
            for metric in watch.metrics
        ]

    async def _keep(
        self,
        watch: Watch,
        models: Mapping[Group, Model],
        frames: Mapping[Group, Frame],
        now_s: float,
        *,
        provisional: bool,
    ) -> None:
        spec, subject = watch.spec, watch.subject
        number = await asyncio.to_thread(self._revisions.next_revision, subject, spec.model_line)
        members: list[dict[str, Any]] = []
        for group, model in models.items():
            arrays, facts = dump(model)
            document = {"algorithm": spec.algorithm, "subject": subject.detector, "model": facts}
            members.append(
                {"group": list(group), "digest": await asyncio.to_thread(self._artifacts.put, arrays, document)}
            )
        first, last = min(frame.start_s for frame in frames.values()), max(frame.end_s for frame in frames.values())
        digests: list[str] = [member["digest"] for member in members]
        record = ModelRecord(
            subject=subject,
            version=spec.model_line,
            revision=number,
            digest=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
            algorithm=spec.algorithm,
            trained_from_s=first,
            trained_to_s=last,
            rows_used=sum(frame.n_times for frame in frames.values()),
            created_s=now_s,
            details={"fingerprint": fingerprint(spec), "members": members, "provisional": provisional},
        )
        await asyncio.to_thread(self._revisions.record_model, record)
        for member, (group, model) in zip(members, models.items(), strict=True):
            watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, member["digest"]))


def _revision(record: ModelRecord, digest: str) -> Revision:
    return Revision(
        record.version, record.name, digest, record.trained_from_s, record.trained_to_s,
        provisional=bool(record.details.get("provisional")),
    )  # fmt: skip


def _fired(frame: Frame, incidents: Sequence[Incident], subject: Subject, now_s: float) -> NDArray[np.bool_]:
    """The rows of this subject's incidents: they calibrate, and do not teach."""
    fired = np.zeros(frame.n_times, np.bool_)
    for incident in incidents:
        if incident.subject == subject:
            end_s = incident.ended_at_s if incident.ended_at_s is not None else now_s
            fired |= (frame.times_s >= incident.started_at_s) & (frame.times_s <= end_s)
    return fired


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
    return Learnt(watch.subject, message, now_s + min(max(left_s, 60.0), _RETRY_S), ready=False)
