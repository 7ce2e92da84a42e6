"""The throttle on against off: what is lost, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bench.quality.__main__ import main
from bench.quality.summary import Row
from bench.quality.throttle import effects
from tests.bench.made_up import ROWS, TRAIN_ROWS, write_folder


def row(**figures: object) -> Row:
    result = {
        "dataset": "asd", "case": "a", "detector": "foreshock", "mode": "adapt", "budget": "1/7d", "weeks": 2.0,
        "found_each": [True, True, False], "delays_s": [600, 900], "false_alarms": 4, "throttled_false_alarms": 1,
        "throttled_found_each": [False, True, True], "throttled_delays_s": [1_200, 300], "asked": 100,
        "let_through": 5,
    }  # fmt: skip
    return result | figures


def test_what_only_the_full_model_finds_is_lost_even_if_the_counts_are_equal() -> None:
    """A segment that the throttle gains does not make up for one that it loses."""
    (effect,) = effects([row(), row(case="b", asked=300, let_through=35)])
    assert (effect.cases, effect.segments, effect.found_off, effect.found_on, effect.lost) == (2, 6, 4, 4, 2)
    assert (effect.per_week_off, effect.per_week_on) == (2.0, 0.5)
    assert (effect.delay_off_s, effect.delay_on_s) == (750.0, 750.0)
    assert effect.pass_ratio == pytest.approx(0.1)


def test_a_detector_without_a_throttle_and_a_refusal_have_no_line() -> None:
    """Peers judge every row."""
    refused = {name: value for name, value in row(refusal="too short").items() if "throttle" not in name}
    assert effects([row(asked=None), {**refused, "asked": None}]) == []


def test_both_come_from_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The score file has a column for each; the report prints them side by side within 80 columns."""
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    chosen = ["--datasets", "asd", "--detectors", "foreshock:level", "--modes", "frozen"]
    assert main(["--data", str(data), "--out", str(out), *chosen]) == 0
    lines = capsys.readouterr().out.splitlines()
    (place,) = (at for at, line in enumerate(lines) if line.startswith("Throttle on, off: frozen, 1/7d"))
    assert lines[place + 1].startswith("asd foreshock:level ")
    assert " of 1 " in lines[place + 1]
    assert max(map(len, lines)) <= 80
    (path,) = (out / "scores/asd/one").iterdir()
    scores = pq.read_table(path)
    off, on = scores.column("score").to_numpy(), scores.column("throttled").to_numpy()
    assert len(on) == ROWS - TRAIN_ROWS
    assert (on != off).any()
    assert (on[on >= 0.5] == off[on >= 0.5]).all()  # what is judged in full is judged alike, what is not stays below
