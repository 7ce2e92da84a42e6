"""What a round of training is made of: which rows teach, which change has lasted, one fit and its examination. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foreshock.alerting.state import EndReason
from foreshock.core.errors import NotEnoughHistory
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.detectors.model import Model
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.lifecycle.drift import Drift, Reference, reference_of
from foreshock.lifecycle.feedback import TRUE_POSITIVE, Precision, precision_of, rows_of, stretched
from foreshock.lifecycle.train import SETTLED, maintenance_rows, rules_of, teaching_rows, train_revision, warm_share
from foreshock.lifecycle.validate import (
    Findings,
    Known,
    Trial,
    examine,
    held_out,
    is_shaken,
    stays_moved,
    without,
)
from foreshock.lifecycle.warm_up import WarmUp
from foreshock.manifests.detector import DetectorSpec
from foreshock.store.records import Incident, ModelRecord


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """All that one fit and its examination need, as it goes to another process."""

    spec: DetectorSpec
    frame: Frame
    fired: NDArray[np.bool_]
    confirmed: NDArray[np.bool_]
    warm_up: WarmUp
    n_groups: int
    given: Precision  # what people said: the threshold follows
    champion: Model | None
    anchor: Model | None
    known: tuple[Known, ...]
    adapting: bool
    shaken: bool
    moved_since_s: float  # of a drift that is learnt: what was before it is no measure


class Fitted(NamedTuple):
    """A candidate, what became of it beside the champion, and what drift is measured against later."""

    model: Model
    findings: Findings | None = None
    reference: Reference | None = None


def fit_and_examine(lesson: Lesson) -> Fitted:
    """A candidate and its examination; costs two fits and the replay of a day.

    Raises:
        NotEnoughHistory: of `train_revision`.

    """
    spec, frame = lesson.spec, lesson.frame
    if lesson.warm_up.is_over and warm_share(frame, lesson.warm_up.needed_s) < 1.0:  # of this group
        raise NotEnoughHistory("This group was measured for less than the warm-up: wait, or shorten training.warm_up.")
    fit = partial(train_revision, spec, n_groups=lesson.n_groups, provisional=True)
    taught = without(frame, lesson.confirmed)
    model = stretched(fit(taught, lesson.fired), lesson.given.factor)
    model = replace(model, availability=np.isfinite(frame.values).mean(axis=0))
    if not lesson.warm_up.is_over:
        return Fitted(model)
    rules = rules_of(spec.named_metrics)
    reference = reference_of(model, rules, taught, int(SETTLED * spec.training.persistence))
    try:
        probe = fit(without(taught, held_out(frame)), lesson.fired)
    except NotEnoughHistory:
        return Fitted(model, None, reference)
    trial = Trial(
        frame, rules, spec.false_alarm_budget.per_s / max(1, lesson.n_groups), lesson.known,
        lesson.adapting, lesson.shaken, lesson.moved_since_s,
    )  # fmt: skip
    findings = examine(model, stretched(probe, lesson.given.factor), lesson.champion, trial, anchor=lesson.anchor)
    return Fitted(model, findings, reference)


def lessons_of(
    watch: Watch,
    frames: Mapping[Group, Frame],
    incidents: Sequence[Incident],
    judging: ModelRecord | None,
    anchors: Mapping[Group, Model],
    adapting: frozenset[Subject],
    warm_up: WarmUp,
    drift: Drift | None,
    now_s: float,
) -> dict[Group, Lesson]:
    """One lesson for each group that was measured."""
    given = precision_of(incidents)
    before = float(judging.details.get("threshold_factor", 1.0)) if judging is not None else 1.0
    shaken = _is_shaken(watch, judging, incidents, now_s)
    tail_s = watch.schema.recent_steps * watch.schema.step_s + watch.spec.keep_firing_for
    lessons: dict[Group, Lesson] = {}
    for group, frame in frames.items():
        subject = Subject(watch.subject.namespace, watch.subject.name, group)
        rows = rows_of(frame, incidents, subject, now_s, tail_s=tail_s, lasts=subject in adapting)
        lessons[group] = Lesson(
            watch.spec, frame, *rows, warm_up, len(frames), given,
            _with_threshold(champion(watch, group), given.factor / before), anchors.get(group),
            _known(incidents, subject, now_s), subject in adapting, shaken,
            drift.since_s if drift is not None else 0.0,
        )  # fmt: skip
    return lessons


def lasting(
    watch: Watch, frames: Mapping[Group, Frame], incidents: Sequence[Incident], now_s: float
) -> frozenset[Subject]:
    """Whose incident is how the service is now.

    It has lasted longer than `training.persistence` and the metric still lies where it went, or it has lasted twice
    as long; and nobody confirmed that it is one.
    """
    result, least_s = set(), watch.spec.training.persistence
    for one in incidents:
        lasted_s, judge = now_s - one.started_at_s, champion(watch, one.subject.group)
        confirmed = one.feedback is not None and one.feedback.verdict == TRUE_POSITIVE
        frame = frames.get(one.subject.group)
        if one.ended_at_s is not None or confirmed or lasted_s < least_s or frame is None or judge is None:
            continue
        if lasted_s >= 2 * least_s or stays_moved(judge, frame, one.started_at_s):
            result.add(one.subject)
    return frozenset(result)


def champion(watch: Watch, group: Group) -> Model | None:
    """The group's own model that judges it and may page, or None: a sibling's is no measure for its own."""
    row = watch.row_of_group.get(group)
    revision = watch.cohort.revisions[row] if row is not None else None
    if row is None or revision is None or revision.provisional or revision.sibling is not None:
        return None
    return watch.cohort.models[row]


def _with_threshold(judge: Model | None, factor: float) -> Model | None:
    """The champion as the verdicts would have it: what a candidate learnt is compared, and not what people said."""
    return None if judge is None else stretched(judge, factor)


def rows_counted(lesson: Lesson, excluded: Counter[str]) -> int:
    """How many rows taught; the others are counted in `excluded` by their first reason, as rows of the grid."""
    spec, frame, fired = lesson.spec, lesson.frame, lesson.fired
    measured = np.asarray(np.isfinite(frame.values).any(axis=1))
    named = np.zeros(frame.n_times, np.bool_)
    for exclusion in spec.training.exclude:
        named |= (frame.times_s >= exclusion.start) & (frame.times_s < exclusion.end)
    teaches = teaching_rows(spec, frame, fired)
    reasons: dict[str, NDArray[np.bool_]] = {
        "not_measured": ~measured,
        "incident": measured & fired,
        "exclude": measured & ~fired & named,
    }
    for reason, rows in maintenance_rows(spec, frame).items():
        excluded_by = f"maintenance: {reason}" if reason else "maintenance"
        reasons[excluded_by] = measured & ~fired & ~named & rows
    for reason, rows in reasons.items():
        if count := int(rows.sum()):
            excluded[reason] += count
    return int((measured & teaches).sum())


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


def _is_shaken(watch: Watch, judging: ModelRecord | None, incidents: Sequence[Incident], now_s: float) -> bool:
    if judging is None:
        return False
    since = [
        one
        for one in incidents
        if one.started_at_s >= judging.trained_to_s and (one.feedback is None or one.feedback.verdict != TRUE_POSITIVE)
    ]
    return is_shaken(len(since), watch.spec.false_alarm_budget.per_s * (now_s - judging.trained_to_s))
