"""`foreshock backtest MANIFEST`: what would have fired, from the production code path on what Prometheus holds."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import ForeshockError, PrometheusUnavailable, QueryRejected, TooManySeries, WindowTooShort
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Anomalous, Cause, Contribution, Ignorance, Inconclusive
from foreshock.diagnosis.report import ReportAlert, ReportDetector, ReportMetric
from foreshock.engine.evidence import BAND, story
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import Group, frames_of
from foreshock.engine.schedule import phase_s
from foreshock.lifecycle.replay import Alert, Replay, replay
from foreshock.manifests.detector import AnomalyDetector, DetectorSpec
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.templates import Member, SharedQuery, plan_queries

IN_PROCESS = 8  # so many replays are done before other processes have loaded their kernels
IN_FLIGHT = 4  # queries at a time; the client counts waiting for its places against its time-outs
MOST_SECTIONS = 100  # of one detector's groups in the report, those that alert before the silent ones
_FETCHING = 0.2  # the share of a detector's work that is waiting for Prometheus, for the progress bar

Advance = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Backtested:
    """One detector's answer: a replay a group, or why there is none; `notes` say what to know of it."""

    detector: AnomalyDetector
    replays: tuple[Replay, ...] = ()
    error: ForeshockError | None = None
    notes: tuple[str, ...] = ()

    @property
    def alerts(self) -> tuple[tuple[Alert, Replay], ...]:
        """The alerts of all groups in order of time, each with its group's replay."""
        alerts = [(alert, each) for each in self.replays for alert in each.alerts]
        return tuple(sorted(alerts, key=lambda pair: (pair[0].started_at_s, pair[1].subject.group)))

    def to_json(self) -> dict[str, Any]:
        """The entry of the contract (design.md section 3)."""
        said = [judgement.verdict for each in self.replays for judgement in each.judgements]
        n_anomalous = sum(isinstance(verdict, Anomalous) for verdict in said)
        n_inconclusive = sum(isinstance(verdict, Inconclusive) for verdict in said)
        entry: dict[str, Any] = {
            "namespace": self.detector.metadata.namespace,
            "name": self.detector.metadata.name,
            "verdicts": {
                "normal": len(said) - n_anomalous - n_inconclusive,
                "anomalous": n_anomalous,
                "inconclusive": n_inconclusive,
            },
            "alerts": [_alert_json(alert, each) for alert, each in self.alerts],
        }
        if self.error is not None:
            entry["error"] = {"reason": self.error.reason, "message": str(self.error)}
        return entry


def _alert_json(alert: Alert, played: Replay) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "started_at": rfc3339(alert.started_at_s),
        "ended_at": None if alert.ended_at_s is None else rfc3339(alert.ended_at_s),
        "severity": alert.severity,
        "peak_score": alert.peak_score,
        "contributions": [{"metric": each.metric, "share": each.share} for each in alert.contributions],
    }
    if played.subject.group:
        entry["group"] = dict(played.subject.group)
    return entry


@dataclass(slots=True, eq=False)
class _Case:
    """One detector on its way: its grid, and a matrix for each metric once that was answered."""

    detector: AnomalyDetector
    start_s: int  # of the history
    first_s: int  # the first judged instant
    end_s: int
    matrices: dict[int, Matrix] = field(default_factory=dict)
    frames: dict[Group, Frame] = field(default_factory=dict)
    replays: list[Replay] = field(default_factory=list)
    error: ForeshockError | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.detector.subject.detector

    @property
    def spec(self) -> DetectorSpec:
        return self.detector.spec

    def query(self, text: str) -> RangeQuery:
        return RangeQuery(text, self.start_s, self.end_s, self.spec.step)

    def fail(self, error: ForeshockError) -> None:
        """Keep the first error: those after it often follow from it."""
        self.error = self.error or error


async def backtest(
    source: MetricSource,
    detectors: Sequence[AnomalyDetector],
    from_s: float,
    to_s: float,
    *,
    cluster: str,
    datasource: str = "default",
    advance: Advance = lambda _what, _share: None,
) -> list[Backtested]:
    """Relive `[from_s, to_s]` for every detector of one datasource; what is wrong with one does not stop the others.

    `advance` hears which detector is being worked on, and which share of it is done.
    """
    cases = [_case(detector, from_s, to_s, datasource) for detector in detectors]
    await _fetch(source, [case for case in cases if case.error is None], advance)
    for case in cases:
        if case.error is None:
            _lay_out(case)
    jobs = [
        _Job(at, case.detector, frame, case.first_s, group, len(case.frames), cluster)
        for at, case in enumerate(cases)
        for group, frame in sorted(case.frames.items())
    ]
    run = _in_processes if len(jobs) > IN_PROCESS else _here
    for job, played in zip(jobs, run(jobs, advance), strict=True):
        cases[job.case].replays.append(played)
    for case in cases:
        advance(case.name, 1.0)
    return [Backtested(case.detector, tuple(case.replays), case.error, tuple(_notes(case))) for case in cases]


def _case(detector: AnomalyDetector, from_s: float, to_s: float, datasource: str) -> _Case:
    """The grid of a detector: the instants that production judges, and the training window before them."""
    spec = detector.spec
    interval_s = -(-spec.interval // spec.step) * spec.step  # as production rounds it up
    phase = phase_s(datasource, [metric.query for metric in spec.named_metrics], interval_s, spec.step)
    first_s = -int((phase - from_s) // interval_s) * interval_s + phase
    end_s = int(to_s // spec.step) * spec.step
    case = _Case(detector, first_s - spec.training.window // spec.step * spec.step, first_s, end_s)
    if end_s < first_s:
        case.fail(
            WindowTooShort(
                f"{case.name}: no instant is judged from {rfc3339(int(from_s))} to {rfc3339(int(to_s))}, every "
                f"{format_duration(interval_s)}: choose a longer period."
            )
        )
    return case


# --- fetching -------------------------------------------------------------------------------------------------------


async def _fetch(source: MetricSource, cases: Sequence[_Case], advance: Advance) -> None:
    """Ask once for all who share a query template and a grid."""
    batches: dict[tuple[int, int, int], list[tuple[_Case, int]]] = defaultdict(list)
    for case in cases:
        advance(case.name, 0.0)
        asks = batches[case.spec.step, case.start_s, case.end_s]
        asks += [(case, metric) for metric in range(len(case.spec.named_metrics))]
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(shared: SharedQuery, asks: Sequence[tuple[_Case, int]]) -> None:
        async with places:
            await _answer(source, shared, asks)
        for case in {id(case): case for case, _ in (asks[member.index] for member in shared.members)}.values():
            advance(case.name, _FETCHING * len(case.matrices) / len(case.spec.named_metrics))

    plans = [
        (shared, asks)
        for asks in batches.values()
        for shared in plan_queries([case.spec.named_metrics[metric].query for case, metric in asks])
    ]
    await asyncio.gather(*(one(*plan) for plan in plans))


async def _answer(source: MetricSource, shared: SharedQuery, asks: Sequence[tuple[_Case, int]]) -> None:
    """Hand the answer to the members; what is too much for one query is asked member by member."""
    members = [(*asks[member.index], member) for member in shared.members]
    if all(case.error is not None for case, _, _ in members):
        return
    try:
        matrix = await source.range(members[0][0].query(shared.query))
    except ForeshockError as error:
        if shared.is_merged and isinstance(error, QueryRejected | TooManySeries):
            for case, metric, member in members:
                alone = SharedQuery(case.spec.named_metrics[metric].query, (Member(member.index),))
                await _answer(source, alone, asks)
            return
        for case, metric, _ in members:
            case.fail(_named(error, case, metric))
        return
    labels = [matrix.labels(series) for series in range(matrix.n_series)] if shared.is_merged else []
    for case, metric, member in members:
        case.matrices[metric] = _part(matrix, labels, member) if shared.is_merged else matrix


def _named(error: ForeshockError, case: _Case, metric: int) -> ForeshockError:
    """The error with the metric that it is about, unless it is about Prometheus itself."""
    if isinstance(error, PrometheusUnavailable):
        return error
    return type(error)(f"{case.name}: {case.spec.named_metrics[metric].name}: {error}")


def _part(matrix: Matrix, labels: Sequence[dict[str, str]], member: Member) -> Matrix:
    """The series of one member of a merged query, as its own query would return them."""
    rows = [row for row, each in enumerate(labels) if each.get(member.label or "") == member.value]
    own = [
        json.dumps({k: v for k, v in labels[row].items() if not (member.strip_label and k == member.label)}).encode()
        for row in rows
    ]
    ends = np.cumsum([len(each) for each in own], dtype=np.int64)
    return Matrix(
        matrix.start_s, matrix.step_s, matrix.values[rows], matrix.hashes[rows], b"".join(own), ends, matrix.warnings
    )


def _lay_out(case: _Case) -> None:
    """A frame for each group; one of nothing but gaps where nothing was found, which is a fact about every window."""
    metrics = case.spec.named_metrics
    try:
        case.frames = frames_of(case.detector, [case.matrices[metric] for metric in range(len(metrics))])
    except TooManySeries as error:
        case.fail(error)
        return
    for metric, matrix in sorted(case.matrices.items()):
        if not np.isfinite(matrix.values).any():
            case.notes.append(
                f"{case.name}: the query of {metrics[metric].name} returned nothing from {rfc3339(case.start_s)} to "
                f"{rfc3339(case.end_s)}: check its metric names and labels."
            )
        elif matrix.warnings:
            case.notes.append(
                f"{case.name}: {metrics[metric].name}: Prometheus warns that data may be missing: {matrix.warnings[0]}"
            )
    if not case.frames:
        names = tuple(metric.name for metric in metrics)
        n_times = case.query("").n_times
        case.frames[()] = Frame(case.start_s, case.spec.step, names, np.full((n_times, len(names)), np.nan))
    case.matrices.clear()


# --- replaying ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One group of one detector with everything that its replay needs: it may go to another process."""

    case: int
    detector: AnomalyDetector
    frame: Frame
    first_s: int
    group: Group
    n_groups: int
    cluster: str

    @property
    def name(self) -> str:
        return self.detector.subject.detector

    def run(self, progress: Callable[[float], None] = lambda _: None) -> Replay:
        return replay(
            self.detector, self.frame, self.first_s, group=self.group, n_groups=self.n_groups, cluster=self.cluster,
            progress=progress,
        )  # fmt: skip


def _here(jobs: Sequence[_Job], advance: Advance) -> Iterator[Replay]:
    done: dict[int, int] = defaultdict(int)
    for job in jobs:

        def progress(share: float, job: _Job = job) -> None:
            advance(job.name, _replayed((done[job.case] + share) / job.n_groups))

        yield job.run(progress)
        done[job.case] += 1


def _in_processes(jobs: Sequence[_Job], advance: Advance) -> Iterator[Replay]:
    n_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done: dict[int, int] = defaultdict(int)
    # spawn: a fork would share the event loop's threads and numba's locks
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            done[job.case] += 1
            advance(job.name, _replayed(done[job.case] / job.n_groups))
        yield from (future.result() for future in futures)


def _replayed(share: float) -> float:
    """The share of a detector's whole work, of which fetching came first."""
    return 1.0 - (1.0 - _FETCHING) * (1.0 - share)


def _notes(case: _Case) -> Iterator[str]:
    yield from case.notes
    untrained = [each for each in case.replays if not each.n_trainings and np.isfinite(each.frame.values).any()]
    if untrained:
        measured_s = int(np.isfinite(untrained[0].frame.values).any(axis=1).sum()) * case.spec.step
        warm_up = format_duration(case.spec.training.warm_up)
        yield (
            f"{untrained[0].subject}: training.warm_up asks for {warm_up} of history and Prometheus holds "
            f"{format_duration(measured_s)}: choose a later --from, or shorten training.warm_up."
        )


# --- what is said of it ---------------------------------------------------------------------------------------------


def first_trained_on(result: Backtested, played: Replay) -> tuple[int, int] | None:
    """What the model that judged the first window had learnt from, in UTC seconds; None where there was none yet."""
    first = played.judgements[0].verdict if played.judgements else None
    if not played.n_trainings or (isinstance(first, Inconclusive) and first.reason is Ignorance.WARMING_UP):
        return None
    until_s = played.frame.start_s + played.first_row * played.frame.step_s
    return max(played.frame.start_s, until_s - result.detector.spec.training.window), until_s


def sentence_of(alert: Alert, played: Replay) -> str:
    """What an engineer would say of an incident, as it was at its peak."""
    return _story_at(alert.peak_at_s, alert.contributions, played)


def told_at_firing(alert: Alert, played: Replay) -> tuple[tuple[Contribution, ...], str]:
    """Whom the alert named when it fired, largest first, and what it said."""
    named = next(each.contributions for each in played.judgements if each.at_s == alert.fired_at_s)
    return named, _story_at(alert.fired_at_s, named, played)


def _story_at(at_s: int, contributions: tuple[Contribution, ...], played: Replay) -> str:
    if not played.models or not contributions:
        return ""
    end = int(np.searchsorted(played.frame.times_s, at_s, side="right"))
    schema = played.models[0].schema
    window = played.frame.rows(max(0, end - schema.context_steps), end)
    cause = next(
        (j.verdict.cause for j in played.judgements if j.at_s == at_s and isinstance(j.verdict, Anomalous)),
        Cause.SCORE,
    )
    return story(played.models[0], window, contributions, cause)


def report_of(result: Backtested) -> list[ReportDetector]:
    """What the HTML report shows of one detector: a section a group, as many as a page can hold."""
    loudest_first = sorted(result.replays, key=lambda each: -len(each.alerts))
    shown = loudest_first if len(loudest_first) > MOST_SECTIONS else result.replays
    return [_section(result, each) for each in islice(shown, MOST_SECTIONS)]


def _section(result: Backtested, played: Replay) -> ReportDetector:
    detector = result.detector
    rows = slice(played.first_row, played.frame.n_times)
    reach = BAND * played.usual
    return ReportDetector(
        subject=str(played.subject),
        service=detector.spec.target_service,
        severity=detector.spec.alert_severity,
        times_s=played.frame.times_s[rows].astype(np.float64),
        scores=played.scores,
        metrics=tuple(
            ReportMetric(
                name,
                played.frame.values[rows, k],
                played.expected[:, k],
                played.expected[:, k] - reach[:, k],
                played.expected[:, k] + reach[:, k],
                "",
            )
            for k, name in enumerate(played.frame.metrics)
        ),
        alerts=tuple(
            ReportAlert(
                alert.started_at_s,
                alert.ended_at_s,
                alert.peak_score,
                alert.severity,
                alert.contributions,
                sentence_of(alert, played),
            )
            for alert in played.alerts
        ),
        model=_model_facts(result, played),
        queries={metric.name: metric.query for metric in detector.spec.named_metrics},
    )


def _model_facts(result: Backtested, played: Replay) -> dict[str, str]:
    spec, learnt = result.detector.spec, first_trained_on(result, played)
    facts = {"line": spec.model_line, "algorithm": spec.algorithm, "trainings": str(played.n_trainings)}
    if learnt is not None:
        facts["first trained on"] = f"{rfc3339(learnt[0])} to {rfc3339(learnt[1])}"
    facts["false alarm budget"] = str(spec.false_alarm_budget)
    if played.asked:
        facts["throttle let through"] = f"{played.let_through} of {played.asked} windows"
    return facts
