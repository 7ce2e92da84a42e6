"""Backtests a Parquet file: its rows onto a grid, the production lifecycle over them, one answer a row.

Four steps, a function each: `read_samples` (bounded), `lay_out` (rows to grid), `judge` (the engine), `write_answers`
(atomic). Nothing is used before its time: the answer to a row rests on rows at or before it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
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
from foreshock.manifests.detector import Algorithm, AnomalyDetector, DetectorSpec, Metadata, Metric, Training
from foreshock.manifests.fields import Budget

TIMESTAMP, LABEL = "timestamp", "is_anomaly"
MOST_METRICS = 1_000
MOST_VALUES = 50_000_000  # 400 MB of float64: one file cannot take the machine
DEFAULT_STEP_S = 60  # of a plain index, which counts steps and does not say how long they are
WINDOW_S, WINDOW_STEPS = 3_600, 12
TRAINING_WINDOW_S = 28 * 86_400
LEAST_INTERVAL_S = 60
LEAST_ROWS = 120  # as `lifecycle.train` asks for, beside four windows
_MOST_STEP_S = 86_400
_MOST_SPREAD = 4  # a grid with more rows than this a row of the file is no grid
_LATEST_S = 253_402_300_800  # the year 10000: what lies beyond it counts milliseconds or less
_PANDAS_INDEX = "__index_level_"
_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line decides; None stands for what the file suggests."""

    train_rows: int
    step_s: int | None = None
    window_s: int | None = None
    algorithm: Algorithm = "ensemble"
    budget: Budget = Budget(1, 7 * 86_400)
    ignore: tuple[str, ...] = ()
    adapt: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A file's rows as they lie in it: `values` (n_rows, n_metrics), `times_s` (n_rows,) or None for a plain index."""

    timestamp: pa.ChunkedArray
    times_s: Array | None
    metrics: tuple[str, ...]
    values: Array
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The samples on a grid: row i of the file lies at grid row `place[i]`, and what is said of it is said there.

    Where several rows fall on one place the last value stays; the rows before it are answered at the place before,
    since what stays there came after them.
    """

    frame: Frame
    place: NDArray[np.int64]  # (n_rows,)
    answered_at: NDArray[np.int64]  # (n_rows,)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One answer for each row behind the training rows, in their order."""

    timestamp: pa.ChunkedArray
    metrics: tuple[str, ...]
    scores: Array  # (n,) NaN where inconclusive
    contributions: NDArray[np.float32]  # (n, n_metrics), rows adding up to 1
    n_incidents: int
    n_trainings: int
    step_s: int
    window_s: int

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        return np.nan_to_num(self.scores) >= 1.0


def read_samples(path: Path, ignore: Sequence[str] = ()) -> Samples:
    """Read `timestamp` and every metric of a Parquet file; `is_anomaly` and the ignored columns are not even read.

    Raises:
        InvalidFile: it is no Parquet, too large, or its columns are not what is needed; the sentence names the column.
    """
    try:
        with pq.ParquetFile(path) as file:
            names, skipped = _metric_columns(path, file, ignore)
            table = file.read(columns=[TIMESTAMP, *names])
    except (pa.ArrowException, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is damaged or no Parquet file"
        raise InvalidFile(f"{path} cannot be read: {why}.") from error
    values = np.empty((table.num_rows, len(names)))
    for column, name in enumerate(names):
        values[:, column] = _numbers(path, name, table.column(name))
    timestamp = table.column(TIMESTAMP)
    notes = [f"{path}: the column {name} is pandas' index and no metric." for name in skipped]
    return Samples(timestamp, _times_s(path, timestamp), tuple(names), as_samples(values), tuple(notes))


def lay_out(samples: Samples, step_s: int | None) -> Layout:
    """Put each row on the nearest row of a grid that begins with the first; by position where the times are no times.

    `step_s` defaults to the median spacing, and to one minute for a plain index.

    Raises:
        InvalidFile: the step is not within 1s to 1d.
    """
    notes, times_s = list[str](), samples.times_s
    if times_s is None:
        if step_s is None:
            step_s = DEFAULT_STEP_S
            notes.append(f"The timestamps are a plain index; each row counts as a step of {format_duration(step_s)}.")
        return Layout(*_placed(samples, np.arange(samples.n_rows), 0, step_s), tuple(notes))
    spacing = np.diff(times_s)
    if step_s is None:
        forward = spacing[spacing > 0]
        step_s = max(1, round(float(np.median(forward)))) if len(forward) else DEFAULT_STEP_S
    if step_s > _MOST_STEP_S:
        raise InvalidFile(f"The rows lie {format_duration(step_s)} apart; write --step, at most 1d.")
    place = np.floor((times_s - times_s[0]) / step_s + 0.5).astype(np.int64)
    if (spacing < 0).any():
        notes.append("Time runs backwards in the file; its rows are counted instead, one step each.")
    elif place[-1] >= _MOST_SPREAD * samples.n_rows:
        notes.append(
            f"At a step of {format_duration(step_s)} most of the time would be missing; the rows are counted instead, "
            "one step each."
        )
    else:
        return Layout(*_placed(samples, place, round(float(times_s[0])), step_s), tuple(notes))
    return Layout(*_placed(samples, np.arange(samples.n_rows), round(float(times_s[0])), step_s), tuple(notes))


def judge(
    samples: Samples, layout: Layout, choices: Choices, *, progress: Callable[[float], None] = lambda _: None
) -> Answers:
    """Train on the first rows, then live on over the others as production does.

    Raises:
        InvalidFile: nothing is left to judge.
        NotEnoughHistory: the training rows are too few for any model; the sentence says how many are needed.
    """
    n_train, frame = choices.train_rows, layout.frame
    if n_train >= samples.n_rows:
        raise InvalidFile(
            f"--train-rows {n_train} leaves nothing to judge of {samples.n_rows} rows; write a smaller number."
        )
    manifest = _manifest(samples, layout, choices)
    _refuse_too_few(layout, n_train, manifest.spec)
    first = int(layout.place[n_train])
    train_until_s = frame.start_s + first * frame.step_s
    played = replay(manifest, frame, train_until_s, adapt=choices.adapt, throttled=False, progress=progress)
    rows = layout.answered_at[n_train:] - first
    scores = np.where(rows >= 0, played.scores[np.maximum(rows, 0)], np.nan)
    return Answers(
        timestamp=samples.timestamp.slice(n_train),
        metrics=samples.metrics,
        scores=scores,
        contributions=_shares(played, rows),
        n_incidents=len(played.alerts),
        n_trainings=played.n_trainings,
        step_s=frame.step_s,
        window_s=manifest.spec.detection_window,
    )


def write_answers(answers: Answers, path: Path) -> None:
    """Write `timestamp, score, anomalous, contribution_<metric>`, whole or not at all.

    Raises:
        InvalidFile: the folder is missing or cannot be written.
    """
    unknown = np.isnan(answers.scores)
    columns = {
        TIMESTAMP: answers.timestamp,
        "score": pa.array(answers.scores, pa.float64(), mask=unknown),
        "anomalous": pa.array(answers.anomalous, pa.bool_()),
    }
    for column, name in enumerate(answers.metrics):
        columns[f"contribution_{name}"] = pa.array(answers.contributions[:, column], pa.float32())
    try:
        _write_atomically(pa.table(columns), path)
    except OSError as error:
        raise InvalidFile(f"{path} cannot be written: {error.strerror or error}.") from error


# --- reading --------------------------------------------------------------------------------------------------------


def _metric_columns(path: Path, file: pq.ParquetFile, ignore: Sequence[str]) -> tuple[list[str], list[str]]:
    """The metrics among the columns, and what is skipped as the index that pandas adds; from the file's head alone."""
    schema, n_rows = file.schema_arrow, file.metadata.num_rows
    names: list[str] = schema.names
    if TIMESTAMP not in names:
        raise InvalidFile(f"{path} has no column {TIMESTAMP}; it holds Unix seconds or Arrow timestamps.")
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidFile(f"{path} has two columns named {twice!r}; rename one.")
    unknown = next((name for name in ignore if name not in names), None)
    if unknown is not None:
        raise InvalidFile(f"{path} has no column {unknown!r} that --ignore names; it has {_listed(names)}.")
    never = {TIMESTAMP, LABEL, *ignore}
    skipped = [name for name in names if name.startswith(_PANDAS_INDEX) and name not in never]
    metrics = [name for name in names if name not in never and name not in skipped]
    if not metrics:
        raise InvalidFile(f"{path} has no metric beside {TIMESTAMP}; write one numeric column per metric.")
    if len(metrics) > MOST_METRICS:
        raise InvalidFile(f"{path} has {len(metrics)} metrics, more than {MOST_METRICS}; leave some out by --ignore.")
    if n_rows * len(metrics) > MOST_VALUES:
        raise InvalidFile(
            f"{path} has {n_rows} rows of {len(metrics)} metrics, more than {MOST_VALUES} values; split it."
        )
    for name in metrics:
        _refuse_text(path, name, schema.field(name).type)
    return metrics, skipped


def _refuse_text(path: Path, name: str, kind: pa.DataType) -> None:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if not any(check(kind) for check in checks):
        raise InvalidFile(f"{path}: the column {name!r} is {kind} and no number; leave it out by --ignore {name}.")


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> Array:
    """A column as float64, null as NaN."""
    try:
        column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise InvalidFile(f"{path}: the column {name!r} cannot be read as numbers; --ignore {name}.") from error


def _times_s(path: Path, column: pa.ChunkedArray) -> Array | None:
    """UTC seconds of each row, or None for the plain index 0..n-1.

    Raises:
        InvalidFile: they are no instants, some are missing, or they are not in seconds.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        times_s = _numbers(path, TIMESTAMP, column.cast(pa.int64())) / _PER_S[kind.unit]
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        times_s = _numbers(path, TIMESTAMP, column)
    else:
        raise InvalidFile(f"{path}: {TIMESTAMP} is {kind}; write Unix seconds or Arrow timestamps.")
    wrong = np.flatnonzero(~np.isfinite(times_s))
    if len(wrong):
        raise InvalidFile(f"{path}: {TIMESTAMP} is missing in row {wrong[0]}; leave out rows without an instant.")
    if len(times_s) and np.abs(times_s).max() >= _LATEST_S:
        raise InvalidFile(f"{path}: {TIMESTAMP} is not in Unix seconds; divide it, or write Arrow timestamps.")
    if not pa.types.is_timestamp(kind) and (times_s == np.arange(len(times_s))).all():
        return None
    return times_s


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


# --- the grid -------------------------------------------------------------------------------------------------------


def _placed(
    samples: Samples, place: NDArray[np.int64], start_s: int, step_s: int
) -> tuple[Frame, NDArray[np.int64], NDArray[np.int64]]:
    """The frame with each row at its place, the places, and where each row is answered."""
    n_times = int(place[-1]) + 1 if len(place) else 0
    values = np.full((n_times, len(samples.metrics)), np.nan)
    is_last = np.append(place[1:] != place[:-1], True)[: len(place)]
    values[place[is_last]] = samples.values[is_last]
    return Frame(start_s, step_s, samples.metrics, values), place, place - ~is_last


# --- the engine -----------------------------------------------------------------------------------------------------


def _manifest(samples: Samples, layout: Layout, choices: Choices) -> AnomalyDetector:
    """The detector that the choices stand for.

    Not validated: names of columns are no names of metrics in a manifest, there may be more of them, and a file may be
    coarser than Prometheus is. What a user chose was checked where it was read.
    """
    step_s = layout.frame.step_s
    window_s = choices.window_s or max(WINDOW_S, WINDOW_STEPS * step_s)
    if window_s < 2 * step_s:
        raise InvalidFile(
            f"A --window of {format_duration(window_s)} holds fewer than two steps of {format_duration(step_s)}; "
            "write a longer one."
        )
    if choices.algorithm == "correlation" and len(samples.metrics) < 2:
        raise InvalidFile("--algorithm correlation needs two metrics at least; choose another algorithm.")
    spec = DetectorSpec.model_construct(
        target_service="file",
        metrics=tuple(Metric.model_construct(name=name, query=name) for name in samples.metrics),
        algorithm=choices.algorithm,
        detection_window=window_s,
        interval=max(step_s, LEAST_INTERVAL_S),
        step=step_s,
        false_alarm_budget=choices.budget,
        training=Training.model_construct(
            window=max(TRAINING_WINDOW_S, int(layout.place[choices.train_rows]) * step_s),
            warm_up=step_s,  # whatever the training rows hold is enough, or is refused before
        ),
    )
    return AnomalyDetector.model_construct(metadata=Metadata.model_construct(name="file"), spec=spec)


def _refuse_too_few(layout: Layout, n_train: int, spec: DetectorSpec) -> None:
    """Say how many rows would do, counted on this file: places with a value before row N."""
    least = max(4 * spec.detection_window // spec.step, LEAST_ROWS)
    seen = np.isfinite(layout.frame.values).any(axis=1)
    before = np.concatenate([[0], np.cumsum(seen)])[layout.place]  # for each row, the measured places before it
    if before[n_train] >= least:
        return
    enough = np.flatnonzero(before >= least)
    ask = f"write --train-rows {enough[0]} or more" if len(enough) else "the file is too short for one"
    raise NotEnoughHistory(
        f"--train-rows {n_train} gives {before[n_train]} measured steps and a model needs {least} (120, and four "
        f"windows of {format_duration(spec.detection_window)}): {ask}, or choose a shorter --window."
    )


def _shares(played: Replay, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Contributions whose rows add up to 1; equal ones where nobody is to blame."""
    shares = np.nan_to_num(played.contributions[np.maximum(rows, 0)], posinf=0.0)
    total = shares.sum(axis=1, keepdims=True)
    equal = 1.0 / shares.shape[1]
    return np.where(total > 0.0, shares / np.where(total > 0.0, total, 1.0), equal).astype(np.float32)


# --- writing --------------------------------------------------------------------------------------------------------


def _write_atomically(table: pa.Table, path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp's files are for their owner alone
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
