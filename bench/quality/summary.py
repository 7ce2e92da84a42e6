"""From runs to rows: one of each run, and one of each dataset, detector, mode, budget. Never one mean over all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench.quality.cases import DATASETS, Case
from bench.quality.detector import Budget
from bench.quality.measure import HOUR_S, WEEK_S, Ruler, average_precision, measured, oracle_found, runs
from bench.quality.store import Key, Run, flags_of
from bench.quality.vus import period_of, vus_pr
from scipy.stats import chi2

_RESAMPLES = 2_000
_SAME_CLOCK = {dataset.name for dataset in DATASETS if dataset.same_clock}
HONEST_UP_TO = 2.0  # times the budget: where the interval lies above that, the budget is broken

Row = dict[str, Any]


def row_of(key: Key, case: Case, run: Run, measure_digest: str) -> Row:
    """What one run amounts to; a refusal has only its reason."""
    row: Row = {
        "dataset": key.dataset, "case": key.case, "detector": key.detector, "mode": str(key.mode),
        "budget": key.budget, "digest": run.digest, "measure_digest": measure_digest, "seconds": run.seconds,
        "refusal": run.refusal, "step_s": case.step_s,
    }  # fmt: skip
    if run.refusal:
        return row
    labels = case.labels
    outcome = measured(run.anomalous, labels, case.step_s)
    if (throttled := run.answer.throttled) is not None:
        on = measured(flags_of(throttled.scores), labels, case.step_s)
        row |= {
            "throttled_found_each": list(on.found), "throttled_delays_s": [delay * case.step_s for delay in on.delays],
            "throttled_false_alarms": on.false_alarms, "asked": throttled.asked, "let_through": throttled.let_through,
        }  # fmt: skip
    return row | {
        "segments": len(outcome.starts),
        "found": sum(outcome.found),
        "false_alarms": outcome.false_alarms,
        "weeks": outcome.quiet_rows * case.step_s / WEEK_S,
        "quiet_rows": outcome.quiet_rows,
        "stray_rows": outcome.stray_rows,
        "oracle_found": oracle_found(run.scores, labels, case.step_s),
        "average_precision": average_precision(run.scores, labels),
        "vus_pr": vus_pr(run.scores, labels, period_of(case.values[:, 0])),
        "judged_s": len(labels) * case.step_s,
        "starts_s": [start * case.step_s for start in outcome.starts],
        "ends_s": [end * case.step_s for _, end in runs(labels)],
        "found_each": list(outcome.found),
        "delays_s": [delay * case.step_s for delay in outcome.delays],
        "episodes_s": [first * case.step_s for first, _ in outcome.episodes],
        "episode_ends_s": [last * case.step_s for _, last in outcome.episodes],
    }


@dataclass(frozen=True, slots=True)
class Scope:
    """What a dataset holds, whatever part of it was run."""

    cases: int
    segments: int
    weeks: float  # that belong to no segment


def scope_of(cases: Sequence[Case]) -> Scope:
    """All cases of one dataset, from their labels alone."""
    rulers = [(Ruler(case.labels, case.step_s), case.step_s) for case in cases]
    weeks = sum(int(ruler.quiet.sum()) * step_s for ruler, step_s in rulers) / WEEK_S
    return Scope(len(cases), sum(len(ruler.segments) for ruler, _ in rulers), weeks)


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the table."""

    dataset: str
    detector: str
    mode: str
    budget: str
    cases: int
    refused: int
    refusal: str  # the first reason
    segments: int
    found: int
    recall_low: float  # 90 % interval, moments drawn with replacement
    recall_high: float
    oracle_found: int
    false_alarms: int
    weeks: float
    moments: int  # distinct instants at which false alarms began
    stray_share: float
    delay_median_s: float
    delay_p90_s: float
    average_precision: float  # mean over the cases with a label, as vus_pr
    vus_pr: float
    seconds: float

    @property
    def recall(self) -> float:
        return self.found / self.segments if self.segments else float("nan")

    @property
    def oracle_recall(self) -> float:
        return self.oracle_found / self.segments if self.segments else float("nan")

    @property
    def per_week(self) -> float:
        return self.false_alarms / self.weeks if self.weeks else float("nan")


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """The table, in the order in which its keys first appear."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["detector"], row["mode"], row["budget"]), []).append(row)
    return [_summary(key, group) for key, group in groups.items()]


def _summary(key: tuple[str, str, str, str], group: list[Row]) -> Summary:
    rows = [row for row in group if not row["refusal"]]
    refusals = [row["refusal"] for row in group if row["refusal"]]
    delays = [delay for row in rows for delay in row["delays_s"]]
    low, high = _recall_interval(rows)
    same_clock = key[0] in _SAME_CLOCK
    return Summary(
        *key,
        cases=len(rows),
        refused=len(refusals),
        refusal=refusals[0] if refusals else "",
        segments=sum(row["segments"] for row in rows),
        found=sum(row["found"] for row in rows),
        recall_low=low,
        recall_high=high,
        oracle_found=sum(row["oracle_found"] for row in rows),
        false_alarms=sum(row["false_alarms"] for row in rows),
        weeks=sum(row["weeks"] for row in rows),
        moments=len(set(moments([row["episodes_s"] for row in rows], same_clock=same_clock))),
        stray_share=sum(row["stray_rows"] for row in rows) / max(1, sum(row["quiet_rows"] for row in rows)),
        delay_median_s=float(np.median(delays)) if delays else float("nan"),
        delay_p90_s=float(np.quantile(delays, 0.9)) if delays else float("nan"),
        average_precision=_mean(row["average_precision"] for row in rows),
        vus_pr=_mean(row["vus_pr"] for row in rows),
        seconds=sum(row["seconds"] for row in group),
    )


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def moments(instants_s: Sequence[Sequence[int]], *, same_clock: bool) -> list[int]:
    """The number of the moment of each instant, flat, case by case: instants less than an hour apart are one.

    Without a common clock instants of different cases are never one moment.
    """
    flat = [(0 if same_clock else case, at, place) for place, (case, at) in enumerate(
        (case, at) for case, each in enumerate(instants_s) for at in each
    )]  # fmt: skip
    result, current, before = [0] * len(flat), -1, (-1, 0)
    for case, at, place in sorted(flat):
        if case != before[0] or at - before[1] > HOUR_S:
            current += 1
        result[place], before = current, (case, at)
    return result


def _recall_interval(rows: list[Row]) -> tuple[float, float]:
    """90 % interval of the recall: segments of services that begin together are one draw, not many."""
    if not rows or not any(row["segments"] for row in rows):
        return float("nan"), float("nan")
    groups = moments([row["starts_s"] for row in rows], same_clock=rows[0]["dataset"] in _SAME_CLOCK)
    found = np.array([each for row in rows for each in row["found_each"]], np.float64)
    sizes = np.bincount(groups).astype(np.float64)
    hits = np.bincount(groups, weights=found)
    draws = np.random.default_rng(0).integers(0, len(sizes), (_RESAMPLES, len(sizes)))
    recalls = hits[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    return float(np.quantile(recalls, 0.05)), float(np.quantile(recalls, 0.95))


@dataclass(frozen=True, slots=True)
class Honesty:
    """False alarms against the budget, pooled over the cases of a dataset."""

    summary: Summary
    allowed: float
    low: float  # 90 % Poisson interval of the count, in budgets
    high: float

    @property
    def ratio(self) -> float:
        return self.summary.false_alarms / self.allowed

    @property
    def kept(self) -> bool:
        return self.low <= HONEST_UP_TO


def honesty(summary: Summary, budget: Budget) -> Honesty:
    """Whether the budget was kept: the exact interval of a Poisson count (Garwood 1936)."""
    count, allowed = summary.false_alarms, budget.per_week * summary.weeks
    low = chi2.ppf(0.05, 2 * count) / 2 if count else 0.0
    return Honesty(summary, allowed, float(low) / allowed, float(chi2.ppf(0.95, 2 * count + 2) / 2) / allowed)
