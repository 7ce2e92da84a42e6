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

from foreshock.alerting.state import EndReason
from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import Damaged, NoSuchRevision, NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.core.policy import first_objection
from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Model, dump, load
from foreshock.engine.cohort import Revision
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import Group, frames_of, most_series
from foreshock.engine.watch import Watch
from foreshock.lifecycle import lines
from foreshock.lifecycle.feedback import TRUE_POSITIVE, Precision, precision_of, rows_of, stretched
from foreshock.lifecycle.train import WARM, maintenance_rows, rules_of, teaching_rows, train_revision, warm_share
from foreshock.lifecycle.validate import (
    PROMOTE,
    SHADOWED,
    Findings,
    Known,
    Trial,
    beside,
    examine,
    held_out,
    is_shaken,
    stays_moved,
    without,
)
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
    newest: tuple[str, str] | None = None  # the name and the stage of the revision that this round was about
    outcome: str = ""  # promoted, shadow, or the reason of the objection
    adapted: tuple[Subject, ...] = ()  # whose incidents turned out to be the new normal
    precision: Precision | None = None  # what the verdicts of people say


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
        if (waiting := lines.shadow(records)) is not None:
            due_s = min(due_s, waiting.created_s + spec.training.shadow)
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

    async def learn(self, watch: Watch, now_s: float, *, anew: bool = False) -> Learnt:
        """Train a new revision on what Prometheus holds of `training.window`, one model a group.

        While a candidate is in the shadow its time is waited for and then replayed, unless it is to be `anew`.

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
        records = await asyncio.to_thread(self._revisions.models, watch.subject, version=spec.model_line)
        if (waiting := lines.shadow(records)) is not None and _fits(waiting, spec) and not anew:
            shadowed_s = waiting.created_s + spec.training.shadow
            if now_s < shadowed_s:
                return self._waiting(watch, waiting, shadowed_s)
            return await self._end_shadow(watch, waiting, frames, now_s)
        adapting = self._lasting(watch, frames, incidents, now_s) if share >= 1.0 else frozenset()
        shaken = _is_shaken(watch, lines.active(records), incidents, now_s)
        given = precision_of(incidents)
        anchor = await self._anchor(watch, records, now_s) if share >= 1.0 else {}
        loop = asyncio.get_running_loop()
        models: dict[Group, Model] = {}
        found: Findings | None = None
        for group, frame in frames.items():
            subject = Subject(watch.subject.namespace, watch.subject.name, group)
            rows = _rows_of(watch, frame, incidents, subject, now_s, adapting)
            lesson = _Lesson(
                spec, frame, *rows, share < 1.0, len(frames), given.factor,
                self._champion(watch, group), anchor.get(group), _known(incidents, subject, now_s),
                subject in adapting, shaken,
            )  # fmt: skip
            try:
                models[group], findings = await loop.run_in_executor(self._executor, _fit_and_examine, lesson)
            except NotEnoughHistory:
                continue
            if findings is not None:
                found = findings if found is None else found + findings
        record = None
        if models:
            record = await self._keep(watch, models, frames, now_s, incidents, share, found, adapting)
        if share < 1.0:
            return _learning(watch, share, now_s)
        return self._came_to(watch, record, frames, now_s, adapting, given)

    def _came_to(
        self,
        watch: Watch,
        record: ModelRecord | None,
        frames: Mapping[Group, Frame],
        now_s: float,
        adapting: frozenset[Subject],
        given: Precision,
    ) -> Learnt:
        """What a round of training came to, and when the next one is due."""
        next_s = now_s + _jittered_s(watch)
        message = f"learnt from {format_duration(_length_s(frames))} of history"
        if record is None:
            return Learnt(watch.subject, message, next_s, ready=True, precision=given)
        outcome = str(record.details.get("outcome", "promoted"))
        if record.stage == lines.SHADOW:
            next_s = now_s + watch.spec.training.shadow
        if record.stage != lines.ACTIVE:
            message = f"{record.name} is {record.stage}: {record.details.get('why', '')}"
        return Learnt(
            watch.subject, message, next_s, ready=True, newest=(record.name, record.stage), outcome=outcome,
            adapted=tuple(sorted(adapting, key=str)) if record.stage == lines.ACTIVE else (), precision=given,
        )  # fmt: skip

    def _waiting(self, watch: Watch, record: ModelRecord, until_s: float) -> Learnt:
        return Learnt(
            watch.subject, f"{record.name} is looked at beside the active model", until_s, ready=True,
            newest=(record.name, record.stage),
        )  # fmt: skip

    async def _end_shadow(
        self, watch: Watch, record: ModelRecord, frames: Mapping[Group, Frame], now_s: float
    ) -> Learnt:
        """Replay the shadow's time for both models, which neither has seen, and promote or reject the candidate."""
        rules, budget = rules_of(watch.spec.named_metrics), watch.spec.false_alarm_budget.per_s / max(1, len(frames))
        loaded, found = await self._load(record), Findings()
        for group, model, _ in loaded:
            frame, champion = frames.get(group), self._champion(watch, group)
            if frame is not None and champion is not None:
                first = int(np.searchsorted(frame.times_s, record.trained_to_s, side="right"))
                found += beside(model, champion, Trial(frame, rules, budget), first)
        objection = first_objection(SHADOWED, found)
        async with watch.settling:
            if watch.is_retired:
                return self._waiting(watch, record, now_s)

            def change(records: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
                now = lines.named(records, record.revision)
                if now.stage != lines.SHADOW:  # somebody decided otherwise meanwhile
                    return ()
                if objection is not None:
                    return (lines.rejected(now, objection.message),)
                return lines.promoted(records, record.revision, now_s, "held its own beside the model before it")

            after = await asyncio.to_thread(self._revisions.change_models, record.subject, record.version, change)
            record = lines.named(after, record.revision)
            if record.stage == lines.ACTIVE:
                for group, model, digest in loaded:
                    watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, digest))
        why = str(record.details.get("why", ""))
        return Learnt(
            watch.subject, f"{record.name} is {record.stage}: {why}",
            max(now_s, record.trained_to_s + _jittered_s(watch)), ready=True, newest=(record.name, record.stage),
            outcome=objection.reason if objection is not None else "promoted",
        )  # fmt: skip

    def _lasting(
        self, watch: Watch, frames: Mapping[Group, Frame], incidents: Sequence[Incident], now_s: float
    ) -> frozenset[Subject]:
        """Whose incident is how the service is now.

        It has lasted longer than `training.persistence` and the metric still lies where it went, or it has lasted twice
        as long; and nobody confirmed that it is one.
        """
        result, least_s = set(), watch.spec.training.persistence
        for one in incidents:
            lasted_s, champion = now_s - one.started_at_s, self._champion(watch, one.subject.group)
            confirmed = one.feedback is not None and one.feedback.verdict == TRUE_POSITIVE
            frame = frames.get(one.subject.group)
            if one.ended_at_s is not None or confirmed or lasted_s < least_s or frame is None or champion is None:
                continue
            if lasted_s >= 2 * least_s or stays_moved(champion, frame, one.started_at_s):
                result.add(one.subject)
        return frozenset(result)

    def _champion(self, watch: Watch, group: Group) -> Model | None:
        """The model that judges this group and may page, or None."""
        row = watch.row_of_group.get(group)
        revision = watch.cohort.revisions[row] if row is not None else None
        return (
            watch.cohort.models[row] if row is not None and revision is not None and not revision.provisional else None
        )

    async def _anchor(self, watch: Watch, records: Sequence[ModelRecord], now_s: float) -> dict[Group, Model]:
        """What slow change is measured against; an anchor that cannot be read measures nothing."""
        record = lines.anchor(records, now_s)
        if record is None or not _fits(record, watch.spec):
            return {}
        try:
            return {group: model for group, model, _ in await self._load(record)}
        except Damaged:
            return {}

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
        found: Findings | None,
        adapting: frozenset[Subject],
    ) -> ModelRecord | None:
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
            each = Subject(subject.namespace, subject.name, group)
            fired, _ = _rows_of(watch, frames[group], incidents, each, now_s, adapting)
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
                "threshold_factor": precision_of(incidents).factor, **_validated(found),
            },
        )  # fmt: skip
        async with watch.settling:  # a detector that was changed or deleted meanwhile keeps nothing of this
            if watch.is_retired:
                return None
            record = await self._record(record, incidents, now_s, found, spec.training.shadow)
            if record.stage != lines.ACTIVE:
                return record
            for member, (group, model) in zip(members, models.items(), strict=True):
                watch.cohort.install(watch.row_of(dict(group)), model, _revision(record, member["digest"]))
        return record

    async def _record(
        self, new: ModelRecord, incidents: Sequence[Incident], now_s: float, found: Findings | None, shadow_s: int
    ) -> ModelRecord:
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
            judging = lines.active(records)
            objection = first_objection(PROMOTE, found) if found is not None else None
            if objection is not None:
                kept = lines.rejected(kept, objection.message)
                return (kept,)
            if judging is not None and lines.held_until_s(judging) > now_s:
                kept = lines.rejected(kept, f"{judging.name} was brought back by hand and is held")
                return (kept,)
            if found is not None and found.has_champion and not found.adapting and shadow_s:
                why = f"looked at beside {judging.name if judging else 'the active model'}"
                older = [
                    lines.rejected(one, f"overtaken by {kept.name}") for one in records if one.stage == lines.SHADOW
                ]
                kept = replace(kept, stage=lines.SHADOW, details={**kept.details, "why": why})
                return (*older, kept)
            adapted = found is not None and found.adapting
            details = {"confirmed": True} if adapted else {}
            why = "learnt a change that has lasted" if adapted else "learnt"
            return lines.promoted((kept, *records), kept.revision, now_s, why, **details)

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


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """All that one fit and its examination need, as it goes to another process."""

    spec: DetectorSpec
    frame: Frame
    fired: NDArray[np.bool_]
    confirmed: NDArray[np.bool_]
    provisional: bool
    n_groups: int
    factor: float
    champion: Model | None
    anchor: Model | None
    known: tuple[Known, ...]
    adapting: bool
    shaken: bool


def _fit_and_examine(lesson: _Lesson) -> tuple[Model, Findings | None]:
    """A candidate, and what became of it beside the champion; costs two fits and the replay of a day.

    Raises:
        NotEnoughHistory: of `train_revision`.

    """
    spec, frame = lesson.spec, lesson.frame
    fit = partial(train_revision, spec, n_groups=lesson.n_groups)
    taught = without(frame, lesson.confirmed)
    model = stretched(fit(taught, lesson.fired, provisional=lesson.provisional), lesson.factor)
    model = replace(model, availability=np.isfinite(frame.values).mean(axis=0))
    if lesson.provisional:
        return model, None
    try:
        probe = fit(without(taught, held_out(frame)), lesson.fired, provisional=True)
    except NotEnoughHistory:
        return model, None
    trial = Trial(
        frame, rules_of(spec.named_metrics), spec.false_alarm_budget.per_s / max(1, lesson.n_groups), lesson.known,
        lesson.adapting, lesson.shaken,
    )  # fmt: skip
    return model, examine(model, stretched(probe, lesson.factor), lesson.champion, trial, anchor=lesson.anchor)


def _known(incidents: Sequence[Incident], subject: Subject, now_s: float) -> tuple[Known, ...]:
    """The incidents that a candidate must still find: not what people called false or expected."""
    return tuple(
        Known(
            one.started_at_s, one.ended_at_s if one.ended_at_s is not None else now_s,
            confirmed=one.feedback is not None and one.feedback.verdict == TRUE_POSITIVE,
        )
        for one in incidents
        if one.subject == subject and one.reason is not EndReason.ADAPTED
        and (one.feedback is None or one.feedback.verdict == TRUE_POSITIVE)
    )  # fmt: skip


def _rows_of(
    watch: Watch,
    frame: Frame,
    incidents: Sequence[Incident],
    subject: Subject,
    now_s: float,
    adapting: frozenset[Subject],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    tail_s = watch.schema.long_steps * watch.schema.step_s
    return rows_of(frame, incidents, subject, now_s, tail_s=tail_s, lasts=subject in adapting)


def _is_shaken(watch: Watch, champion: ModelRecord | None, incidents: Sequence[Incident], now_s: float) -> bool:
    if champion is None:
        return False
    since = [
        one
        for one in incidents
        if one.started_at_s >= champion.trained_to_s and (one.feedback is None or one.feedback.verdict != TRUE_POSITIVE)
    ]
    return is_shaken(len(since), watch.spec.false_alarm_budget.per_s * (now_s - champion.trained_to_s))


def _validated(found: Findings | None) -> dict[str, Any]:
    if found is None:
        return {"validation": {"result": "NotRun"}}
    objection = first_objection(PROMOTE, found)
    result = {"result": "Passed" if objection is None else "Failed", **found.as_details()}
    return {"validation": result, "outcome": objection.reason if objection is not None else "promoted"}


def _jittered_s(watch: Watch) -> float:
    """Up to a tenth sooner than `retrain_interval`, always the same of a detector: a fleet does not train at once."""
    digest = hashlib.sha256(watch.subject.detector.encode()).digest()
    return watch.spec.training.retrain_interval * (1.0 - 0.1 * int.from_bytes(digest[:4]) / 2**32)


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
