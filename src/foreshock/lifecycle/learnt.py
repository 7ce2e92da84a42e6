"""What a round of training came to, in a sentence, and when the next one is due. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.lifecycle import lines
from foreshock.lifecycle.feedback import Precision
from foreshock.lifecycle.warm_up import WarmUp
from foreshock.store.records import ModelRecord

_RETRY_S = 3_600  # how soon a detector that is still learning looks again, at the latest
_RETRY_AFTER_FAILURE_S = 60
NEVER_S = float("inf")


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


def pinned(watch: Watch, record: ModelRecord) -> Learnt:
    """A pinned revision judges and is never retrained."""
    return Learnt(watch.subject, f"{record.name} is pinned", NEVER_S, ready=True)


def restored(watch: Watch, record: ModelRecord, records: Sequence[ModelRecord], now_s: float) -> Learnt:
    """A kept revision of a line judges again, and is due when it would have been: at once where it is provisional.

    A candidate that was rejected counts as a training: starting again must not train everybody whose last one was.
    """
    training = watch.spec.training
    chosen_s = float(record.details["active_from_s"]) if record.details.get("by_hand") else 0.0
    trained_s = max(one.trained_to_s for one in records if lines.fits(one, watch.spec) or one is record)
    due_s = max(trained_s, chosen_s) + training.retrain_interval
    due_s = max(due_s, lines.held_until_s(record))
    if (shadow := lines.shadow(records)) is not None:
        due_s = min(due_s, shadow.created_s + training.shadow)
    ready = not lines.is_provisional(record)
    return Learnt(
        watch.subject, f"{record.name} judges", max(now_s, due_s) if ready else now_s, ready=ready,
        share=1.0 if ready else float(record.details.get("warm_share", 0.0)),
        warm_at_s=None if ready else record.details.get("warm_at_s"),
    )  # fmt: skip


def no_series(watch: Watch, now_s: float) -> Learnt:
    """There is nothing to learn from so far."""
    return Learnt(
        watch.subject, "its queries have returned nothing so far", now_s + _RETRY_AFTER_FAILURE_S, ready=False,
        share=0.0,
    )  # fmt: skip


def learning(watch: Watch, warm_up: WarmUp, now_s: float) -> Learnt:
    """How far the warm-up is and when it should be over."""
    ends_s, needed = now_s + warm_up.left_s, format_duration(warm_up.needed_s)
    if warm_up.held_s is not None:
        held = format_duration(warm_up.held_s // 60 * 60)
        is_enough = warm_up.held_s >= warm_up.needed_s
        needed = f"the {held} that Prometheus holds" if is_enough else f"{needed}; Prometheus holds {held}: too little"
    lacks = f", lacks {warm_up.lacking}" if warm_up.lacking else ""
    ranged = any(metric.valid_range is not None for metric in watch.metrics)
    message = (
        f"learning: {warm_up.share:.0%} of the warm-up ({format_duration(warm_up.measured_s // 60 * 60)} of {needed}"
        f"{lacks}), expected to end at {rfc3339(int(ends_s))}; until then it judges, and pages "
        f"{'only outside valid_range' if ranged else 'nobody'}"
    )
    next_s = now_s + min(max(warm_up.left_s, 60.0), _RETRY_S)
    return Learnt(watch.subject, message, next_s, ready=False, share=warm_up.share, warm_at_s=ends_s)


def too_short(watch: Watch, warm_up: WarmUp, record: ModelRecord, now_s: float) -> Learnt:
    """What judges is better than what the history could teach now: much of it was lost."""
    return Learnt(
        watch.subject,
        f"{record.name} judges on: {format_duration(warm_up.measured_s // 60 * 60)} of history are left, and its "
        f"successor needs {format_duration(warm_up.needed_s)}",
        now_s + jittered_s(watch), ready=True,
    )  # fmt: skip


def came_to(
    watch: Watch,
    record: ModelRecord | None,
    frames: Mapping[Group, Frame],
    adapting: Collection[Subject],
    given: Precision,
    now_s: float,
) -> Learnt:
    """What became of the candidate of a round; `record` is None where no group could be learnt, or nobody asks now."""
    length_s = max(frame.n_times * frame.step_s for frame in frames.values())
    message, next_s = f"learnt from {format_duration(length_s)} of history", now_s + jittered_s(watch)
    if record is None:
        return Learnt(watch.subject, message, next_s, ready=True, precision=given)
    if record.stage == lines.SHADOW:
        next_s = now_s + watch.spec.training.shadow
    if record.stage != lines.ACTIVE:
        message = f"{record.name} is {record.stage}: {record.details.get('why', '')}"
    return Learnt(
        watch.subject, message, next_s, ready=True, newest=(record.name, record.stage),
        outcome=str(record.details.get("outcome", "promoted")),
        adapted=tuple(sorted(adapting, key=str)) if record.stage == lines.ACTIVE else (), precision=given,
    )  # fmt: skip


def in_shadow(watch: Watch, record: ModelRecord, until_s: float) -> Learnt:
    """A candidate is still being looked at."""
    return Learnt(
        watch.subject, f"{record.name} is looked at beside the active model", until_s, ready=True,
        newest=(record.name, record.stage),
    )  # fmt: skip


def left_shadow(watch: Watch, record: ModelRecord, outcome: str, now_s: float) -> Learnt:
    """A candidate was promoted or rejected at the end of its shadow."""
    return Learnt(
        watch.subject, f"{record.name} is {record.stage}: {record.details.get('why', '')}",
        max(now_s, record.trained_to_s + jittered_s(watch)), ready=True, newest=(record.name, record.stage),
        outcome=outcome,
    )  # fmt: skip


def jittered_s(watch: Watch) -> float:
    """Up to a tenth sooner than `retrain_interval`, always the same of a detector: a fleet does not train at once."""
    return watch.spec.training.retrain_interval * (1.0 - 0.1 * spread(watch.subject))


def spread(subject: Subject) -> float:
    """Where a detector stands among all, 0 to 1."""
    return int.from_bytes(hashlib.sha256(subject.detector.encode()).digest()[:4]) / 2**32
