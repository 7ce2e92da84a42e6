"""`foreshock backtest FILE.parquet`: the same engine on a table with a `timestamp` and one column a metric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshock.core.durations import format_duration
from foreshock.core.errors import InvalidFile, NotEnoughHistory
from foreshock.core.frame import Array, Frame, as_samples
from foreshock.lifecycle.replay import Replay, replay
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.fields import Budget

_NEVER_METRICS = ("timestamp", "is_anomaly")
_MOST_CELLS = 500_000_000
_WINDOW_S = 28 * 86_400
_BUDGET = Budget(1, 7 * 86_400)
_GRID_FACTOR = 4  # a grid that much longer than the table is mostly holes: then rows are counted instead


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the command line says; None is "find out"."""

    train_rows: int
    step_s: int | None = None
    window_s: int | None = None
    algorithm: str = "ensemble"
    budget: Budget = _BUDGET
    ignore: tuple[str, ...] = ()
    adapt: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class FileReplay:
    """A replay and the rows of the table that it answers."""

    replay: Replay
    table: pa.Table
    metrics: tuple[str, ...]  # the columns' own names
    row_of: NDArray[np.int64]  # (n_rows,) row of the frame for each row of the table
    step_s: int
    notes: tuple[str, ...]


def replay_file(path: Path, options: FileOptions, progress: Callable[[float], None] = lambda _: None) -> FileReplay:
    """Train on the first rows of a file and judge the rest; nothing is used before its time.

    Raises:
        InvalidFile: it is no Parquet, lacks `timestamp`, or a column is no metric.
        NotEnoughHistory: too few rows to train on.

    """
    table = _read(path)
    metrics = _metrics(table, options.ignore)
    if not 0 < options.train_rows < table.num_rows:
        raise InvalidFile(
            f"--train-rows must lie between 1 and {table.num_rows - 1}, the rows of {path.name} less one."
        )
    times_s, counted = _times(table.column("timestamp"))
    notes: list[str] = []
    step_s = options.step_s or _step(times_s, counted=counted, notes=notes)
    row_of = _grid(times_s, step_s, counted=counted, notes=notes)
    start_s = 0 if counted else int(times_s[0] // step_s) * step_s
    values = np.full((int(row_of.max()) + 1, len(metrics)), np.nan)
    for column, name in enumerate(metrics):
        values[row_of, column] = table.column(name).to_numpy().astype(np.float64)
    frame = Frame(start_s, step_s, tuple(f"m{k}" for k in range(len(metrics))), as_samples(values))
    first = int(row_of[: options.train_rows].max()) + 1
    window_s = options.window_s or max(3_600, 12 * step_s)
    if first * step_s < 4 * window_s or first < 120:
        least = max(120, -(-4 * window_s // step_s))
        raise NotEnoughHistory(
            f"--train-rows {options.train_rows} is too few to learn from: at least {least} are needed."
        )
    detector = _detector(frame, options, window_s, first)
    played = replay(
        detector, frame, float(frame.times_s[first]) if first < frame.n_times else float(frame.end_s + 1),
        adapt=options.adapt, throttled=False, progress=progress,
    )  # fmt: skip
    if played.n_trainings == 0:
        raise NotEnoughHistory(f"The first {options.train_rows} rows hold too few values to learn from.")
    return FileReplay(played, table, metrics, row_of, step_s, tuple(notes))


def write(result: FileReplay, options: FileOptions, out: Path) -> None:
    """Write the answers, exactly the rows after the training ones, in order: whole or not at all."""
    rows = result.row_of[options.train_rows :] - result.replay.first_row
    known = rows >= 0  # a row whose time lies inside the training part was never judged
    rows = np.maximum(rows, 0)
    scores = np.where(known, result.replay.scores[rows], np.nan)
    columns: dict[str, pa.Array] = {
        "timestamp": result.table.column("timestamp").slice(options.train_rows),
        "score": pa.array(scores, mask=~np.isfinite(scores)),
        "anomalous": pa.array(np.nan_to_num(scores) >= 1.0),
    }
    for column, name in enumerate(result.metrics):
        columns[f"contribution_{name}"] = pa.array(result.replay.contributions[rows, column].astype(np.float32))
    temporary = out.with_name(f".{out.name}.writing")
    try:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidFile(f"{out} cannot be written: {error.strerror or error}.") from error


def _read(path: Path) -> pa.Table:
    try:
        shape = pq.read_metadata(path)
        if shape.num_rows * shape.num_columns > _MOST_CELLS:
            raise InvalidFile(f"{path} holds {shape.num_rows} rows x {shape.num_columns} columns: split it.")
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidFile(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if "timestamp" not in table.column_names:
        raise InvalidFile(f"{path} has no column 'timestamp': it needs Unix seconds or an Arrow timestamp.")
    if table.num_rows < 2:
        raise InvalidFile(f"{path} has {table.num_rows} rows: there is nothing to judge.")
    return table


def _metrics(table: pa.Table, ignore: Sequence[str]) -> tuple[str, ...]:
    for name in ignore:
        if name not in table.column_names:
            raise InvalidFile(
                f"--ignore {name}: there is no such column; there are {', '.join(table.column_names[:12])}."
            )
    metrics = tuple(name for name in table.column_names if name not in _NEVER_METRICS and name not in ignore)
    for name in metrics:
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise InvalidFile(f"Column {name!r} is {kind} and no number: leave it out with --ignore {name}.")
    if not metrics:
        raise InvalidFile("No column is left to judge: a file needs one numeric column a metric.")
    return metrics


def _times(column: pa.ChunkedArray) -> tuple[Array, bool]:
    """Seconds of each row, and whether they merely count rows."""
    kind = column.type
    if column.null_count:
        raise InvalidFile("Column 'timestamp' has missing values: every row needs its time.")
    if pa.types.is_timestamp(kind):
        per_s = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        return column.cast(pa.int64()).to_numpy().astype(np.float64) / per_s, False
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidFile(f"Column 'timestamp' is {kind}: it needs Unix seconds or an Arrow timestamp.")
    times = column.to_numpy().astype(np.float64)
    return times, bool((times == np.arange(len(times))).all())


def _step(times_s: Array, *, counted: bool, notes: list[str]) -> int:
    if counted:
        notes.append("timestamp counts rows, and --step is not given: a row is taken as 1m.")
        return 60
    spacing = np.diff(times_s)
    positive = spacing[spacing > 0]
    step_s = round(float(np.median(positive))) if len(positive) else 0
    if step_s < 1:
        raise InvalidFile("The median spacing of 'timestamp' is below a second: give --step.")
    return step_s


def _grid(times_s: Array, step_s: int, *, counted: bool, notes: list[str]) -> NDArray[np.int64]:
    """The row of the grid for each row of the table: the nearest, or its own number where time does not run."""
    positions = np.arange(len(times_s))
    if counted:
        return np.asarray(positions)
    rows = np.round((times_s - times_s[0] // step_s * step_s) / step_s).astype(np.int64)
    if (np.diff(times_s) < 0).any() or rows[-1] > _GRID_FACTOR * len(rows):
        notes.append(f"timestamp runs backwards or has long holes: rows are taken {format_duration(step_s)} apart.")
        return np.asarray(positions)
    return np.asarray(rows)


def _detector(frame: Frame, options: FileOptions, window_s: int, first: int) -> AnomalyDetector:
    """The manifest that stands for a file: production defaults, but for what the file itself decides."""
    used_s = first * frame.step_s
    shown = {"name": "m0", "query": "m0"}
    base = AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": "file"},
            "spec": {"target_service": "file", "metrics": [shown], "algorithm": options.algorithm},
        }
    )
    metric = base.spec.metrics[0]
    training = base.spec.training.model_copy(
        # a tenth of the rows may be missing and the file is still what the user said to train on
        update={"window": max(_WINDOW_S, used_s), "warm_up": max(600, min(7 * 86_400, used_s // 2))}
    )
    spec = base.spec.model_copy(
        update={
            "metrics": tuple(metric.model_copy(update={"name": name, "query": name}) for name in frame.metrics),
            "step": frame.step_s,
            "interval": max(60, frame.step_s),
            "detection_window": window_s,
            "false_alarm_budget": options.budget,
            "training": training,
        }
    )
    return base.model_copy(update={"spec": spec})


def warn(notes: Sequence[str]) -> None:
    """Say on stderr what had to be assumed."""
    for note in notes:
        sys.stderr.write(f"foreshock: {note}\n")
