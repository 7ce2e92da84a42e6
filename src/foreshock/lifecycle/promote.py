"""What becomes of a candidate in its line: active, in the shadow, or rejected with the reason. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from foreshock.core.policy import Objection, first_objection
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.lifecycle import lines
from foreshock.lifecycle.drift import Drift
from foreshock.lifecycle.lesson import Lesson, rows_counted
from foreshock.lifecycle.siblings import Loan
from foreshock.lifecycle.validate import MOST_CREEP, PROMOTE, Findings
from foreshock.lifecycle.warm_up import WarmUp
from foreshock.manifests.detector import fingerprint
from foreshock.store.records import Incident, ModelRecord

Records = tuple[ModelRecord, ...]


def candidate(
    watch: Watch,
    lessons: Mapping[Group, Lesson],
    digests: Mapping[Group, str],
    loans: Mapping[Group, Loan],
    found: Findings | None,
    warm_up: WarmUp,
    drift: Drift | None,
    now_s: float,
) -> ModelRecord:
    """The record of what was trained in one round; its revision is counted when it enters its line."""
    spec, excluded = watch.spec, Counter[str]()
    taught = [lessons[group] for group in digests]
    used = sum(rows_counted(lesson, excluded) for lesson in taught)
    frames = [lesson.frame for lesson in lessons.values()]  # of what was asked for, learnt from or not
    return ModelRecord(
        subject=watch.subject,
        version=spec.model_line,
        revision=0,
        digest=_one_digest(list(digests.values())),
        algorithm=spec.algorithm,
        trained_from_s=min(frame.start_s for frame in frames),
        trained_to_s=max(frame.end_s for frame in frames),
        rows_used=used,
        rows_excluded=dict(excluded),
        created_s=now_s,
        details={
            "fingerprint": fingerprint(spec),
            "members": [
                *({"group": list(group), "digest": digest} for group, digest in digests.items()),
                *(
                    {
                        "group": list(group), "digest": digests[loan.sibling], "sibling": list(loan.sibling),
                        "provisional": loan.provisional,
                    }
                    for group, loan in loans.items()
                ),
            ],
            "provisional": not warm_up.is_over, "warm_share": warm_up.share,
            **({} if warm_up.is_over else {"warm_at_s": now_s + warm_up.left_s, "warm_lacks": warm_up.lacking}),
            **({} if warm_up.held_s is None else {"held_s": warm_up.held_s}),
            **({} if drift is None else {"drift": str(drift)}),
            "schema": watch.schema.fingerprint, "budget": str(spec.false_alarm_budget),
            "threshold_factor": taught[0].given.factor,
            "verdicts": {"true": taught[0].given.true, "false": taught[0].given.false}, **_validated(found),
        },
    )  # fmt: skip


def entered(records: Records, new: ModelRecord, found: Findings | None, now_s: float, shadow_s: int) -> Records:
    """The records of a line that change as a candidate enters it; none where this very training is there already."""
    if same_training(records, new) is not None:
        return ()
    new = replace(new, revision=max((one.revision for one in records), default=0) + 1)
    judging = lines.active(records)
    objection = first_objection(PROMOTE, found) if found is not None else None
    if objection is not None:
        return (lines.rejected(new, objection.message),)
    if judging is not None and lines.held_until_s(judging) > now_s:
        return (lines.rejected(new, f"{judging.name} was brought back by hand and is held"),)
    adapted = found is not None and found.adapting
    if found is not None and (adapted or found.crept > MOST_CREEP):  # slow change is measured from here on
        new = replace(new, details={**new.details, "confirmed": True})
    if found is not None and found.has_champion and not adapted and shadow_s:
        why = f"looked at beside {judging.name if judging else 'the active model'}"
        older = [lines.rejected(one, f"overtaken by {new.name}") for one in records if one.stage == lines.SHADOW]
        return (*older, replace(new, stage=lines.SHADOW, details={**new.details, "why": why}))
    why = "learnt a change that has lasted" if adapted else "learnt"
    return lines.promoted((new, *records), new.revision, now_s, why)


def left_shadow(records: Records, revision: int, objection: Objection | None, now_s: float) -> Records:
    """The records that change as a candidate leaves the shadow; none where somebody decided otherwise meanwhile."""
    now = lines.named(records, revision)
    if now.stage != lines.SHADOW:
        return ()
    if objection is not None:
        return (lines.rejected(now, objection.message),)
    return lines.promoted(records, revision, now_s, "held its own beside the model before it")


def same_training(records: Sequence[ModelRecord], new: ModelRecord) -> ModelRecord | None:
    """The revision that this very training was stored as, before a crash; None where it is new."""
    return next((one for one in records if (one.digest, one.trained_to_s) == (new.digest, new.trained_to_s)), None)


def referenced(incidents: Sequence[Incident]) -> set[str]:
    """The names of the revisions that the incidents' evidence refers to."""
    models = (((incident.evidence or {}).get("data") or {}).get("model") or {} for incident in incidents)
    return {str(model["revision"]) for model in models if "revision" in model}


def _one_digest(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _validated(found: Findings | None) -> dict[str, Any]:
    if found is None:
        return {"validation": {"result": "NotRun"}}
    objection = first_objection(PROMOTE, found)
    result = {"result": "Passed" if objection is None else "Failed", **found.as_details()}
    return {"validation": result, "outcome": objection.reason if objection is not None else "promoted"}
