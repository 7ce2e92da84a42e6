"""Lines of models: which revision judges, which one a rollback brings back, which ones are kept. Pure.

Every function takes the records of one line, newest first, and returns those that change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import NoSuchRevision
from foreshock.engine.groups import Group
from foreshock.manifests.detector import DetectorSpec, fingerprint
from foreshock.manifests.fields import Budget
from foreshock.store.records import ModelRecord

CANDIDATE, SHADOW, ACTIVE, RETIRED, REJECTED = "Candidate", "Shadow", "Active", "Retired", "Rejected"
HELD_S = 3 * 86_400.0  # how long a revision that was brought back by hand is not replaced by a candidate
KEPT_NEWEST = 7
ANCHOR_AGE_S = 28 * 86_400.0  # what slow change is measured against is at least this old
_WEEK_S = 7 * 86_400.0
_HOUR_S = 3_600
_INTERVALS = 3  # of the budget that a history holds, for its threshold to be read rather than guessed

Records = Sequence[ModelRecord]


def active(records: Records) -> ModelRecord | None:
    """The revision that judges, or None where none was trained yet."""
    return next((record for record in records if record.stage == ACTIVE), None)


def shadow(records: Records) -> ModelRecord | None:
    """The candidate that is looked at beside the active revision, or None."""
    return next((record for record in records if record.stage == SHADOW), None)


def named(records: Records, revision: int) -> ModelRecord:
    """The revision with this number.

    Raises:
        NoSuchRevision: it was never trained, or is not kept any more.

    """
    for record in records:
        if record.revision == revision:
            return record
    known = ", ".join(record.name for record in records[:5]) or "none"
    raise NoSuchRevision(f"There is no revision {revision} of this line any more, or never was; there is {known}.")


def is_provisional(record: ModelRecord) -> bool:
    """Whether it was trained before the warm-up was over: it judges and never pages."""
    return bool(record.details.get("provisional"))


def calibration_doubt(record: ModelRecord) -> str:
    """That the history of what judges is short for the budget, as a clause; empty where it holds three intervals."""
    if record.stage != ACTIVE or "budget" not in record.details:
        return ""
    budget, learnt_s = Budget.parse(str(record.details["budget"])), int(record.trained_to_s - record.trained_from_s)
    if learnt_s * budget.count >= _INTERVALS * budget.period_s:
        return ""
    history = format_duration(learnt_s // _HOUR_S * _HOUR_S)
    return f"CalibrationUncertain: {history} of history hold fewer than {_INTERVALS} intervals of the budget {budget}"


def fits(record: ModelRecord, spec: DetectorSpec) -> bool:
    """Whether it was trained for what the manifest says now."""
    return bool(record.details.get("fingerprint") == fingerprint(spec))


def on_loan(record: ModelRecord) -> tuple[tuple[Group, Group], ...]:
    """The groups that a sibling's model judges, each with that sibling."""
    lent = [member for member in record.details.get("members", ()) if "sibling" in member]
    return tuple((group_from(member["group"]), group_from(member["sibling"])) for member in lent)


def group_from(stored: Iterable[Sequence[object]]) -> Group:
    """A group as JSON keeps it."""
    return tuple((str(name), str(value)) for name, value in stored)


def held_until_s(record: ModelRecord) -> float:
    """Until when no candidate replaces it; 0 where it was not brought back by hand."""
    return float(record.details.get("held_until_s", 0.0))


def promoted(records: Records, revision: int, now_s: float, why: str, **details: object) -> tuple[ModelRecord, ...]:
    """Make a revision the active one; the one that was retires, and a shadow that it overtakes too."""
    wanted = named(records, revision)
    changed = [
        _moved(record, RETIRED, f"replaced by {wanted.name}")
        for record in records
        if record.stage in {ACTIVE, SHADOW, CANDIDATE} and record is not wanted
    ]
    known = {key: value for key, value in wanted.details.items() if key not in {"withdrawn", "held_until_s"}}
    fresh = {"why": why, "active_from_s": now_s, **details}
    return (*changed, replace(wanted, stage=ACTIVE, details={**known, **fresh}))


def rejected(record: ModelRecord, why: str) -> ModelRecord:
    """The candidate that was not good enough, with the reason that people read."""
    return _moved(record, REJECTED, why)


def last_good(records: Records) -> ModelRecord | None:
    """What a rollback brings back: of those that judged before the active one, the last that nobody withdrew."""
    before = [
        record
        for record in records
        if record.stage == RETIRED and _has_judged(record) and not record.details.get("withdrawn")
    ]  # fmt: skip
    return max(before, key=lambda record: float(record.details["active_from_s"]), default=None)


def instead(records: Records) -> tuple[ModelRecord, ...]:
    """What may judge where the active revision cannot be read: those before it that nobody withdrew, the last first."""
    before = [
        record
        for record in records
        if record.stage == RETIRED and not record.details.get("withdrawn") and not is_provisional(record)
    ]
    return tuple(sorted(before, key=lambda record: float(record.details.get("active_from_s", 0.0)), reverse=True))


def rolled_back(records: Records, now_s: float, to: int | None = None) -> tuple[ModelRecord, ...]:
    """Withdraw the active revision for the last good one, or for `to`, which is then held for three days.

    Raises:
        NoSuchRevision: there is nothing to go back to.

    """
    bad, good = active(records), named(records, to) if to is not None else last_good(records)
    if good is None or good is bad:
        name = bad.name if bad is not None else "any revision"
        raise NoSuchRevision(f"Nothing that judged before {name} is kept: there is no revision to go back to.")
    until_s = now_s + HELD_S
    why = f"brought back by hand; no candidate replaces it before {rfc3339(int(until_s))}"
    changed = promoted(records, good.revision, now_s, why, held_until_s=until_s, by_hand=True)
    return tuple(
        replace(record, details={**record.details, "withdrawn": True, "why": f"rolled back to {good.name}"})
        if bad is not None and record.revision == bad.revision
        else record
        for record in changed
    )


def anchor(records: Records, now_s: float) -> ModelRecord | None:
    """What slow change is measured against: the last revision that was confirmed, else one of four weeks ago.

    Confirmed is what a person promoted, and what learnt a change that lasted. A line that is younger is measured
    against its first revision.
    """
    judged = [record for record in records if _has_judged(record)]
    confirmed = [record for record in judged if record.details.get("confirmed")]
    old = [record for record in judged if record.trained_to_s <= now_s - ANCHOR_AGE_S]
    found = [max(group, key=lambda record: record.trained_to_s) for group in (confirmed, old) if group]
    if found:
        return max(found, key=lambda record: record.trained_to_s)
    return min(judged, key=lambda record: record.trained_to_s, default=None)


def superfluous(records: Records, referenced: Collection[str], now_s: float) -> tuple[ModelRecord, ...]:
    """What retention lets go of.

    Kept are what judges or may soon, the last good one, the newest seven, what `referenced` incidents name, the anchor
    and one a week that may become it.
    """
    kept = {record.name for record in records if record.stage in {ACTIVE, SHADOW, CANDIDATE}} | set(referenced)
    kept |= {record.name for record in records[:KEPT_NEWEST]}
    kept |= {record.name for record in (last_good(records), anchor(records, now_s)) if record is not None}
    weeks: dict[int, ModelRecord] = {}
    for record in records:
        age_s = now_s - record.trained_to_s
        if age_s <= ANCHOR_AGE_S + _WEEK_S and _has_judged(record):
            weeks[int(record.trained_to_s // _WEEK_S)] = record  # the oldest of the week, as records are newest first
    kept |= {record.name for record in weeks.values()}
    return tuple(record for record in records if record.name not in kept)


def _has_judged(record: ModelRecord) -> bool:
    return "active_from_s" in record.details and not is_provisional(record)


def _moved(record: ModelRecord, stage: str, why: str) -> ModelRecord:
    return replace(record, stage=stage, details={**record.details, "why": why})
