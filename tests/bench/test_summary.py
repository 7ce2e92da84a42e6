"""From runs to the lines of the table: moments, intervals, budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench.quality.detector import Budget
from bench.quality.summary import Row, honesty, moments, summaries

WEEK_S = 604_800
WEEKLY = Budget("1/7d", 1 / WEEK_S)


def row(dataset: str = "d2", **figures: object) -> Row:
    result = {
        "dataset": dataset, "case": "a", "detector": "foreshock", "mode": "adapt", "budget": "1/7d", "seconds": 1.0,
        "refusal": "", "segments": 2, "found": 1, "false_alarms": 3, "weeks": 2.0, "quiet_rows": 100, "stray_rows": 1,
        "oracle_found": 2, "average_precision": 0.5, "vus_pr": 0.25, "starts_s": [0, 90_000],
        "found_each": [True, False], "delays_s": [600], "episodes_s": [10_000, 50_000, 80_000],
    }  # fmt: skip
    return result | figures


def test_instants_less_than_an_hour_apart_are_one_moment_across_cases_of_one_clock() -> None:
    """D2 has far fewer independent events than segments."""
    instants = [[0, 90_000], [1_800, 200_000], [3_600]]
    assert moments(instants, same_clock=True) == [0, 1, 0, 2, 0]
    assert moments(instants, same_clock=False) == [0, 1, 2, 3, 4]


def test_the_interval_of_the_recall_is_wider_where_segments_begin_together() -> None:
    """Ten services that see one event are one draw."""
    shared = [
        row(case=str(case), starts_s=[0, 500_000], found_each=[True, False], segments=2, found=1) for case in range(10)
    ]
    alone = [{**each, "dataset": "smd"} for each in shared]
    (together,), (apart,) = summaries(shared), summaries(alone)
    assert together.recall == apart.recall == 0.5
    assert (together.recall_low, together.recall_high) == (0.0, 1.0)
    assert 0.2 < apart.recall_low < apart.recall_high < 0.8


def test_counts_are_pooled_and_rankings_are_means_over_labelled_cases() -> None:
    """A case without a label has no ranking; a refused one counts nowhere but as refused."""
    rows = [
        row(),
        row(case="b", segments=0, found=0, starts_s=[], found_each=[], delays_s=[], average_precision=float("nan"),
            vus_pr=float("nan"), false_alarms=1, episodes_s=[10_900]),
        row(case="c", refusal="too short"),
    ]  # fmt: skip
    (line,) = summaries(rows)
    assert (line.cases, line.refused, line.refusal) == (2, 1, "too short")
    assert (line.found, line.segments, line.false_alarms, line.weeks) == (1, 2, 4, 4.0)
    assert (line.average_precision, line.vus_pr, line.per_week) == (0.5, 0.25, 1.0)
    assert line.moments == 3  # the second case's alarm began in the same hour as one of the first


@pytest.mark.parametrize(("count", "kept"), [(0, True), (2, True), (14, True), (15, True), (25, False), (60, False)])
def test_a_budget_is_broken_only_when_the_interval_lies_above_twice_of_it(count: int, kept: bool) -> None:
    """Eight weeks at one a week allow eight; the 90 % interval of 25 begins at 17.4, of 15 at 9.2."""
    (line,) = summaries([row(weeks=8.0, false_alarms=count)])
    verdict = honesty(line, WEEKLY)
    assert verdict.allowed == pytest.approx(8.0)
    assert verdict.kept is kept
    assert verdict.low <= verdict.ratio <= verdict.high


def test_the_interval_is_that_of_a_poisson_count() -> None:
    """At its ends a count as extreme as the one that was seen has a probability of 5 %."""
    (line,) = summaries([row(weeks=1.0, false_alarms=7)])
    verdict = honesty(line, WEEKLY)
    rng = np.random.default_rng(0)
    assert (rng.poisson(verdict.low, 200_000) >= 7).mean() == pytest.approx(0.05, abs=0.003)
    assert (rng.poisson(verdict.high, 200_000) <= 7).mean() == pytest.approx(0.05, abs=0.003)
    assert honesty(replace(line, false_alarms=0), WEEKLY).low == 0.0
