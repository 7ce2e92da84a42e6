"""Fetch what the due detectors need: one query a template, straight into the rings. Reads, and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import (
    ForeshockError,
    PrometheusUnavailable,
    QueryBudgetSpent,
    QueryRejected,
    QueryTimedOut,
    TooManySeries,
)
from foreshock.core.verdicts import Ignorance
from foreshock.engine.cohort import Cohort, Described
from foreshock.engine.groups import most_series, several
from foreshock.engine.watch import Watch
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.templates import Member, SharedQuery, plan_queries

REST_S = 600
"""How long a query rests that the server refused: asked each minute it would cost it its dearest work for nothing."""
FIRST_REST_S = 60
"""How long one rests that took too long while others were answered; doubled each time, up to `REST_S`."""
_MOST_RESTING = 10_000


class MetricSource(Protocol):
    """The port to Prometheus."""

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One metric of one detector."""

    watch: Watch
    metric: int

    @property
    def query(self) -> str:
        return self.watch.metrics[self.metric].query


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing can be said about a detector at this instant."""

    reason: Ignorance
    message: str


@dataclass(slots=True)
class Gathered:
    """What went wrong, by detector; everything else lies in the rings, and some of it was described elsewhere."""

    failures: dict[Watch, Failure] = field(default_factory=dict)
    degraded: dict[Watch, str] = field(default_factory=dict)  # the datasource's own warning
    described: dict[Cohort, Described] = field(default_factory=dict)
    extractor_away: str = ""  # why a feature service that is configured did not take part


class Gathers(Protocol):
    """What a cycle gathers with: the engine's own `Gatherer`, or one that lets a feature service do it."""

    async def gather(self, due: Sequence[tuple[Watch, int]]) -> Gathered: ...

    def forget(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Route:
    """Where the series of one shared query go; kept while the answers name the same series."""

    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    raw_labels: bytes = b""
    generation: int = -1
    places: tuple[_Place, ...] = ()
    refused: dict[Watch, str] = field(default_factory=dict)

    def fits(self, matrix: Matrix, generation: int) -> bool:
        return (
            self.generation == generation
            and len(self.hashes) == matrix.n_series
            and bool((self.hashes == matrix.hashes).all())
            and self.raw_labels == matrix.label_bytes
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Series that go to one cohort: (n,) series, row and metric of each."""

    cohort: object
    series: NDArray[np.int64]
    rows: NDArray[np.int64]
    metrics: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Rest:
    """Why a query is not asked, and until when."""

    until_s: int
    length_s: int
    error: ForeshockError


@dataclass(slots=True)
class _Round:
    """One call of `gather`: what it came to, how long a query may take, and which ones took longer."""

    gathered: Gathered
    patience_s: float
    answered: bool = False
    slow: dict[str, tuple[int, ForeshockError]] = field(default_factory=dict)


class Gatherer:
    """Queries of one datasource; plans and routes are remembered until the set of detectors changes."""

    def __init__(
        self, source: MetricSource, *, timeout_s: Callable[[int], float] = lambda interval_s: interval_s * 0.9
    ) -> None:
        self._source, self._timeout_s = source, timeout_s
        self._plans: dict[tuple[str, ...], tuple[SharedQuery, ...]] = {}
        self._routes: dict[tuple[str, tuple[int, ...]], _Route] = {}
        self._resting: dict[str, _Rest] = {}  # by query; one that is over is kept, to double the next

    def forget(self) -> None:
        """Detectors came or went: plan anew."""
        self._plans.clear()
        self._routes.clear()

    async def gather(self, due: Sequence[tuple[Watch, int]]) -> Gathered:
        """Bring the rings of the due detectors up to the instant that each is due at."""
        gathered = Gathered()
        # nobody's slow query keeps those waiting who are judged more often
        patience_s = self._timeout_s(min((watch.spec.interval for watch, _ in due), default=0))
        batches: dict[tuple[int, int, int], list[Ask]] = {}
        for watch, at_s in due:
            key = (watch.schema.step_s, watch.missing_from_s(at_s), at_s)
            batches.setdefault(key, []).extend(Ask(watch, metric) for metric in range(len(watch.metrics)))
        advance_rings(due)
        round_ = _Round(gathered, patience_s)
        jobs = [self._batch(key, asks, round_) for key, asks in batches.items() if key[1] <= key[2]]
        await asyncio.gather(*jobs)
        if round_.answered:  # the server is well: what took too long would do so again
            for query, (at_s, error) in round_.slow.items():
                before = self._resting.get(query)
                self._rest(query, at_s, 2 * before.length_s if before else FIRST_REST_S, error)
        for watch, at_s in due:
            if watch not in gathered.failures and watch not in gathered.degraded:
                watch.filled(at_s)
        return gathered

    def _rest(self, query: str, at_s: int, length_s: int, error: ForeshockError) -> None:
        if len(self._resting) >= _MOST_RESTING:
            self._resting = {each: rest for each, rest in self._resting.items() if rest.until_s > at_s}
        if len(self._resting) < _MOST_RESTING:
            length_s = min(length_s, REST_S)
            self._resting[query] = _Rest(at_s + length_s, length_s, error)

    async def _batch(self, key: tuple[int, int, int], asks: list[Ask], round_: _Round) -> None:
        queries = tuple(ask.query for ask in asks)
        plan = self._plans.get(queries)
        if plan is None:
            plan = self._plans[queries] = plan_queries(queries)
        await asyncio.gather(*(self._shared(key, shared, asks, round_) for shared in plan))

    async def _shared(self, key: tuple[int, int, int], shared: SharedQuery, asks: list[Ask], round_: _Round) -> None:
        step_s, from_s, to_s = key
        gathered = round_.gathered
        members = [asks[member.index] for member in shared.members]
        limit = sum(most_series(ask.watch.manifest) for ask in members)
        query = RangeQuery(shared.query, from_s, to_s, step_s, limit)
        rest = self._resting.get(shared.query)
        if rest is not None and to_s < rest.until_s:
            await self._without(key, shared, asks, round_, rest.error)
            return
        try:
            matrix = await self._source.range(query, deadline_s=round_.patience_s)
        except (QueryRejected, TooManySeries) as error:
            self._rest(shared.query, to_s, REST_S, error)
            await self._without(key, shared, asks, round_, error)
            return
        except ForeshockError as error:
            if isinstance(error, QueryTimedOut):
                round_.slow[shared.query] = to_s, error
            _fail(members, error, gathered)
            return
        round_.answered = True
        self._resting.pop(shared.query, None)
        if shared.is_merged and matrix.n_series >= limit:
            await self._alone(key, shared, asks, round_)  # one member with too many may have cut the others short
            return
        route = self._routes.setdefault((shared.query, tuple(id(ask.watch) for ask in members)), _Route())
        generation = sum(ask.watch.generation for ask in members)
        if not route.fits(matrix, generation):
            _lay(route, matrix, shared, asks)
            route.generation = sum(ask.watch.generation for ask in members)
        for place in route.places:
            place.cohort.put(place.rows, place.metrics, matrix.start_s, matrix.values[place.series])  # type: ignore[attr-defined]
        for watch, message in route.refused.items():
            gathered.failures.setdefault(watch, Failure(Ignorance.TOO_MANY_SERIES, message))
        if matrix.warnings:
            for ask in members:
                gathered.degraded.setdefault(ask.watch, matrix.warnings[0])

    async def _without(
        self, key: tuple[int, int, int], shared: SharedQuery, asks: list[Ask], round_: _Round, error: ForeshockError
    ) -> None:
        """Go on without the answer to a query: one member that the server refuses must not take the others with it."""
        if shared.is_merged:
            await self._alone(key, shared, asks, round_)
        else:
            _fail([asks[member.index] for member in shared.members], error, round_.gathered)

    async def _alone(self, key: tuple[int, int, int], shared: SharedQuery, asks: list[Ask], round_: _Round) -> None:
        """Ask the members of a merged query one by one."""
        alone = [SharedQuery(asks[each.index].query, (Member(each.index),)) for each in shared.members]
        await asyncio.gather(*(self._shared(key, one, asks, round_) for one in alone))


def advance_rings(due: Sequence[tuple[Watch, int]]) -> None:
    """Move the rings on, a cohort at a time: one call a detector costs more than all the rest of gathering."""
    rows: dict[tuple[Cohort, int], list[int]] = {}
    for watch, at_s in due:
        watch.judged_at_s = at_s
        rows.setdefault((watch.cohort, at_s), []).extend(watch.row_of_group.values())
    for (cohort, at_s), each in rows.items():
        if each:
            cohort.advance(np.array(each), at_s)


def _lay(route: _Route, matrix: Matrix, shared: SharedQuery, asks: list[Ask]) -> None:
    """Decide where every series goes: by the merged label's value to the detector, by `group_by` to the group."""
    route.hashes, route.raw_labels = matrix.hashes.copy(), matrix.label_bytes
    route.refused = {}
    by_value: dict[str | None, list[tuple[Ask, str | None]]] = {}
    for member in shared.members:
        by_value.setdefault(member.value, []).append((asks[member.index], member.label if member.strip_label else None))
    label = next((member.label for member in shared.members if member.label is not None), None)
    taken: dict[tuple[int, int, int], int] = {}
    found: dict[object, list[tuple[int, int, int]]] = {}
    for series in range(matrix.n_series):
        labels = matrix.labels(series)
        for ask, stripped in by_value.get(labels.get(label) if label else None, ()):
            own = {name: value for name, value in labels.items() if name != stripped}
            try:
                row = ask.watch.row_of(own)
            except TooManySeries as error:
                route.refused[ask.watch] = str(error)
                continue
            place = (id(ask.watch.cohort), row, ask.metric)
            if place in taken:
                route.refused[ask.watch] = several(ask.watch.manifest, ask.metric, matrix.labels(taken[place]), own)
                continue
            taken[place] = series
            found.setdefault(ask.watch.cohort, []).append((series, row, ask.metric))
    route.places = tuple(
        _Place(cohort, *(np.array(column) for column in zip(*places, strict=True))) for cohort, places in found.items()
    )


def _fail(members: Sequence[Ask], error: ForeshockError, gathered: Gathered) -> None:
    for ask in members:
        gathered.failures.setdefault(ask.watch, _failure(error))


def _failure(error: ForeshockError) -> Failure:
    if isinstance(error, QueryRejected):
        return Failure(Ignorance.QUERY_REJECTED, str(error))
    if isinstance(error, TooManySeries):
        return Failure(Ignorance.TOO_MANY_SERIES, str(error))
    if isinstance(error, QueryBudgetSpent):
        return Failure(Ignorance.QUERY_BUDGET_SPENT, str(error))
    if isinstance(error, PrometheusUnavailable):
        return Failure(Ignorance.DATASOURCE_UNAVAILABLE, str(error))
    raise error
