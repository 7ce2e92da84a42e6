"""One detector as the engine runs it: its rhythm, its rules, and the rows of the cohort that its groups occupy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foreshock.alerting.state import AlertPolicy
from foreshock.core.errors import TooManySeries
from foreshock.core.verdicts import Ignorance, Subject
from foreshock.detectors.rules import Rules
from foreshock.engine.cohort import Cohort
from foreshock.engine.groups import Group, group_of, too_many
from foreshock.engine.schedule import Rhythm
from foreshock.features.schema import Schema
from foreshock.manifests.detector import AnomalyDetector, Metric


class Mark(NamedTuple):
    """What the newest cycle said of a detector as a whole: how many groups, and how many of them are what."""

    groups: int
    anomalous: int
    inconclusive: int
    ignorance: Ignorance | None = None  # of the first group that is inconclusive
    message: str = ""


class Watch:
    """A detector without `group_by` has one row from the start; groups get theirs when their first series arrives."""

    def __init__(
        self,
        manifest: AnomalyDetector,
        schema: Schema,
        rules: Rules,
        rhythm: Rhythm,
        cohort: Cohort,
        sinks: tuple[str, ...],
    ) -> None:
        self.manifest, self.schema, self.rules, self.rhythm, self.cohort = manifest, schema, rules, rhythm, cohort
        self.spec, self.subject, self.sinks = manifest.spec, manifest.subject, sinks
        self.row_of_group: dict[Group, int] = {}
        self.judged_at_s: int | None = None
        self.filled_to_s: int | None = None  # what the rings hold up to; a failed query leaves it behind
        self.generation = 0  # changes with the set of groups, so that routes are laid anew
        self.mark: Mark | None = None  # None until it was judged once
        self.failed_cycles = 0  # in a row
        self.graph_url = ""  # of the datasource, where people look at graphs; empty where nobody does
        self.is_retired = False  # replaced or removed: nothing that was learnt for it may be kept
        self.settling = asyncio.Lock()  # who keeps what was learnt, or retires it, holds this
        if not self.spec.group_by:
            self._new_row(())

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        return self.spec.named_metrics

    @cached_property
    def policy(self) -> AlertPolicy:
        spec = self.spec
        return AlertPolicy(spec.alert_severity, spec.pending_for, spec.keep_firing_for, spec.interval)

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.fromiter(self.row_of_group.values(), dtype=np.int64, count=len(self.row_of_group))

    def row_of(self, labels: Mapping[str, str]) -> int:
        """The row of the group that a series belongs to; a new group gets a new row.

        Raises:
            TooManySeries: there would be more groups than `max_groups`; the known ones go on.

        """
        group = group_of(self.manifest, labels)
        row = self.row_of_group.get(group)
        return row if row is not None else self._new_row(group)

    def _new_row(self, group: Group) -> int:
        if len(self.row_of_group) >= self.spec.max_groups:
            raise TooManySeries(too_many(self.manifest))
        subject = Subject(self.subject.namespace, self.subject.name, group)
        row = self.row_of_group[group] = self.cohort.add(subject, self.rules, self.spec.throttle.sigma)
        if self.judged_at_s is not None:
            self.cohort.ends_s[row] = self.judged_at_s
        self.generation += 1
        return row

    def retire(self) -> None:
        """Give back every row; a training that is under way then keeps nothing."""
        self.is_retired = True
        for row in self.row_of_group.values():
            self.cohort.remove(row)
        self.row_of_group.clear()

    def missing_from_s(self, at_s: int) -> int:
        """The first instant that the rings lack: the whole context after a start or a long outage."""
        oldest = at_s - (self.schema.context_steps - 1) * self.schema.step_s
        return oldest if self.filled_to_s is None else max(oldest, self.filled_to_s + self.schema.step_s)

    def filled(self, at_s: int) -> None:
        """The rings hold all there is up to an instant."""
        self.filled_to_s = at_s

    def forget_samples(self) -> None:
        """Ask for the whole context again: what was read may lack what came late."""
        self.filled_to_s = None
