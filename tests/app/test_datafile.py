"""`foreshock backtest FILE.parquet`: exactly the later rows, causal, and one sentence for bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foreshock.cli.main import main
from foreshock.core.frame import Array

STEP_S, N_ROWS, N_TRAIN, FAULT = 300, 2880, 2016, 2500


def _columns(*, broken: bool = True) -> dict[str, Array]:
    random = np.random.default_rng(1)
    columns = {name: 100 + random.normal(0, 2, N_ROWS) for name in ("latency ms", "errors")}
    if broken:
        columns["errors"][FAULT : FAULT + 24] += 60
    return columns


def _write(path: Path, columns: dict[str, Array], **extra: object) -> Path:
    pq.write_table(pa.table({"timestamp": np.arange(N_ROWS) * STEP_S + 1_700_000_000, **columns, **extra}), path)
    return path


def _run(file: Path, *options: str) -> pa.Table:
    out = file.with_suffix(".out.parquet")
    assert main(["backtest", str(file), "--train-rows", str(N_TRAIN), "--out", str(out), *options]) == 0
    return pq.read_table(out)


def test_the_answer_has_exactly_the_later_rows_and_finds_the_fault(tmp_path: Path) -> None:
    """Times as given, shares that add up, never null in `anomalous`, and the metric that moved leads."""
    labels = np.zeros(N_ROWS, np.int8)
    table = _run(_write(tmp_path / "shop.parquet", _columns(), is_anomaly=labels))
    assert table.column_names == ["timestamp", "score", "anomalous", "contribution_latency ms", "contribution_errors"]
    np.testing.assert_array_equal(table["timestamp"], (np.arange(N_ROWS) * STEP_S + 1_700_000_000)[N_TRAIN:])
    anomalous = table["anomalous"].to_numpy()
    at = FAULT - N_TRAIN
    assert anomalous[at : at + 12].any()
    assert not anomalous[:at].any()
    first = at + int(np.argmax(anomalous[at:]))
    assert table["contribution_errors"][first].as_py() > 0.5
    total = table["contribution_errors"].to_numpy() + table["contribution_latency ms"].to_numpy()
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert table["anomalous"].null_count == 0


def test_nothing_is_used_before_its_time(tmp_path: Path) -> None:
    """The rows before the fault are answered alike, whatever comes after them."""
    with_fault = _run(_write(tmp_path / "a.parquet", _columns()))["score"].to_numpy()
    without = _run(_write(tmp_path / "b.parquet", _columns(broken=False)))["score"].to_numpy()
    np.testing.assert_array_equal(with_fault[: FAULT - N_TRAIN], without[: FAULT - N_TRAIN])


def test_a_metric_of_holes_and_a_constant_one_are_no_obstacle(tmp_path: Path) -> None:
    columns = _columns(broken=False)
    columns["constant"], columns["empty"] = np.full(N_ROWS, 5.0), np.full(N_ROWS, np.nan)
    columns["errors"][100:140] = np.nan
    table = _run(_write(tmp_path / "holes.parquet", columns), "--frozen")
    assert table.num_rows == N_ROWS - N_TRAIN
    assert table["anomalous"].to_numpy().mean() < 0.01


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train-rows", "9999"], "--train-rows must lie between"),
        (["--train-rows", "20"], "too few to learn from"),
        (["--train-rows", "2016", "--ignore", "nothing"], "there is no such column"),
    ],
)
def test_wrong_options_get_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(tmp_path / "shop.parquet", _columns())
    assert main(["backtest", str(file), "--out", str(tmp_path / "out.parquet"), *options]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_that_is_no_parquet_and_one_without_times_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_text("timestamp,errors\n")
    pq.write_table(pa.table({"errors": [1.0, 2.0]}), tmp_path / "timeless.parquet")
    for file, sentence in (
        (broken, "cannot be read as Parquet"),
        (tmp_path / "timeless.parquet", "no column 'timestamp'"),
    ):
        assert main(["backtest", str(file), "--train-rows", "1", "--out", str(tmp_path / "out.parquet")]) == 1
        assert sentence in capsys.readouterr().err
