"""`foreshock backtest FILE.parquet`: the same engine on a table with a `timestamp` and one column a metric.

Nothing is used before its time: the answer to a row rests on rows at or before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshock.core.durations import format_duration
from foreshock.core.errors import InvalidFile, NotEnoughHistory
from foreshock.core.frame import Array, Frame, as_samples
from foreshock.lifecycle.replay import Replay, Stretch, relive
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.fields import Budget

MOST_METRICS = 1_000
_MOST_CELLS = 50_000_000  # 400 MB of float64: one file cannot take the machine
_NEVER_METRICS = ("timestamp", "is_anomaly")
_PANDAS_INDEX = "__index_level_"  # a column that pandas adds by itself
_WINDOW_S = 28 * 86_400
_COUNTED_STEP_S = 60
_MOST_STEP_S = 86_400
_GRID_FACTOR = 4  # a grid that much longer than the table is mostly holes: then rows are counted instead
_IN_PHASE = 0.5  # resultant length of the times' phases below which they keep to no grid
_LEAST_STEPS, _LEAST_WINDOWS = 120, 4  # as `lifecycle.train` asks for
_LATEST_S = 253_402_300_800  # the year 10000: what lies beyond counts milliseconds or less
_CLUSTER = "default"
_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the command line says; None is "find out"."""

    train_rows: int
    step_s: int | None = None
    window_s: int | None = None
    algorithm: str = "ensemble"
    budget: Budget = Budget(1, 7 * 86_400)  # noqa: RUF009 - a frozen value
    ignore: tuple[str, ...] = ()
    adapt: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class FileReplay:
    """A replay and the rows of the table that it answers."""

    lived: Stretch
    replay: Replay
    timestamp: pa.ChunkedArray  # as it lies in the file
    metrics: tuple[str, ...]  # the columns' own names
    row_of: NDArray[np.int64]  # (n_rows,) row of the frame at which each row of the table is answered
    train_rows: int
    step_s: int
    window_s: int
    notes: tuple[str, ...]

    @property
    def scores(self) -> Array:
        """(n_rows - train_rows,) NaN where inconclusive: a row that shares its place with training rows is."""
        rows = self._answered
        return np.where(rows >= 0, self.replay.scores[np.maximum(rows, 0)], np.nan)

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        return np.nan_to_num(self.scores) >= 1.0

    @property
    def contributions(self) -> NDArray[np.float32]:
        """(n_rows - train_rows, n_metrics), rows adding up to 1: equal shares where nobody is to blame."""
        shares = np.nan_to_num(self.replay.contributions[np.maximum(self._answered, 0)], posinf=0.0)
        total = shares.sum(axis=1, keepdims=True)
        blamed = total > 0.0
        return np.where(blamed, shares / np.where(blamed, total, 1.0), 1.0 / len(self.metrics)).astype(np.float32)

    def throttled(self) -> FileReplay:
        """The same life with the throttle on: windows that the cheap check lets pass are not judged in full."""
        return replace(self, replay=self.lived.alerts(cluster=_CLUSTER, throttled=True))

    @property
    def _answered(self) -> NDArray[np.int64]:
        return np.asarray(self.row_of[self.train_rows :] - self.replay.first_row)


def replay_file(path: Path, options: FileOptions, progress: Callable[[float], None] = lambda _: None) -> FileReplay:
    """Train on the first rows of a file and judge the rest; nothing is used before its time.

    Raises:
        InvalidFile: it is no Parquet, lacks `timestamp`, or a column is no metric.
        NotEnoughHistory: too few rows to train on.

    """
    table, metrics = _read(path, options.ignore)
    if not 0 < options.train_rows < table.num_rows:
        raise InvalidFile(
            f"--train-rows must lie between 1 and {table.num_rows - 1}, the rows of {path.name} less one."
        )
    if options.algorithm == "correlation" and len(metrics) < 2:
        raise InvalidFile("--algorithm correlation watches the relations of two metrics or more: choose another one.")
    times_s, counted = _times(table.column("timestamp"))
    notes: list[str] = []
    step_s = options.step_s or _step(times_s, counted=counted, notes=notes)
    origin_s = float(times_s[0]) + _phase_s(times_s[: options.train_rows], step_s)
    place = _grid(times_s - origin_s, step_s, counted=counted, notes=notes)
    values = np.full((int(place[-1]) + 1, len(metrics)), np.nan)
    is_last = np.append(place[1:] != place[:-1], True)  # of the rows at one place the last one's values stay
    for column, name in enumerate(metrics):
        values[place[is_last], column] = _numbers(table.column(name), name)[is_last]
    frame = Frame(round(origin_s), step_s, tuple(f"m{k}" for k in range(len(metrics))), as_samples(values))
    window_s = options.window_s or max(3_600, 12 * step_s)
    notes += _refuse_too_few(frame, place, options, window_s)
    first = int(place[options.train_rows])
    detector = _detector(frame, options, window_s, first)
    lived = relive(detector, frame, frame.start_s + first * step_s, adapt=options.adapt, progress=progress)
    played = lived.alerts(cluster=_CLUSTER, throttled=False)
    # Where a later row's values stay, the rows before it are answered at the place before: they came earlier
    return FileReplay(
        lived, played, table.column("timestamp"), metrics, place - ~is_last, options.train_rows, step_s, window_s,
        tuple(notes),
    )  # fmt: skip


def write(result: FileReplay, out: Path) -> None:
    """Write the answers, exactly the rows after the training ones, in order: whole or not at all.

    Raises:
        InvalidFile: the folder is missing or cannot be written.

    """
    scores, contributions = result.scores, result.contributions
    columns: dict[str, pa.Array] = {
        "timestamp": result.timestamp.slice(result.train_rows),
        "score": pa.array(scores, pa.float64(), mask=np.isnan(scores)),
        "anomalous": pa.array(result.anomalous),
    }
    for column, name in enumerate(result.metrics):
        columns[f"contribution_{name}"] = pa.array(contributions[:, column])
    temporary = out.with_name(f".{out.name}.writing")
    try:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidFile(f"{out} cannot be written: {error.strerror or error}.") from error


# --- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path, ignore: Sequence[str]) -> tuple[pa.Table, tuple[str, ...]]:
    """The timestamps and the metrics; what is no metric is not even read."""
    try:
        with pq.ParquetFile(path) as file:
            metrics = _metrics(path, file, ignore)
            return file.read(columns=["timestamp", *metrics]), metrics
    except (OSError, pa.ArrowException) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise InvalidFile(f"{path} cannot be read: {why or 'it is damaged, or no Parquet file'}.") from error


def _metrics(path: Path, file: pq.ParquetFile, ignore: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = file.schema_arrow.names
    if "timestamp" not in names:
        raise InvalidFile(f"{path} has no column 'timestamp': it needs Unix seconds or an Arrow timestamp.")
    if file.metadata.num_rows < 2:
        raise InvalidFile(f"{path} has {file.metadata.num_rows} rows: there is nothing to judge.")
    for name in ignore:
        if name not in names:
            raise InvalidFile(f"--ignore {name}: there is no such column; there are {', '.join(names[:12])}.")
    metrics = tuple(
        name for name in names if name not in {*_NEVER_METRICS, *ignore} and not name.startswith(_PANDAS_INDEX)
    )
    if not metrics:
        raise InvalidFile("No column is left to judge: a file needs one numeric column a metric.")
    if len(set(names)) < len(names):
        raise InvalidFile(f"{path} has two columns of one name: rename one.")
    if len(metrics) > MOST_METRICS:
        raise InvalidFile(f"{path} has {len(metrics)} metrics, more than {MOST_METRICS}: leave some out by --ignore.")
    if file.metadata.num_rows * len(metrics) > _MOST_CELLS:
        raise InvalidFile(f"{path} holds {file.metadata.num_rows} rows of {len(metrics)} metrics: split it.")
    for name in metrics:
        kind = file.schema_arrow.field(name).type
        if not _is_number(kind):
            raise InvalidFile(f"Column {name!r} is {kind} and no number: leave it out with --ignore {name}.")
    return metrics


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return any(check(kind) for check in checks)


def _numbers(column: pa.ChunkedArray, name: str) -> Array:
    """A column as float64, NaN for null."""
    try:
        column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise InvalidFile(f"Column {name!r} cannot be read as numbers: leave it out with --ignore {name}.") from error


def _times(column: pa.ChunkedArray) -> tuple[Array, bool]:
    """Seconds of each row, and whether they merely count rows."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        times = _numbers(column.cast(pa.int64()), "timestamp") / _PER_S[kind.unit]
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        times = _numbers(column, "timestamp")
    else:
        raise InvalidFile(f"Column 'timestamp' is {kind}: it needs Unix seconds or an Arrow timestamp.")
    if not np.isfinite(times).all():
        raise InvalidFile("Column 'timestamp' has missing values: every row needs its time.")
    if np.abs(times).max() >= _LATEST_S:
        raise InvalidFile("Column 'timestamp' is not in Unix seconds: divide it, or write Arrow timestamps.")
    return times, not pa.types.is_timestamp(kind) and bool((times == np.arange(len(times))).all())


# --- the grid -------------------------------------------------------------------------------------------------------


def _step(times_s: Array, *, counted: bool, notes: list[str]) -> int:
    if counted:
        notes.append("timestamp counts rows, and --step is not given: a row is taken as 1m.")
        return _COUNTED_STEP_S
    spacing = np.diff(times_s)
    positive = spacing[spacing > 0]
    step_s = round(float(np.median(positive))) if len(positive) else 0
    if not 1 <= step_s <= _MOST_STEP_S:
        raise InvalidFile("The median spacing of 'timestamp' is not within 1s to 1d: give --step.")
    return step_s


def _phase_s(times_s: Array, step_s: int) -> float:
    """Where the grid lies that these times scatter about, from the first of them: their circular mean."""
    mean = np.exp(2j * np.pi * (times_s - times_s[0]) / step_s).mean()
    if abs(mean) < _IN_PHASE:
        return 0.0
    phase_s = float(np.angle(mean)) / (2 * np.pi) * step_s
    return phase_s if abs(phase_s) > 1e-6 * step_s else 0.0


def _grid(since_s: Array, step_s: int, *, counted: bool, notes: list[str]) -> NDArray[np.int64]:
    """The row of the grid for each row of the table: the nearest, or its own number where time does not run.

    `since_s` (n_rows,) counts from the grid's first row.
    """
    in_order = np.arange(len(since_s))
    if counted:
        return in_order
    if (np.diff(since_s) < 0).any():
        notes.append(f"timestamp runs backwards: rows are taken {format_duration(step_s)} apart.")
        return in_order
    place = np.maximum(0, np.floor(since_s / step_s + 0.5).astype(np.int64))
    if place[-1] >= _GRID_FACTOR * len(place):
        notes.append(f"timestamp has long holes: rows are taken {format_duration(step_s)} apart.")
        return in_order
    return np.asarray(place)


# --- the detector ---------------------------------------------------------------------------------------------------


def _refuse_too_few(frame: Frame, place: NDArray[np.int64], options: FileOptions, window_s: int) -> list[str]:
    """Say how many rows would do, counted in this file: steps with any value before row N.

    Enough rows of which some were not measured are no mistake: judging begins later, and that is said.
    """
    step_s = frame.step_s
    if window_s < 2 * step_s:
        raise InvalidFile(
            f"A --window of {format_duration(window_s)} holds fewer than two steps of {format_duration(step_s)}: "
            "write a longer one."
        )
    least = max(_LEAST_STEPS, -(-_LEAST_WINDOWS * window_s // step_s))
    measured = np.isfinite(frame.values).any(axis=1)
    before = np.concatenate([[0], np.cumsum(measured)])[place]  # of each row: the measured steps before it
    if before[options.train_rows] >= least:
        return []
    enough = np.flatnonzero(before >= least)
    if options.train_rows >= least and len(enough):
        measured_rows = before[options.train_rows]
        said = f"{measured_rows} of the {options.train_rows} training rows were measured and {least} are needed"
        return [f"{said}: judging begins after row {enough[0]}."]
    advice = f"write --train-rows {enough[0]} or more" if len(enough) else "the file is too short for that"
    advice += ", or shorten --window" if least > _LEAST_STEPS else ""
    raise NotEnoughHistory(
        f"--train-rows {options.train_rows} is too few to learn from: they hold {before[options.train_rows]} measured "
        f"steps and at least {least} are needed ({_LEAST_STEPS}, and {_LEAST_WINDOWS} windows of "
        f"{format_duration(window_s)}): {advice}."
    )


def _detector(frame: Frame, options: FileOptions, window_s: int, first: int) -> AnomalyDetector:
    """The manifest that stands for a file: production defaults, but for what the file itself decides.

    The copies are not validated: a file may have more metrics, and be coarser, than a manifest may ask Prometheus for.
    """
    shown = [{"name": f"m{k}", "query": f"m{k}"} for k in range(min(2, len(frame.metrics)))]
    base = AnomalyDetector.model_validate(
        {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": "file"},
            "spec": {"target_service": "file", "metrics": shown},
        }
    )
    metric = base.spec.metrics[0]
    training = base.spec.training.model_copy(
        # whether there is enough was counted in rows; of the warm-up nothing more is asked
        update={"window": max(_WINDOW_S, first * frame.step_s), "warm_up": frame.step_s}
    )
    spec = base.spec.model_copy(
        update={
            "algorithm": options.algorithm,  # `together` too, which no manifest may ask for alone
            "metrics": tuple(metric.model_copy(update={"name": name, "query": name}) for name in frame.metrics),
            "step": frame.step_s,
            "interval": max(60, frame.step_s),
            "detection_window": window_s,
            "false_alarm_budget": options.budget,
            "training": training,
        }
    )
    spec.__dict__.pop("named_metrics", None)  # cached of the original
    return base.model_copy(update={"spec": spec})


def warn(notes: Sequence[str]) -> None:
    """Say on stderr what had to be assumed."""
    for note in notes:
        sys.stderr.write(f"foreshock: {note}\n")
