"""A group with too little history may be judged by the model of another group that explains what it has shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.core.frame import Frame
from foreshock.detectors.model import Model
from foreshock.engine.groups import Group
from foreshock.features.robust import median_of_columns
from foreshock.lifecycle.lesson import Lesson
from foreshock.lifecycle.train import rules_of, warm_share
from foreshock.lifecycle.validate import alarms, fires
from foreshock.lifecycle.warm_up import LEAST_S

MOST_TRIED = 3  # siblings of a group, the most alike first
_LEAST_WINDOWS, _NAMED = 4, 3


@dataclass(frozen=True, slots=True)
class Loan:
    """Whose model judges a group until it has its own; `provisional` until the group itself was seen for a day."""

    sibling: Group
    provisional: bool


def has_shown_enough(frame: Frame, window_s: int) -> bool:
    """Whether there is anything to compare a sibling's model with: four windows."""
    return int(np.isfinite(frame.values).any(axis=1).sum()) * frame.step_s >= _LEAST_WINDOWS * window_s


def most_alike(frame: Frame, models: Mapping[Group, Model]) -> tuple[Group, ...]:
    """The groups whose levels lie nearest to what this one has shown, in their usual distances; at most three."""
    if not models:
        return ()
    groups = list(models)
    levels = np.stack([models[group].baseline.level for group in groups])
    scales = np.stack([models[group].baseline.scale for group in groups])
    away = np.abs(median_of_columns(frame.values) - levels) / scales
    furthest = np.where(np.isfinite(away), away, 0.0).max(axis=1)
    return tuple(groups[k] for k in np.argsort(furthest, kind="stable")[:MOST_TRIED])


def lend(models: Sequence[tuple[Group, Model]], lesson: Lesson) -> Loan | None:
    """The loan of the first model that never alarms on what the group has shown; None where each of them does.

    Not once: a group at another level, or of another shape of day, is no sibling, and is learnt for itself.
    """
    frame, rules = lesson.frame, rules_of(lesson.spec.named_metrics)
    for group, model in models:
        first = model.schema.window_steps
        rows = np.arange(frame.n_times) >= first
        if not alarms(fires(model, rules, frame, rows), frame.step_s):
            return Loan(group, provisional=warm_share(frame, LEAST_S) < 1.0)
    return None


def on_loan(groups: Sequence[tuple[Group, Group]]) -> str:
    """Who is judged by whose model, as a clause; empty where everybody has their own."""
    if not groups:
        return ""
    named = ", ".join(f"{_name(group)} by that of {_name(sibling)}" for group, sibling in groups[:_NAMED])
    more = f", and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
    return f"until they have a model of their own, groups are judged by a sibling's: {named}{more}"


def _name(group: Group) -> str:
    return ",".join(value or '""' for _, value in group)
