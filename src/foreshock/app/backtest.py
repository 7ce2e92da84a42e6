"""Backtests manifests against Prometheus: what each detector needs in as few queries as possible, then the replay.

A detector that cannot be backtested is a `failure` of its own, and the others go on.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

import numpy as np

from foreshock.app.settings import Settings
from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import ForeshockError, NotEnoughHistory, QueryRejected, TooManySeries, UserError
from foreshock.core.frame import Array, Frame
from foreshock.engine.schedule import phase_s
from foreshock.lifecycle.replay import Replay, replay
from foreshock.manifests.detector import AnomalyDetector, DetectorSpec
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.templates import Member, SharedQuery, plan_queries

IN_PROCESS = 8  # replays up to these are done before other processes have compiled their kernels
Group = tuple[tuple[str, str], ...]
Progress = Callable[[str, float, float], None]
"""Hears of a stage: its name, how much is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Period:
    """What is judged: the instants in `[from_s, to_s]`, UTC seconds."""

    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """One detector: a replay for each group, or why there is none; `notes` are sentences for whoever asked."""

    manifest: AnomalyDetector
    period: Period
    replays: tuple[Replay, ...] = ()
    notes: tuple[str, ...] = ()
    failure: ForeshockError | None = None


@dataclass(slots=True, eq=False)
class _Case:
    """One detector on its way: its grid, and the series that each of its metrics found, by group."""

    manifest: AnomalyDetector
    datasource: Datasource
    period: Period
    start_s: int  # of the history
    first_s: int  # the first judged instant
    end_s: int
    series: dict[Group, dict[int, Array]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failure: ForeshockError | None = None

    @property
    def name(self) -> str:
        return self.manifest.subject.detector

    @property
    def spec(self) -> DetectorSpec:
        return self.manifest.spec

    def fail(self, error: ForeshockError) -> None:
        """Keep the first failure: those after it often follow from it."""
        self.failure = self.failure or error


def backtest(
    manifests: Sequence[AnomalyDetector],
    settings: Settings,
    period: Period,
    now_s: float,
    *,
    datasource: str | None = None,
    progress: Progress = lambda _stage, _done, _of: None,
) -> tuple[Backtest, ...]:
    """Backtest every manifest in its order; `datasource` is asked instead of the manifests' own where it is given."""
    cases: list[_Case | Backtest] = []
    for manifest in manifests:
        try:
            cases.append(_case(manifest, settings, period, now_s, datasource))
        except UserError as error:
            cases.append(Backtest(manifest, period, failure=error))
    sound = [case for case in cases if isinstance(case, _Case)]
    asyncio.run(_fetch(sound, progress))
    played = _replay_all(sound, settings.cluster, progress)
    return tuple(_finished(case, played[id(case)]) if isinstance(case, _Case) else case for case in cases)


def _case(
    manifest: AnomalyDetector, settings: Settings, period: Period, now_s: float, datasource: str | None
) -> _Case:
    """The grid of a detector: the instants that production would judge, and the training window before them."""
    spec, name = manifest.spec, manifest.subject.detector
    try:
        source = settings.datasource(datasource or spec.datasource)
    except KeyError:
        wanted = datasource or spec.datasource or "default"
        raise UserError(
            f"{name}: the datasource {wanted!r} is not configured; configure it, or choose another by --datasource."
        ) from None
    offset_s = source.query_offset_s if spec.query_offset is None else spec.query_offset
    every_s = spec.interval if spec.interval % spec.step == 0 else spec.step
    queries = [metric.query for metric in spec.named_metrics]
    phase = phase_s(source.name, queries, every_s, spec.step)
    first_s = -int(-(period.from_s - phase) // every_s) * every_s + phase
    end_s = int(min(period.to_s, now_s - offset_s) // spec.step) * spec.step
    if end_s < first_s:
        raise UserError(
            f"{name}: no instant is judged from {rfc3339(int(period.from_s))} to {rfc3339(int(period.to_s))}, with an "
            f"interval of {format_duration(spec.interval)} and data that is {format_duration(offset_s)} late; "
            "choose a longer period."
        )
    return _Case(manifest, source, period, first_s - spec.training.window // spec.step * spec.step, first_s, end_s)


# --- fetching -------------------------------------------------------------------------------------------------------


async def _fetch(cases: Sequence[_Case], progress: Progress) -> None:
    """Ask each datasource once for each template and grid."""
    jobs: dict[str, list[tuple[SharedQuery, list[tuple[_Case, int]]]]] = defaultdict(list)
    batches: dict[tuple[str, int, int, int], list[tuple[_Case, int]]] = defaultdict(list)
    for case in cases:
        key = (case.datasource.name, case.spec.step, case.start_s, case.end_s)
        batches[key] += [(case, metric) for metric in range(len(case.spec.named_metrics))]
    for (name, *_), asks in batches.items():
        plan = plan_queries([case.spec.named_metrics[metric].query for case, metric in asks])
        jobs[name] += [(shared, asks) for shared in plan]
    done, total = 0, sum(map(len, jobs.values()))
    sources = {case.datasource.name: case.datasource for case in cases}

    async def one(client: PrometheusClient, shared: SharedQuery, asks: list[tuple[_Case, int]]) -> None:
        nonlocal done
        await _answer(client, shared, asks)
        done += 1
        progress("Asking Prometheus", done, total)

    async def of_source(name: str) -> None:
        async with PrometheusClient(sources[name]) as client:
            await asyncio.gather(*(one(client, *job) for job in jobs[name]))

    progress("Asking Prometheus", 0, total)
    await asyncio.gather(*(of_source(name) for name in jobs))


async def _answer(client: PrometheusClient, shared: SharedQuery, asks: Sequence[tuple[_Case, int]]) -> None:
    """Hand the series of one query to its members; what is too much for one query is asked member by member."""
    members = [asks[member.index] for member in shared.members]
    if all(case.failure for case, _ in members):
        return
    first = members[0][0]
    try:
        matrix = await client.range(RangeQuery(shared.query, first.start_s, first.end_s, first.spec.step))
    except ForeshockError as error:
        if shared.is_merged and isinstance(error, QueryRejected | TooManySeries):
            for member in shared.members:
                case, metric = asks[member.index]
                alone = SharedQuery(case.spec.named_metrics[metric].query, (Member(member.index),))
                await _answer(client, alone, asks)
            return
        for case, metric in members:
            case.fail(type(error)(f"{case.name}: {case.spec.named_metrics[metric].name}: {error}"))
        return
    _hand_out(matrix, shared, asks)


def _hand_out(matrix: Matrix, shared: SharedQuery, asks: Sequence[tuple[_Case, int]]) -> None:
    labels = [matrix.labels(series) for series in range(matrix.n_series)]
    label = shared.members[0].label
    by_value: dict[str | None, list[int]] = defaultdict(list)
    for series, each in enumerate(labels):
        by_value[None if label is None else each.get(label)].append(series)
    for member in shared.members:
        case, metric = asks[member.index]
        stripped = member.label if member.strip_label else None
        own = [
            ({name: value for name, value in labels[series].items() if name != stripped}, matrix.values[series])
            for series in by_value[member.value]
        ]
        try:
            _take(case, metric, own)
        except TooManySeries as error:
            case.fail(error)
        if matrix.warnings:
            named = case.spec.named_metrics[metric].name
            case.notes.append(f"{case.name}: {named}: Prometheus warns that data may be missing: {matrix.warnings[0]}")


def _take(case: _Case, metric: int, series: Sequence[tuple[dict[str, str], Array]]) -> None:
    """Give each series to its group.

    Raises:
        TooManySeries: two of them belong to one group, or there are more groups than `max_groups`.
    """
    spec, named = case.spec, case.spec.named_metrics[metric].name
    labels_of: dict[Group, dict[str, str]] = {}
    for labels, values in series:
        group = tuple(sorted((name, labels.get(name, "")) for name in spec.group_by))
        if group in labels_of:
            fix = f"add group_by: [{_differing(labels_of[group], labels)}] or aggregate with sum(...)"
            where = f" for the group {_written(dict(group))}" if group else ""
            raise TooManySeries(
                f"{case.name}: the query of {named} returns {len(series)} series{' in all' if where else ''}, several of "
                f"them{where}, such as {_written(labels_of[group])} and {_written(labels)}; {fix}."
            )
        labels_of[group] = labels
        case.series.setdefault(group, {})[metric] = values
        if len(case.series) > spec.max_groups:
            raise TooManySeries(
                f"{case.name}: group_by [{', '.join(spec.group_by)}] finds more than max_groups = {spec.max_groups} "
                "groups; group by fewer labels, or raise max_groups."
            )
    if not series:
        case.notes.append(
            f"{case.name}: the query of {named} returned nothing from {rfc3339(case.start_s)} to "
            f"{rfc3339(case.end_s)}; check its metric names and labels."
        )


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The labels that tell two series apart, at most three of them."""
    names = sorted(name for name in {*one, *other} - {"__name__"} if one.get(name) != other.get(name))
    return ", ".join(names[:3]) or "labels"


def _written(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value[:60]}"' for name, value in sorted(labels.items())[:6]) + "}"


# --- replaying ------------------------------------------------------------------------------------------------------


def _replay_all(cases: Sequence[_Case], cluster: str, progress: Progress) -> dict[int, list[Replay]]:
    """The replays of each case by its id, a group each; in processes of their own where there are many."""
    played: dict[int, list[Replay]] = {id(case): [] for case in cases}
    groups = [(case, group, _frame(case, group)) for case in cases if not case.failure for group in _groups(case)]
    total = len(groups)
    progress("Replaying", 0, total)
    if total > IN_PROCESS:
        for at, one in _in_processes(groups, cluster, progress):
            played[id(groups[at][0])].append(one)
        return played
    for done, (case, group, frame) in enumerate(groups):

        def tell(share: float, done: int = done) -> None:
            progress("Replaying", done + share, total)

        played[id(case)].append(
            replay(
                case.manifest, frame, case.first_s, group=group, n_groups=len(_groups(case)), cluster=cluster,
                progress=tell,
            )
        )  # fmt: skip
    return played


def _in_processes(
    groups: Sequence[tuple[_Case, Group, Frame]], cluster: str, progress: Progress
) -> Iterable[tuple[int, Replay]]:
    n_processes = min(len(os.sched_getaffinity(0)), len(groups))
    # spawn: a fork would share the event loop's threads and numba's locks
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(
                replay, case.manifest, frame, case.first_s, group=group, n_groups=len(_groups(case)), cluster=cluster
            )
            for case, group, frame in groups
        ]
        for done, _ in enumerate(as_completed(futures), start=1):
            progress("Replaying", done, len(groups))
    return [(at, future.result()) for at, future in enumerate(futures)]


def _groups(case: _Case) -> list[Group]:
    """The groups in the order of their labels; one that nothing was measured of where there is none."""
    return sorted(case.series) or [()]


def _frame(case: _Case, group: Group) -> Frame:
    metrics = tuple(metric.name for metric in case.spec.named_metrics)
    values = np.full(((case.end_s - case.start_s) // case.spec.step + 1, len(metrics)), np.nan)
    for metric, series in case.series.pop(group, {}).items():
        values[:, metric] = series
    return Frame(case.start_s, case.spec.step, metrics, values)


def _finished(case: _Case, replays: Sequence[Replay]) -> Backtest:
    notes = list(dict.fromkeys(case.notes))
    if case.failure:
        return Backtest(case.manifest, case.period, (), tuple(notes), case.failure)
    untrained = [one for one in replays if not one.n_trainings and np.isfinite(one.frame.values).any()]
    if untrained:
        notes.append(_untrained(case, untrained[0]))
    return Backtest(case.manifest, case.period, tuple(replays), tuple(notes))


def _untrained(case: _Case, one: Replay) -> str:
    warm_up = format_duration(case.spec.training.warm_up)
    measured_s = int(np.isfinite(one.frame.values).any(axis=1).sum()) * one.frame.step_s
    return str(
        NotEnoughHistory(
            f"{one.subject}: training.warm_up asks for {warm_up} of history and Prometheus holds "
            f"{format_duration(measured_s)} of it; choose a later --from, or shorten training.warm_up."
        )
    )
