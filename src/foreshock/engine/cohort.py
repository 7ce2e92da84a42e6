"""Subjects that are judged alike: the ring of their newest samples, and their models in one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.core.verdicts import Cause, Ignorance, Subject
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine import throttle
from foreshock.engine.decide import Decisions, Facts, code_of, decide
from foreshock.engine.facts import availability_of, gap_steps, outside_without_model, without_thin_metrics
from foreshock.engine.groups import Group
from foreshock.features.schema import STATISTICS, Schema

Rows = NDArray[np.int64]
_OUTSIDE, _BEYOND = code_of(Cause.OUT_OF_RANGE), code_of(Cause.SCORE)
_NEVER_S = np.iinfo(np.int64).min // 2


@dataclass(frozen=True, slots=True)
class Revision:
    """Which model a row is judged by: its name, its digest, what it learnt from, and whether it may page."""

    version: str
    name: str  # v2.1.0-r3
    digest: str
    trained_from_s: int
    trained_to_s: int
    provisional: bool = False  # it has not seen the whole warm-up: it pages for what leaves its valid range alone
    rows_used: int | None = None
    rows_excluded: Mapping[str, int] = field(default_factory=dict)  # reason to rows
    sibling: Group | None = None  # the group whose model it is, where this one has too little history for its own


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one cycle says about some rows of a cohort: `vectors` is NaN where no model looked."""

    rows: Rows
    ends_s: NDArray[np.int64]
    decisions: Decisions
    facts: Facts
    vectors: Array
    asked: int  # windows that the throttle was asked about
    let_through: int


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """What a feature service says about some rows: the vectors and gaps that this process would have computed."""

    rows: Rows
    vectors: Array
    gaps: Array


class Cohort:
    """A growing table: row i is a subject, its last `context_steps` samples, and its model once it has one."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.subjects: list[Subject] = []
        self.models: list[Model | None] = []
        self.rules: list[Rules] = []
        self.revisions: list[Revision | None] = []
        self.sigma = np.zeros(0)
        self.ends_s = np.zeros(0, np.int64)
        self.ring = np.zeros((0, schema.context_steps, len(schema.metrics)))
        self._free: list[int] = []  # rows that nobody occupies any more
        self._fleet: Fleet | None = None
        self._member_of_row = np.zeros(0, np.int64)
        self._limits = np.zeros(0)

    def add(self, subject: Subject, rules: Rules, sigma: float) -> int:
        """The row of a new subject; its ring is empty."""
        if self._free:
            row = self._free.pop()
            self.subjects[row], self.rules[row], self.sigma[row] = subject, rules, sigma
            return row
        row = len(self.subjects)
        self.subjects.append(subject)
        self.models.append(None)
        self.revisions.append(None)
        self.rules.append(rules)
        if row >= len(self.ring):  # by an eighth: a thousand arrivals copy little, and ten thousand waste little
            more = max(4, len(self.ring) // 8)
            self.ring = np.concatenate([self.ring, np.full((more, *self.ring.shape[1:]), np.nan)])
            self.ends_s = np.concatenate([self.ends_s, np.full(more, _NEVER_S)])
            self.sigma = np.concatenate([self.sigma, np.zeros(more)])
        self.sigma[row] = sigma
        self._fleet = None
        return row

    def remove(self, row: int) -> None:
        """Free the row of a subject that is judged no more: its samples and its model go at once."""
        self.models[row] = self.revisions[row] = None
        self.ring[row], self.ends_s[row] = np.nan, _NEVER_S
        self._free.append(row)
        self._fleet = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody is left."""
        return len(self._free) == len(self.subjects)

    def install(self, row: int, model: Model, revision: Revision) -> None:
        """Give a row its model; the next cycle judges by it."""
        self.models[row] = model
        self.revisions[row] = revision
        self._fleet = None

    def advance(self, rows: Rows, to_s: int) -> None:
        """Move the rings of some rows on to an instant; what is not known yet is NaN."""
        steps = (to_s - self.ends_s[rows]) // self.schema.step_s
        for count in np.unique(steps):
            these = rows[steps == count]
            if 0 < count < self.schema.context_steps:
                self.ring[these, :-count] = self.ring[these, count:]
                self.ring[these, -count:] = np.nan
            elif count:
                self.ring[these] = np.nan
        self.ends_s[rows] = to_s

    def put(self, rows: Rows, metrics: Rows, start_s: int, blocks: Array) -> None:
        """Write samples (n, n_times) that begin at `start_s` into the rings of rows that end at one instant."""
        n_context = self.schema.context_steps
        first = n_context - 1 - (int(self.ends_s[rows[0]]) - start_s) // self.schema.step_s
        skipped = max(0, -first)
        length = min(blocks.shape[1] - skipped, n_context - max(0, first))
        if length > 0:
            place = np.arange(max(0, first), max(0, first) + length)
            self.ring[rows[:, None], place[None, :], metrics[:, None]] = blocks[:, skipped : skipped + length]

    def judge(
        self,
        rows: Rows,
        forced: NDArray[np.bool_],
        degraded: NDArray[np.bool_],
        described: Described | None = None,
    ) -> Judged:
        """Judge the last window of some rows; `forced` ones get the full model whatever the cheap check says.

        Rows that were `described` elsewhere are not described again.
        """
        n, n_metrics = len(rows), len(self.schema.metrics)
        vectors = np.full((n, n_metrics, len(STATISTICS)), np.nan)
        gaps = np.full((n, n_metrics), np.inf)
        scores, usual = np.full(n, np.nan), np.ones((n, n_metrics))
        fleet = self._block()
        modelled = np.flatnonzero(self._member_of_row[rows] >= 0) if fleet else np.zeros(0, np.int64)
        asked = let_through = 0
        out_of_range = np.zeros((n, n_metrics), np.bool_)
        if fleet is not None and len(modelled):
            members = self._member_of_row[rows[modelled]]
            everyone = len(modelled) == len(self.subjects) and bool((rows[modelled] == np.arange(len(modelled))).all())
            rest = modelled
            if described is not None:
                rest = self._without(described, rows, modelled, vectors, gaps)
            if len(rest):
                whole = everyone and len(rest) == len(modelled)
                values = self.ring[: len(rest)] if whole else self.ring[rows[rest]]
                vectors[rest], gaps[rest] = fleet.vectors(
                    values, self.ends_s[rows[rest]], self._member_of_row[rows[rest]]
                )
            everyone &= len(modelled) == len(fleet)
            judged = without_thin_metrics(vectors[modelled])
            rules = fleet.rules if everyone else fleet.rules.take(members)
            cheap = (fleet.screen if everyone else fleet.screen.take(members)).score(judged, rules)
            limit = self._limits[members]
            passed = throttle.passes(cheap, limit)
            look = passed | forced[modelled]
            asked, let_through = int((~forced[modelled]).sum()), int((passed & ~forced[modelled]).sum())
            chosen = np.flatnonzero(look)
            score = throttle.skipped_score(cheap, limit)
            if len(chosen):
                ensemble = fleet.ensemble if everyone and len(chosen) == n else fleet.ensemble.take(members[chosen])
                score[chosen] = ensemble.score(
                    judged[chosen], rules if len(chosen) == len(members) else rules.take(chosen)
                )
            scores[modelled], usual[modelled] = score, fleet.availability[members]
            out_of_range[modelled] = rules.out_of_range(judged)
        learning = np.ones(n, np.bool_)
        learning[modelled] = False
        if learning.any():
            gaps[learning], out_of_range[learning] = self._without_model(rows[learning])
        facts = Facts(
            scores,
            availability_of(vectors),
            gaps,
            out_of_range,
            usual,
            degraded,
            self.schema.step_s,
            self.schema.window_s,
        )
        decisions = decide(facts)
        learning &= decisions.codes != _OUTSIDE
        decisions.codes[learning], decisions.scores[learning] = code_of(Ignorance.WARMING_UP), np.nan
        for place in np.flatnonzero(out_of_range.any(axis=1) & (decisions.codes == _BEYOND)):
            revision = self.revisions[int(rows[place])]
            if revision is not None and revision.provisional:  # its score pages nobody yet, its range does
                decisions.codes[place] = _OUTSIDE
        return Judged(rows, self.ends_s[rows], decisions, facts, vectors, asked, let_through)

    def _without_model(self, rows: Rows) -> tuple[Array, NDArray[np.bool_]]:
        """The gaps of rows that have no model yet, and whether their newest samples left the valid range."""
        shape = (len(rows), len(self.schema.metrics))
        gaps, outside = np.full(shape, np.inf), np.zeros(shape, np.bool_)
        limited = np.array([self.rules[row].has_limits for row in rows])
        if limited.any():
            these = rows[limited]
            rules = Rules.stack([self.rules[row] for row in these])
            gaps[limited] = np.stack([gap_steps(self.ring[row])[-1] for row in these])
            outside[limited] = outside_without_model(self.ring[these], rules, self.schema.recent_steps)
        return gaps, outside

    def _without(
        self, described: Described, rows: Rows, modelled: NDArray[np.int64], vectors: Array, gaps: Array
    ) -> NDArray[np.int64]:
        """Take over what was described elsewhere, and return the places of `modelled` that are left to do."""
        place_of_row = np.full(len(self.subjects), -1)
        place_of_row[described.rows] = np.arange(len(described.rows))
        place = place_of_row[rows[modelled]]
        done = place >= 0
        vectors[modelled[done]], gaps[modelled[done]] = described.vectors[place[done]], described.gaps[place[done]]
        return modelled[~done]

    def _block(self) -> Fleet | None:
        """The models of all rows that have one, packed when somebody came or learnt since the last time."""
        if self._fleet is None and any(model is not None for model in self.models):
            rows = [row for row, model in enumerate(self.models) if model is not None]
            models = [model for model in self.models if model is not None]
            self._fleet = Fleet.of(models, [self.rules[row] for row in rows])
            self._member_of_row = np.full(len(self.subjects), -1)
            self._member_of_row[rows] = np.arange(len(rows))
            self._limits = throttle.limits(self._fleet.screen_quantiles, self.sigma[rows])
        return self._fleet
