"""The harness as its user starts it: runs what is missing, reports what is there, refuses in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench.quality import store
from bench.quality.__main__ import main
from bench.quality.detector import Answer, Mode
from bench.quality.store import Key
from tests.bench.made_up import ROWS, SEGMENT, TRAIN_ROWS, write_folder


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    data = write_folder(tmp_path / "data", cases=("one", "two"))
    detector = ["--datasets", "asd", "--detectors", "foreshock:level", "--modes", "frozen"]
    return ["--data", str(data), "--out", str(tmp_path / "out"), *detector]


def scores_of(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in (out / "scores").rglob("*.parquet")}


def test_a_second_run_computes_nothing_and_prints_the_same(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is in the folder with the same code stays; a file that is gone is made again, and only that one."""
    assert main(arguments) == 0
    first, before = capsys.readouterr().out, scores_of(tmp_path / "out")
    assert len(before) == 2
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert scores_of(tmp_path / "out") == before
    lost = tmp_path / "out" / "scores/asd/two/foreshock-level.frozen.1-7d.parquet"
    lost.unlink()
    assert main(arguments) == 0
    changed = {name for name, at in scores_of(tmp_path / "out").items() if before[name] != at}
    assert changed == {str(lost.relative_to(tmp_path / "out"))}


def test_what_other_code_said_is_said_again(arguments: list[str], tmp_path: Path) -> None:
    """A run belongs to the code that made it; its figures belong to the measure, and are renewed without a run."""
    assert main(arguments) == 0
    out, key = tmp_path / "out", Key("asd", "one", "foreshock:level", Mode.FROZEN, "1/7d")
    run, row = store.load(out, key), store.row_in(out, key)
    assert run is not None
    store.save(out, key, replace(run, digest="of old", answer=Answer(run.scores + 9.0)), row)
    assert main(arguments) == 0
    again = store.load(out, key)
    assert again is not None
    assert again.digest == run.digest
    assert np.array_equal(again.scores, run.scores, equal_nan=True)
    store.save(out, key, run, row | {"measure_digest": "of old", "found": 77})
    assert main([*arguments, "--report-only"]) == 0
    assert store.row_in(out, key) == row


def test_two_workers_save_what_one_does(arguments: list[str], tmp_path: Path) -> None:
    """`--jobs` changes the time and nothing else."""
    assert main([*arguments, "--jobs", "2"]) == 0
    two = {name: pq.read_table(tmp_path / "out" / name) for name in scores_of(tmp_path / "out")}
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 0
    assert {name: pq.read_table(tmp_path / "other" / name) for name in scores_of(tmp_path / "other")} == two


def test_the_files_hold_a_row_a_judged_row_and_the_table_a_row_a_run(arguments: list[str], tmp_path: Path) -> None:
    """The report can be made again from them."""
    assert main(arguments) == 0
    (path,) = (tmp_path / "out/scores/asd/one").iterdir()
    scores = pq.read_table(path)
    assert (scores.num_rows, scores.column_names) == (ROWS - TRAIN_ROWS, ["score", "anomalous", "throttled"])
    rows = pq.read_table(tmp_path / "out/results.parquet").to_pylist()
    assert [(row["case"], row["segments"]) for row in rows] == [("one", 1), ("two", 1)]
    flagged = np.flatnonzero(scores.column("anomalous").to_numpy(zero_copy_only=False)) + TRAIN_ROWS
    assert rows[0]["found"] == ((flagged >= SEGMENT[0]) & (flagged < SEGMENT[1])).any()


def test_report_only_runs_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so where there is nothing to report."""
    assert main([*arguments, "--report-only"]) == 1
    assert "holds no result" in capsys.readouterr().err
    assert not (tmp_path / "out/scores").exists()


def test_no_printed_line_is_wider_than_a_terminal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """80 columns."""
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("foreshock:level ") for line in lines)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--datasets", "d9"], "there is no such dataset"),
        (["--detectors", "oracle"], "there is no such detector"),
        (["--cases", "nothing*"], "no case of asd has such a name"),
        (["--budgets", "often"], "bench.quality: "),
        (["--write-docs", "nowhere.md"], "the tables go between them"),
    ],
)
def test_a_wrong_word_is_refused_in_one_sentence(
    arguments: list[str], wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing run."""
    assert main([*arguments, *wrong]) == 2
    assert said in capsys.readouterr().err
