"""Train the detectors that need it, beside the cycles: fetch the history, fit in an executor, keep, install."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np

from foreshock.core.errors import Damaged, NoSuchRevision, NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.core.policy import first_objection
from foreshock.detectors.model import Model
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import Group, frames_of, most_series
from foreshock.engine.watch import Watch
from foreshock.lifecycle import learnt, lines, promote
from foreshock.lifecycle.drift import Drift, drift_of, needed_s
from foreshock.lifecycle.feedback import precision_of
from foreshock.lifecycle.learnt import Learnt
from foreshock.lifecycle.lesson import Fitted, Lesson, champion, fit_and_examine, lasting, lessons_of
from foreshock.lifecycle.shelf import Artifacts, Revisions, Shelf
from foreshock.lifecycle.siblings import Loan, has_shown_enough, lend, most_alike
from foreshock.lifecycle.train import DAY_S, rules_of
from foreshock.lifecycle.validate import SHADOWED, Findings, Trial, beside
from foreshock.lifecycle.warm_up import warm_up_of
from foreshock.prometheus.requests import RangeQuery
from foreshock.store.records import ModelRecord


class Trainer:
    """One detector at a time in the executor: training is throughput, cycles are latency."""

    def __init__(self, source: MetricSource, artifacts: Artifacts, revisions: Revisions, executor: Executor) -> None:
        self._source, self._shelf, self._executor = source, Shelf(artifacts, revisions), executor

    async def restore(self, watch: Watch, now_s: float) -> Learnt | None:
        """Install the pinned or the active revision where it fits the manifest; None where there is none that does.

        Raises:
            Damaged: the artifact is not what its digest says; training anew is the cure.
            NoSuchRevision: the revision that the manifest pins does not exist, or judges other metrics.

        """
        spec, pinned = watch.spec, watch.spec.pinned_revision
        records = await self._shelf.records(watch)
        if pinned is None:
            record = lines.active(records)
            if record is None or not (record.details.get("by_hand") or lines.fits(record, spec)):
                return None
        else:
            record = lines.named(records, pinned)
        loaded = await self._shelf.load(record)
        if any(model.schema != watch.schema for _, model, _ in loaded):
            if pinned is None:
                return None
            raise NoSuchRevision(f"{record.name} was trained on other metrics or windows; name another model_version.")
        await self._shelf.restore(watch, record, loaded, now_s, pinned=pinned is not None)
        if pinned is not None:
            return learnt.pinned(watch, record)
        return learnt.restored(watch, record, records, now_s)

    async def fall_back(self, watch: Watch) -> str | None:
        """Let the last revision that can be read judge in place of a damaged one; its name, or None without any.

        The records stay as they are: what is trained next replaces both.
        """
        for record in lines.instead(await self._shelf.records(watch)):
            if not lines.fits(record, watch.spec):
                continue
            try:
                loaded = await self._shelf.load(record)
            except Damaged:
                continue
            if all(model.schema == watch.schema for _, model, _ in loaded):
                return record.name if await self._shelf.install(watch, record, loaded) else None
        return None

    async def drifted(self, watch: Watch, now_s: float) -> Drift | None:
        """What has moved furthest since the active revision learnt, of all groups; None where nothing can be said.

        Nothing is said for a day after a training for this reason, while a candidate is in the shadow, and while a
        revision is held that was brought back.

        Raises:
            ForeshockError: the last hours or the revision could not be read.

        """
        spec, records = watch.spec, await self._shelf.records(watch)
        judging = lines.active(records)
        if judging is None or not lines.fits(judging, spec) or lines.shadow(records) is not None:
            return None
        if lines.held_until_s(judging) > now_s:
            return None
        if any(one.details.get("drift") and now_s - one.created_s < DAY_S for one in records):
            return None
        references = await self._shelf.references(judging, len(watch.metrics))
        models = {group: model for group in references if (model := champion(watch, group)) is not None}
        if not models:
            return None
        length_s = max(needed_s(model, references[group]) for group, model in models.items())
        frames = await self._history(watch, watch.rhythm.latest_s(now_s), length_s)
        rules, loop = rules_of(spec.named_metrics), asyncio.get_running_loop()
        found = [
            await loop.run_in_executor(self._executor, drift_of, model, references[group], rules, frames[group])
            for group, model in models.items()
            if group in frames
        ]
        return max((one for one in found if one is not None), key=lambda one: one.ratio, default=None)

    async def learn(self, watch: Watch, now_s: float, *, anew: bool = False, drift: Drift | None = None) -> Learnt:
        """Train a new revision on what Prometheus holds of `training.window`, one model a group.

        While a candidate is in the shadow its time is waited for and then replayed, unless it is to be `anew`. A
        `drift` that was the reason is kept in the record.

        Raises:
            ForeshockError: the history could not be read, or the result not be kept.

        """
        spec = watch.spec
        frames = await self._history(watch, watch.rhythm.latest_s(now_s), spec.training.window)
        if not frames:
            return learnt.no_series(watch, now_s)
        incidents, records = await self._shelf.incidents(watch), await self._shelf.records(watch)
        if (waiting := lines.shadow(records)) is not None and lines.fits(waiting, spec) and not anew:
            shadowed_s = waiting.created_s + spec.training.shadow
            if now_s < shadowed_s:
                return learnt.in_shadow(watch, waiting, shadowed_s)
            return await self._end_shadow(watch, waiting, frames, now_s)
        warm_up, judging = warm_up_of(spec, frames, records), lines.active(records)
        if not warm_up.is_over and judging is not None and lines.fits(judging, spec) and _pages(watch):
            return learnt.too_short(watch, warm_up, judging, now_s)
        adapting = lasting(watch, frames, incidents, now_s) if warm_up.is_over else frozenset()
        anchors = await self._anchors(watch, lines.anchor(records, now_s)) if warm_up.is_over else {}
        lessons = lessons_of(watch, frames, incidents, judging, anchors, adapting, warm_up, drift, now_s)
        fitted, found = await self._fit(lessons)
        record = None
        if fitted:
            digests, models = await self._shelf.save(watch, fitted), {group: one.model for group, one in fitted.items()}
            loans = await self._lend(watch, lessons, models) if warm_up.is_over else {}
            new = promote.candidate(watch, lessons, digests, loans, found, warm_up, drift, now_s)
            lenders = {group: group for group in models} | {group: loan.sibling for group, loan in loans.items()}
            record = await self._shelf.change(
                watch, new, [(group, models[lender], digests[lender]) for group, lender in lenders.items()],
                partial(promote.entered, new=new, found=found, now_s=now_s, shadow_s=spec.training.shadow),
                partial(lines.superfluous, referenced=promote.referenced(incidents), now_s=now_s),
            )  # fmt: skip
        if not warm_up.is_over:
            return learnt.learning(watch, warm_up, now_s)
        return learnt.came_to(watch, record, frames, adapting, precision_of(incidents), now_s)

    async def _fit(self, lessons: Mapping[Group, Lesson]) -> tuple[dict[Group, Fitted], Findings | None]:
        """The models of those groups that had enough history, and what was found of all of them."""
        loop, fitted, found = asyncio.get_running_loop(), dict[Group, Fitted](), None
        for group, lesson in lessons.items():
            try:
                one = fitted[group] = await loop.run_in_executor(self._executor, fit_and_examine, lesson)
            except NotEnoughHistory:
                continue
            if one.findings is not None:
                found = one.findings if found is None else found + one.findings
        return fitted, found

    async def _lend(
        self, watch: Watch, lessons: Mapping[Group, Lesson], models: Mapping[Group, Model]
    ) -> dict[Group, Loan]:
        """Whose models judge the groups that have too little history for their own."""
        loop, loans = asyncio.get_running_loop(), dict[Group, Loan]()
        for group, lesson in lessons.items():
            if group in models or not has_shown_enough(lesson.frame, watch.spec.detection_window):
                continue
            if champion(watch, group) is not None:  # it has had its own, and keeps it
                continue
            tried = [(sibling, models[sibling]) for sibling in most_alike(lesson.frame, models)]
            loan = await loop.run_in_executor(self._executor, lend, tried, replace(lesson, champion=None, anchor=None))
            if loan is not None:
                loans[group] = loan
        return loans

    async def _end_shadow(
        self, watch: Watch, record: ModelRecord, frames: Mapping[Group, Frame], now_s: float
    ) -> Learnt:
        """Replay the shadow's time for both models, which neither has seen, and promote or reject the candidate."""
        rules, budget = rules_of(watch.spec.named_metrics), watch.spec.false_alarm_budget.per_s / max(1, len(frames))
        loaded, found = await self._shelf.load(record), Findings()
        for group, model, _ in loaded:
            frame, judge = frames.get(group), champion(watch, group)
            if frame is not None and judge is not None:
                first = int(np.searchsorted(frame.times_s, record.trained_to_s, side="right"))
                found += beside(model, judge, Trial(frame, rules, budget), first)
        objection = first_objection(SHADOWED, found)
        change = partial(promote.left_shadow, revision=record.revision, objection=objection, now_s=now_s)
        after = await self._shelf.change(watch, record, loaded, change)
        if after is None:
            return learnt.in_shadow(watch, record, now_s)
        return learnt.left_shadow(watch, after, objection.reason if objection is not None else "promoted", now_s)

    async def _anchors(self, watch: Watch, record: ModelRecord | None) -> dict[Group, Model]:
        """What slow change is measured against; an anchor that cannot be read measures nothing."""
        if record is None or not lines.fits(record, watch.spec):
            return {}
        try:
            return {group: model for group, model, _ in await self._shelf.load(record)}
        except Damaged:
            return {}

    async def _history(self, watch: Watch, to_s: int, length_s: int) -> dict[Group, Frame]:
        from_s = to_s - length_s // watch.schema.step_s * watch.schema.step_s
        limit = most_series(watch.manifest)
        matrices = [
            await self._source.range(RangeQuery(metric.query, from_s, to_s, watch.schema.step_s, limit))
            for metric in watch.metrics
        ]
        return frames_of(watch.manifest, matrices)


def _pages(watch: Watch) -> bool:
    """Whether any group is judged by a model that may page."""
    return any(champion(watch, group) is not None for group in watch.row_of_group)
