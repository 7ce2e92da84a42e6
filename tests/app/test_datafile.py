"""Files of every kind: what is read, where a row lies on the grid, what is answered, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foreshock.app.datafile import MOST_METRICS, FileOptions, FileReplay, replay_file, write
from foreshock.core.errors import InvalidFile, NotEnoughHistory

START_S = 1_760_000_037  # on no round minute
N_TRAIN, N_ROWS = 300, 420


def values(n_rows: int = N_ROWS, seed: int = 7) -> np.ndarray:
    """A level with noise around it."""
    return 100.0 + np.random.default_rng(seed).normal(0.0, 2.0, n_rows)


def times(n_rows: int = N_ROWS, step_s: int = 60) -> np.ndarray:
    return START_S + step_s * np.arange(n_rows)


def parquet(folder: Path, **columns: Any) -> Path:
    """A file of these columns, `timestamp` in front of them unless they say otherwise."""
    columns = {"timestamp": times(len(next(iter(columns.values())))), **columns}
    pq.write_table(pa.table(columns), folder / "in.parquet")
    return folder / "in.parquet"


def answer(path: Path, **options: Any) -> FileReplay:
    """With the quickest algorithm, since these tests are not about what it finds."""
    return replay_file(path, FileOptions(**{"train_rows": N_TRAIN, "algorithm": "level", "adapt": False, **options}))


def written(result: FileReplay, folder: Path) -> pa.Table:
    write(result, folder / "out.parquet")
    return pq.read_table(folder / "out.parquet")


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises((InvalidFile, NotEnoughHistory)) as caught:
        answer(path, **options)
    return str(caught.value)


# --- what is answered -----------------------------------------------------------------------------------------------


def test_each_row_behind_the_training_rows_has_one_answer_of_the_promised_types(tmp_path: Path) -> None:
    """The columns, their types and their order are those of the design, whatever the metrics are called."""
    names = ("p99 latency/ms", "0", "score", "wait.time", "wait")
    path = parquet(tmp_path, **{name: values(seed=k) for k, name in enumerate(names)})
    table = written(answer(path), tmp_path)
    assert table.schema == pa.schema(
        [
            ("timestamp", pa.int64()),
            ("score", pa.float64()),
            ("anomalous", pa.bool_()),
            *((f"contribution_{name}", pa.float32()) for name in names),
        ]
    )
    assert table["timestamp"].to_pylist() == times()[N_TRAIN:].tolist()
    assert table["anomalous"].null_count == 0
    shares = sum(table[f"contribution_{name}"].to_numpy().astype(np.float64) for name in names)
    np.testing.assert_allclose(shares, 1.0, atol=1e-6)
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_step_is_found_where_it_begins_and_its_metric_is_blamed(tmp_path: Path) -> None:
    """`anomalous` is `score` >= 1.0, from soon after the step on; the metric that moved has the largest share."""
    moved = values()
    moved[360:] += 60.0
    result = answer(parquet(tmp_path, still=values(seed=1), moved=moved))
    np.testing.assert_array_equal(result.anomalous, result.scores >= 1.0)
    assert not result.anomalous[:60].any()
    assert result.anomalous[70:].all()
    assert (result.contributions[70:, 1] > 0.9).all()
    assert len(result.replay.alerts) == 1


@pytest.mark.parametrize("adapt", [True, False])
def test_nothing_is_used_before_its_time(tmp_path: Path, adapt: bool) -> None:
    """Another future, even at the very instant of a row, leaves every answer before it as it is."""
    stamps = times(600)
    stamps[401] = stamps[400]  # a repeated time at the border
    past, other = values(600), values(600)
    other[401:] = values(199, seed=8) * 3.0
    options = {"adapt": adapt, "budget": FileOptions(1).budget}
    answers = []
    for column in (past, other):
        path = parquet(tmp_path, timestamp=stamps, m=column, n=values(600, seed=2))
        answers.append(answer(path, **options))
    known = 401 - N_TRAIN
    np.testing.assert_array_equal(answers[0].scores[:known], answers[1].scores[:known])
    np.testing.assert_array_equal(answers[0].contributions[:known], answers[1].contributions[:known])
    assert not np.array_equal(answers[0].scores[known:], answers[1].scores[known:])


def test_adapting_trains_again_and_frozen_does_not(tmp_path: Path) -> None:
    """A day of five-minute rows lies between two trainings."""
    path = parquet(tmp_path, timestamp=times(900, 300), m=values(900))
    assert answer(path, adapt=True).replay.n_trainings == 3
    assert answer(path, adapt=False).replay.n_trainings == 1


def test_columns_without_a_story_do_no_harm(tmp_path: Path) -> None:
    """Missing, constant, infinite, boolean and decimal columns beside a sound one are judged or passed over."""
    holes = values()
    holes[::3] = np.nan
    columns = {
        "sound": values(),
        "holes": holes,
        "constant": np.full(N_ROWS, 5.0),
        "missing": pa.nulls(N_ROWS),
        "absent": np.full(N_ROWS, np.nan),
        "infinite": np.where(np.arange(N_ROWS) % 50 == 7, np.inf, 1.0),
        "flag": pa.array([None if k % 40 == 3 else k % 2 == 0 for k in range(N_ROWS)]),
        "price": pa.array([Decimal("1.25")] * N_ROWS),
        "count": pa.array([None if k % 40 == 3 else k % 5 for k in range(N_ROWS)], pa.int16()),
    }
    table = written(answer(parquet(tmp_path, **columns)), tmp_path)
    assert table.num_rows == N_ROWS - N_TRAIN
    assert table["score"].null_count == 0
    shares = sum(table[f"contribution_{name}"].to_numpy().astype(np.float64) for name in columns)
    np.testing.assert_allclose(shares, 1.0, atol=1e-6)


def test_rows_about_which_nothing_can_be_said_have_no_score_and_are_not_anomalous(tmp_path: Path) -> None:
    """When everything ends, the newest rows are null: missing data is neither normal nor a zero."""
    column = values()
    column[::7] = np.nan  # so often missing that its absence is no news
    column[400:] = np.nan
    table = written(answer(parquet(tmp_path, m=column)), tmp_path)
    assert table["score"][-1].as_py() is None
    assert table["anomalous"][-1].as_py() is False
    assert table["contribution_m"][-1].as_py() == 1.0


# --- the grid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])  # Parquet has no seconds
def test_arrow_timestamps_come_back_as_they_were(tmp_path: Path, unit: str) -> None:
    """Type, time zone and values; the step is read off them."""
    kind = pa.timestamp(unit, tz="Europe/Berlin")
    stamps = pa.array([dt.datetime.fromtimestamp(int(each), dt.UTC) for each in times()], kind)
    result = answer(parquet(tmp_path, timestamp=stamps, m=values()))
    assert (result.step_s, result.notes) == (60, ())
    table = written(result, tmp_path)
    assert table.schema.field("timestamp").type == kind
    assert table["timestamp"].combine_chunks() == stamps[N_TRAIN:]


def test_a_plain_index_counts_steps_and_says_so(tmp_path: Path) -> None:
    """0..n-1 is no second each: a minute by default, or what --step says."""
    path = parquet(tmp_path, timestamp=np.arange(N_ROWS), m=values())
    result = answer(path)
    assert result.step_s == 60
    assert "counts rows" in result.notes[0]
    assert (answer(path, step_s=300).step_s, answer(path, step_s=300).notes) == (300, ())


def test_fractions_of_seconds_and_a_phase_of_half_a_step_lose_no_row(tmp_path: Path) -> None:
    """Each row of a regular file has a place of its own, however its times lie."""
    result = answer(parquet(tmp_path, timestamp=START_S - 7 + 0.5 + 60.0 * np.arange(N_ROWS), m=values()))
    np.testing.assert_array_equal(result.row_of, np.arange(N_ROWS))


def test_jitter_gaps_and_repeats_keep_the_rows_of_the_file(tmp_path: Path) -> None:
    """Rows go to the nearest step; of a repeated time the last value stays, and each row has its answer."""
    stamps = times().astype(np.float64) + np.random.default_rng(3).uniform(-20, 20, N_ROWS)
    stamps[350:] += 3600.0
    stamps[321] = stamps[320]
    column = values()
    column[320], column[321] = 1e6, 100.0
    result = answer(parquet(tmp_path, timestamp=stamps, m=column), step_s=60)
    assert len(result.scores) == N_ROWS - N_TRAIN
    assert result.replay.frame.n_times == N_ROWS + 60
    assert (result.row_of[320], result.row_of[321]) == (319, 320)
    assert np.nanmax(result.replay.frame.values) < 1e6


@pytest.mark.parametrize(
    ("change", "note"),
    [(lambda stamps: stamps[350:] - 3600, "runs backwards"), (lambda stamps: stamps[350:] + 10_000_000, "long holes")],
)
def test_rows_are_counted_where_time_does_not_run(tmp_path: Path, change: Any, note: str) -> None:
    """A clock change, or a hole that would be most of the grid, is said; the rows then follow each other."""
    stamps = times()
    stamps[350:] = change(stamps)
    result = answer(parquet(tmp_path, timestamp=stamps, m=values()))
    assert note in result.notes[0]
    np.testing.assert_array_equal(result.row_of, np.arange(N_ROWS))


def test_the_window_is_the_larger_of_an_hour_and_twelve_steps(tmp_path: Path) -> None:
    """Unless --window says otherwise."""
    path = parquet(tmp_path, m=values())
    assert answer(path).window_s == 3600
    assert answer(path, window_s=1800).window_s == 1800
    hourly = parquet(tmp_path, timestamp=times(step_s=3600), m=values())
    assert (answer(hourly).step_s, answer(hourly).window_s) == (3600, 12 * 3600)


def test_steps_below_a_minute_are_answered_row_by_row(tmp_path: Path) -> None:
    """Production judges once a minute; a file's rows are all scored."""
    result = answer(parquet(tmp_path, timestamp=times(1300, 15), m=values(1300)), train_rows=1200)
    assert len(result.scores) == 100
    assert np.isfinite(result.scores).all()
    assert len(result.replay.judgements) == 25


# --- what is no metric, and what is refused -------------------------------------------------------------------------


def test_labels_ignored_columns_and_pandas_index_are_no_metrics(tmp_path: Path) -> None:
    """They may hold anything, and are not in the answer."""
    anything = {"is_anomaly": np.arange(N_ROWS), "note": ["x"] * N_ROWS, "__index_level_0__": np.arange(N_ROWS)}
    assert answer(parquet(tmp_path, m=values(), **anything), ignore=("note",)).metrics == ("m",)


def test_what_is_no_metric_changes_no_answer(tmp_path: Path) -> None:
    """The labels could not leak into a score: the same file without them is answered alike."""
    label = (np.arange(N_ROWS) > 350).astype(np.int8)
    with_labels = answer(parquet(tmp_path, m=values(), is_anomaly=label, x=label), ignore=("x",))
    np.testing.assert_array_equal(with_labels.scores, answer(parquet(tmp_path, m=values())).scores)


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        ({"m": ["x"] * N_ROWS}, {}, "'m' is string and no number: leave it out with --ignore m."),
        ({"m": values()}, {"ignore": ("k",)}, "--ignore k: there is no such column; there are timestamp, m."),
        ({"m": values()}, {"ignore": ("m",)}, "No column is left to judge"),
        ({"is_anomaly": values()}, {}, "No column is left to judge"),
        ({"m": values()}, {"train_rows": N_ROWS}, f"--train-rows must lie between 1 and {N_ROWS - 1}"),
        ({"m": values()}, {"train_rows": 0}, "--train-rows must lie between 1 and"),
        ({"m": values()}, {"train_rows": 200}, "at least 240 are needed"),
        ({"m": values()}, {"train_rows": 200}, "write --train-rows 240 or more"),
        ({"m": values(200)}, {"train_rows": 190}, "the file is too short for that"),
        ({"m": np.full(N_ROWS, np.nan)}, {}, "hold 0 measured steps"),
        ({"m": values()}, {"window_s": 90}, "A --window of 1m30s holds fewer than two steps of 1m"),
        ({"m": values(1)}, {}, "has 1 rows: there is nothing to judge."),
        ({"timestamp": ["x"] * N_ROWS, "m": values()}, {}, "'timestamp' is string: it needs Unix seconds"),
        ({"timestamp": times() * 1000, "m": values()}, {}, "is not in Unix seconds: divide it"),
        ({"timestamp": times() / 1e3, "m": values()}, {}, "is not within 1s to 1d: give --step."),
        ({"timestamp": pa.array([None, *range(N_ROWS - 1)]), "m": values()}, {}, "has missing values"),
        ({f"m{k}": [1.0, 2.0] for k in range(MOST_METRICS + 1)}, {}, f"more than {MOST_METRICS}: leave some out"),
    ],
)
def test_bad_input_is_one_sentence_with_its_fix(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    """Each names the column or the option; nothing is judged."""
    said = refusal(parquet(tmp_path, **columns), **options)
    assert sentence in said
    assert "\n" not in said


def test_the_least_number_of_rows_that_is_named_is_enough(tmp_path: Path) -> None:
    """Whoever follows the sentence gets an answer, on a file with gaps and missing values as well."""
    column = values()
    column[:50] = np.nan
    stamps = times()
    stamps[100:] += 900
    path = parquet(tmp_path, timestamp=stamps, m=column)
    said = refusal(path, train_rows=200)
    least = int(said.split("write --train-rows ")[1].split()[0])
    assert least == 240 + 50
    assert "are needed" in refusal(path, train_rows=239)
    assert not answer(path, train_rows=least).notes
    assert np.isfinite(answer(path, train_rows=least).scores).any()


def test_training_rows_of_which_some_were_not_measured_are_waited_for(tmp_path: Path) -> None:
    """Who gave enough rows is told when judging begins, and not refused for a gap in them."""
    column = values()
    column[:50] = np.nan
    given = answer(parquet(tmp_path, m=column), train_rows=250)
    assert given.notes == (
        "200 of the 250 training rows were measured and 240 are needed: judging begins after row 290.",
    )
    assert np.isnan(given.scores[: 290 - 250]).all()
    assert np.isfinite(given.scores[290 - 250 :]).any()
    nothing = np.where(np.arange(N_ROWS) < 200, 1.0, np.nan)
    assert "the file is too short for that" in refusal(parquet(tmp_path, m=nothing), train_rows=250)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>" * 100, None])
def test_what_is_no_parquet_is_said(tmp_path: Path, content: bytes | None) -> None:
    """Empty, cut off, something else, or a folder."""
    path = tmp_path / "in.parquet"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"{path} cannot be read:")
    assert "\n" not in said


def test_a_damaged_page_is_said(tmp_path: Path) -> None:
    """A sound head does not make sound data."""
    path = parquet(tmp_path, m=values())
    data = bytearray(path.read_bytes())
    data[20:200] = bytes(180)
    path.write_bytes(data)
    assert "cannot be read" in refusal(path)


def test_a_missing_file_and_two_columns_of_one_name_are_said(tmp_path: Path) -> None:
    """The operating system's words, and what to rename."""
    assert "No such file" in refusal(tmp_path / "none.parquet")
    table = pa.Table.from_arrays([pa.array(times()), pa.array(values()), pa.array(values())], ["timestamp", "m", "m"])
    pq.write_table(table, tmp_path / "twice.parquet")
    assert "two columns of one name: rename one." in refusal(tmp_path / "twice.parquet")


def test_a_file_without_timestamp_is_said(tmp_path: Path) -> None:
    """It is the one column that must be there."""
    pq.write_table(pa.table({"time": times(), "m": values()}), tmp_path / "in.parquet")
    assert "has no column 'timestamp'" in refusal(tmp_path / "in.parquet")


def test_answers_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Where the target cannot be replaced, one sentence is said and nothing is left behind."""
    result = answer(parquet(tmp_path, m=values()))
    folder = tmp_path / "answers"
    (folder / "out.parquet").mkdir(parents=True)
    with pytest.raises(InvalidFile, match=r"out\.parquet cannot be written"):
        write(result, folder / "out.parquet")
    assert [each.name for each in folder.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("algorithm", ["together", "forecast", "autoencoder"])
def test_a_file_is_judged_by_every_algorithm_that_no_other_test_here_asks_for(tmp_path: Path, algorithm: str) -> None:
    """Six metrics that jump at the end: each row has an answer, and the last one is that it is anomalous."""
    columns = {f"m{k}": values(seed=k) for k in range(6)}
    for column in columns.values():
        column[-3:] += 40.0
    result = answer(parquet(tmp_path, **columns), algorithm=algorithm)
    assert len(result.scores) == N_ROWS - N_TRAIN
    assert result.scores[-1] >= 1.0
