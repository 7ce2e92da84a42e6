"""The folder of results: the scores of every run in a file of its own, and one table of what they amount to.

    OUT/scores/<dataset>/<case>/<detector>.<mode>.<budget>.parquet    score, anomalous, throttled; figures as metadata
    OUT/results.parquet                                               a row a case x detector x mode x budget
    OUT/nab.parquet                                                   a row a detector x mode
    OUT/report.html

A score file whose digest is today's isn't computed again; the report can be made from the files alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.quality.detector import Answer, Budget, Mode, Throttled
from bench.quality.measure import Flags, Scores


@dataclass(frozen=True, slots=True)
class Key:
    """Which run."""

    dataset: str
    case: str
    detector: str
    mode: Mode
    budget: str

    def path(self, out: Path) -> Path:
        name = f"{self.detector.replace(':', '-')}.{self.mode}.{self.budget.replace('/', '-')}.parquet"
        return out / "scores" / self.dataset / self.case / name


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a detector said of a case, or why it said nothing."""

    digest: str
    seconds: float
    answer: Answer
    refusal: str = ""

    @property
    def scores(self) -> Scores:
        return self.answer.scores

    @property
    def anomalous(self) -> Flags:
        return flags_of(self.answer.scores)


def flags_of(scores: Scores) -> Flags:
    """Anomalous at 1.0, not where nothing can be said."""
    return np.asarray(np.nan_to_num(scores) >= 1.0)


def digest_of(files: Iterable[Path], *words: str) -> str:
    """Twelve hex digits of the contents of some files and of some words."""
    total = hashlib.sha256()
    for path in files:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for word in words:
        total.update(hashlib.sha256(word.encode()).digest())
    return total.hexdigest()[:12]


def save(out: Path, key: Key, run: Run, row: dict[str, object]) -> None:
    """Write a run with what it amounts to, whole or not at all."""
    columns = {"score": pa.array(run.scores, pa.float64(), from_pandas=True), "anomalous": run.anomalous}
    metadata = {"digest": run.digest, "seconds": repr(run.seconds), "refusal": run.refusal, "row": json.dumps(row)}
    if (throttled := run.answer.throttled) is not None:
        columns["throttled"] = pa.array(throttled.scores, pa.float64(), from_pandas=True)
        metadata |= {"asked": str(throttled.asked), "let_through": str(throttled.let_through)}
    table = pa.table(columns)
    _write(table.replace_schema_metadata(metadata), key.path(out))


def load(out: Path, key: Key) -> Run | None:
    """A run that was saved, or None."""
    path = key.path(out)
    if not path.is_file():
        return None
    table = pq.read_table(path)
    said = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    scores = {
        name: table.column(name).to_numpy().astype(np.float64) for name in table.column_names if name != "anomalous"
    }
    throttled = None
    if "throttled" in scores:
        throttled = Throttled(scores["throttled"], int(said["asked"]), int(said["let_through"]))
    return Run(said["digest"], float(said["seconds"]), Answer(scores["score"], throttled), said["refusal"])


def digest_in(out: Path, key: Key) -> str | None:
    """The digest of the code that a saved run came from; reads no row."""
    return _metadata(out, key).get(b"digest", b"").decode() or None


def row_in(out: Path, key: Key) -> dict[str, Any]:
    """What a saved run amounts to; empty where nothing is saved."""
    said: dict[str, Any] = json.loads(_metadata(out, key).get(b"row", b"{}"))
    return said


def _metadata(out: Path, key: Key) -> dict[bytes, bytes]:
    path = key.path(out)
    return dict(pq.read_schema(path).metadata or {}) if path.is_file() else {}


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as a table, whole or not at all."""
    names = dict.fromkeys(name for row in rows for name in row)  # a refusal has fewer figures than a run
    _write(pa.table({name: [row.get(name) for row in rows] for name in names}), path)


def read_table(path: Path) -> list[dict[str, object]]:
    """The rows of a table, none where there is no file yet."""
    return pq.read_table(path).to_pylist() if path.is_file() else []


def missing(out: Path, key: Key, budgets: Iterable[Budget], digest: str) -> list[Budget]:
    """The budgets for which this run has not been made with this code."""
    return [
        budget
        for budget in budgets
        if digest_in(out, Key(key.dataset, key.case, key.detector, key.mode, budget.text)) != digest
    ]


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
