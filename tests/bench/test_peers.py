"""Every peer, walked through the same checks: it is causal, finds the obvious, and is calibrated by one rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.quality.cases import Case, find_cases
from bench.quality.detector import Budget, Contender, Mode, NotApplicable
from bench.quality.peers.base import filled
from bench.quality.peers.threshold import hourly_maxima, peaks_over_threshold, scale_of
from tests.bench.made_up import ROWS, SEGMENT, STEP_S, TRAIN_ROWS, write_folder

WEEKLY, DAILY = Budget("1/7d", 1 / 604_800), Budget("1/1d", 1 / 86_400)


def installed() -> list[Contender]:
    try:
        from bench.quality.peers.roster import PEERS
    except ModuleNotFoundError:  # river, PyOD and Prophet come with `make quality`, not with `make test`
        from bench.quality.peers.mahalanobis import MAHALANOBIS
        from bench.quality.peers.pca import PCA
        from bench.quality.peers.robust_z import ROBUST_Z
        from bench.quality.peers.textbook import TEXTBOOK

        return [TEXTBOOK, ROBUST_Z, MAHALANOBIS, PCA]
    return [peer for peer in PEERS if peer.name not in {"prophet", "always-on", "random"}]


def scored(peer: Contender, case: Case, mode: Mode, budget: Budget = WEEKLY) -> np.ndarray:
    return peer.scores(case, mode, [budget], lambda _share: None)[budget].scores


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return find_cases(write_folder(tmp_path_factory.mktemp("data")), ["asd"])[0]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("peer", [each for each in installed() if each.name != "river-hst"], ids=lambda peer: peer.name)
def test_a_peer_finds_a_jump_of_one_metric(peer: Contender, mode: Mode, case: Case) -> None:
    """Scores inside the segment lie above nearly all others; river's trees saturate where they saw nothing before."""
    scores = scored(peer, case, mode)
    assert len(scores) == ROWS - TRAIN_ROWS
    inside = scores[SEGMENT[0] - TRAIN_ROWS : SEGMENT[1] - TRAIN_ROWS]
    assert inside.max() > np.quantile(np.delete(scores, np.arange(SEGMENT[0] - TRAIN_ROWS, ROWS - TRAIN_ROWS)), 0.95)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("peer", installed(), ids=lambda peer: peer.name)
def test_what_comes_a_day_later_changes_nothing(peer: Contender, mode: Mode, case: Case, tmp_path: Path) -> None:
    """Nothing is used before its time; a day, because ECOD ranks the rows of one batch among one another."""
    path = tmp_path / "other.parquet"
    shutil.copy(case.path.with_suffix(".json"), path.with_suffix(".json"))
    table = pq.read_table(case.path)
    names = [name for name in table.column_names if name.startswith("m")]
    for name in names:
        values = table.column(name).to_numpy().copy()
        values[-60:] = 100.0
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    other = Case(case.dataset, "other", path, case.step_s, case.train_rows, case.rows)
    until = 288  # the first batch of judged rows
    assert np.array_equal(scored(peer, case, mode)[:until], scored(peer, other, mode)[:until])


def test_the_threshold_is_exceeded_as_often_as_the_budget_allows() -> None:
    """On stationary noise, within sampling error: 30 days to learn from, 1,000 days to count in."""
    rng = np.random.default_rng(1)
    held_out = rng.normal(size=30 * 86_400 // STEP_S)
    fresh = rng.normal(size=1_000 * 86_400 // STEP_S)
    for budget in (DAILY, WEEKLY):
        alarms = (hourly_maxima(scale_of(held_out, STEP_S, budget)(fresh), STEP_S) >= 1.0).sum()
        expected = 1_000 * 86_400 * budget.per_s
        assert expected / 2.5 < alarms < expected * 2.5


def test_rarer_budgets_ask_for_more_and_constants_for_nothing_impossible() -> None:
    """The level grows as the rate falls; equal scores leave no tail."""
    maxima = np.random.default_rng(2).exponential(size=500)
    levels = [peaks_over_threshold(maxima, rate) for rate in (1 / 24, 1 / 168, 1 / 720)]
    assert levels == sorted(levels)
    assert peaks_over_threshold(np.ones(500), 1 / 168) == 1.0


def test_a_gap_keeps_the_last_value_and_never_the_next_one() -> None:
    """Before the first value stands the median of the training rows."""
    values = np.array([[np.nan], [2.0], [np.nan], [4.0], [np.nan], [9.0]])
    assert filled(values, 4).ravel().tolist() == [3.0, 2.0, 2.0, 4.0, 4.0, 9.0]


def test_prophet_refuses_what_it_cannot_judge(case: Case) -> None:
    """The report says why there is no figure."""
    pytest.importorskip("prophet")
    pytest.importorskip("pandas")
    from bench.quality.peers.prophet_model import PROPHET

    with pytest.raises(NotApplicable, match="one metric"):
        scored(PROPHET, case, Mode.FROZEN)
