"""NAB's rules on a file small enough for paper, and the benchmark's own figures as they must stay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from bench.quality import nab, nab_published
from bench.quality.nab_published import PUBLISHED

# 40 rows, 6 of them on probation; one window of five rows, 20 to 24
ROWS, WINDOW = 40, (20, 24)
PROBATION = 6


def alarms(*rows: int) -> np.ndarray:
    flags = np.zeros(ROWS, np.bool_)
    flags[list(rows)] = True
    return flags[PROBATION:]


def score(*rows: int) -> float:
    page = nab.sheet(ROWS, [WINDOW])
    return nab.normalised(nab.raw_score([page], [alarms(*rows)]), 1)


def by_hand(position: float) -> float:
    return 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def test_silence_is_0_and_the_first_row_of_the_window_is_100() -> None:
    """The scale of the benchmark."""
    assert score() == 0.0
    assert score(20) == pytest.approx(100.0)


def test_a_window_pays_for_its_earliest_alarm_only() -> None:
    """Row 23 lies two fifths of the width before the row after the window."""
    late = by_hand(-2 / 5) / by_hand(-1.0)
    assert score(23) == pytest.approx(100.0 * (late + 1.0) / 2.0)
    assert score(20, 21, 22, 23, 24) == score(20)


def test_a_false_alarm_costs_its_weight_far_away_and_less_just_after_a_window() -> None:
    """0.11 before any window and three widths after one; a part of it in between."""
    assert score(20, 10) == pytest.approx(100.0 - 100.0 * 0.11 / 2.0)
    assert score(20, 39) == pytest.approx(100.0 - 100.0 * 0.11 / 2.0)  # 15 rows after, of 4 each: 3.75 widths
    assert score(20, 26) == pytest.approx(100.0 + 100.0 * 0.11 * by_hand(2 / 4) / 2.0)


def test_rows_on_probation_count_for_nothing() -> None:
    """15 % of a short file, 750 rows of a long one."""
    assert nab.probation_rows(ROWS) == PROBATION
    assert nab.probation_rows(22_695) == 750
    page = nab.sheet(ROWS, [(2, 4), WINDOW])
    assert (len(page.worth), page.n_windows) == (ROWS - PROBATION, 1)


def test_the_best_threshold_is_the_best_of_all_tried_one_by_one() -> None:
    """One pass over the sorted rows finds what trying every score finds, ties included."""
    rng = np.random.default_rng(4)
    sheets = [nab.sheet(400, [(100, 130), (300, 310)]), nab.sheet(300, []), nab.sheet(500, [(90, 110)])]
    scores = [np.round(rng.random(len(page.worth)), 2) for page in sheets]
    for page, values in zip(sheets, scores, strict=True):
        values[page.window == 0] += 0.2
    threshold, best = nab.best(sheets, scores, adapted=False)
    tried = {at: nab.score_at(sheets, scores, at, adapted=False) for at in np.unique(np.concatenate(scores))}
    assert best == pytest.approx(max(tried.values()))
    assert tried[threshold] == pytest.approx(best)


def test_the_adapter_reports_an_alarm_once_however_long_it_goes_on() -> None:
    """And again only after 12 rows below the threshold."""
    flags = np.zeros(100, np.bool_)
    flags[10:40] = flags[45] = flags[58] = True
    assert np.flatnonzero(nab.onsets(flags)).tolist() == [10, 58]
    assert not nab.onsets(np.zeros(5, np.bool_)).any()


def test_a_detector_that_says_nothing_scores_as_silence() -> None:
    """NaN is no alarm, at any threshold."""
    pages = [nab.sheet(ROWS, [WINDOW])]
    nothing = [np.full(ROWS - PROBATION, np.nan)]
    assert nab.score_at(pages, nothing, 1.0, adapted=False) == 0.0
    assert nab.best(pages, nothing, adapted=True)[1] == 0.0


def test_the_published_figures_are_those_of_the_benchmark() -> None:
    """results/final_results.json, standard profile; ours from the result files agreed to the sixth decimal."""
    said = {row.detector: row.all_files for row in PUBLISHED}
    assert said["numenta"] == 70.10
    assert said["windowedGaussian"] == 39.65
    assert said["knncad"] == 57.99
    assert said["randomCutForest"] == 51.72
    assert max(said.values()) == said["ARTime"] == 74.85
    assert all(row.development_best >= row.development for row in PUBLISHED)


def test_a_checkout_of_the_benchmark_is_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that made the figures, on a checkout of one file with one alarm at the start of its window."""
    for folder in ("labels", "config", "results/one/real"):
        (tmp_path / folder).mkdir(parents=True)
    times = [f"2014-01-01 {hour:02}:{minute:02}:00" for hour in range(8) for minute in range(0, 60, 12)]
    lines = [f"{time},1,{1.0 if row == WINDOW[0] else 0.0}" for row, time in enumerate(times)]
    (tmp_path / "results/one/real/one_file.csv").write_text("\n".join(["timestamp,value,anomaly_score", *lines]))
    windows = {"real/file.csv": [[f"{times[row]}.000000" for row in WINDOW]]}
    (tmp_path / "labels/combined_windows.json").write_text(json.dumps(windows))
    (tmp_path / "config/thresholds.json").write_text(json.dumps({"one": {"standard": {"threshold": 0.5}}}))
    (tmp_path / "results/final_results.json").write_text(json.dumps({"one": {"standard": 100.0}, "null": {}}))
    nab_published.main([str(tmp_path)])
    assert capsys.readouterr().out.split() == ["one", "published", "100.000000", "scored", "again", "100.000000"]
