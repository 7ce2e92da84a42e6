"""How one detector stands right now, as plain values: what a status, a page or a test asks the engine for."""

from __future__ import annotations

from dataclasses import dataclass

from foreshock.alerting.state import OpenIncident
from foreshock.core.verdicts import Subject
from foreshock.engine.cohort import Revision
from foreshock.engine.groups import Group
from foreshock.engine.watch import Mark
from foreshock.lifecycle.drift import Drift
from foreshock.lifecycle.learnt import Learnt


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a detector has no new model: a reason of the error tree, and its sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything is None or empty until the engine knows better."""

    generation: int | None = None  # of the manifest that is judged by, where an API server counts them
    is_suspended: bool = False
    mark: Mark | None = None
    failed_cycles: int = 0  # in a row
    learnt: Learnt | None = None
    trouble: Trouble | None = None
    drift: Drift | None = None  # why a successor is being learnt before it is due
    revision: Revision | None = None  # what judges; of groups, that of the first one that has its own model
    on_loan: tuple[tuple[Group, Group], ...] = ()  # groups that a sibling's model judges, each with that sibling
    firing: tuple[tuple[Subject, OpenIncident], ...] = ()
    extractor_away: str = ""  # why the configured feature service does not take part; judging goes on without it
