"""The labelled cases of a data folder: values, labels, training rows. Read where they lie, never copied."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench.quality.measure import Flags, Scores

LEAST_TRAIN_ROWS = 120  # of a case without a training part: a third of it, and never less than this
_NO_METRICS = ("timestamp", "is_anomaly")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder, and the cases of it that are reported together."""

    name: str
    folder: str
    prefix: str
    title: str
    same_clock: bool  # row i is the same instant in every case, so that events can be told apart across cases


DATASETS = (
    Dataset("d2", "jumpstarter", "d2_", "JumpStarter D2", same_clock=True),
    Dataset("d3", "jumpstarter", "d3_", "JumpStarter D3", same_clock=True),
    Dataset("asd", "asd", "", "Application Server Dataset", same_clock=False),
    Dataset("smd", "smd", "", "Server Machine Dataset", same_clock=False),
    Dataset("nab", "nab", "", "Numenta Anomaly Benchmark", same_clock=False),
    Dataset("microsoft", "microsoft_cloud_monitoring", "", "Microsoft Cloud Monitoring", same_clock=False),
)
NAMES = tuple(dataset.name for dataset in DATASETS)


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled table: where it lies and what its sidecar says."""

    dataset: str
    name: str
    path: Path
    step_s: int
    train_rows: int
    rows: int

    @property
    def values(self) -> Scores:
        """(rows, n_metrics) as float64, NaN where nothing was measured."""
        table = pq.read_table(self.path)
        columns = [table.column(name).to_numpy() for name in table.column_names if name not in _NO_METRICS]
        return np.column_stack([np.asarray(column, np.float64) for column in columns])

    @property
    def labels(self) -> Flags:
        """(rows - train_rows,) of the judged rows."""
        flags = pq.read_table(self.path, columns=["is_anomaly"]).column("is_anomaly").to_numpy()
        return np.asarray(flags[self.train_rows :] > 0)

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The segments of the sidecar, rows of the whole table, the end not included."""
        sidecar = json.loads(self.path.with_suffix(".json").read_text())
        return tuple((each["start"], each["end"]) for each in sidecar["segments"])


class NoData(Exception):
    """The data folder does not hold what was asked for."""


def find_cases(data: Path, datasets: Iterable[str], patterns: Iterable[str] = ("*",), every: int = 1) -> list[Case]:
    """Every case of the named datasets whose name matches one of the patterns, in the order of the manifests.

    Of each dataset only the first case of every `every`, counted before the patterns pick: a rule, not a choice.

    Raises:
        NoData: a folder is missing, or nothing matches.

    """
    wanted, patterns = set(datasets), tuple(patterns)
    if unknown := wanted - set(NAMES):
        raise NoData(f"--datasets {','.join(sorted(unknown))}: there is no such dataset; there are {', '.join(NAMES)}.")
    cases = [
        case
        for dataset in DATASETS
        if dataset.name in wanted
        for case in _cases(data, dataset)[::every]
        if any(fnmatch.fnmatch(case.name, pattern) for pattern in patterns)
    ]
    if not cases:
        raise NoData(f"--cases {','.join(patterns)}: no case of {', '.join(sorted(wanted))} has such a name.")
    return cases


def _cases(data: Path, dataset: Dataset) -> list[Case]:
    folder = data / dataset.folder
    if not (folder / "manifest.json").is_file():
        raise NoData(f"{folder} has no manifest.json: --data must be the folder that holds the datasets.")
    manifest = json.loads((folder / "manifest.json").read_text())
    return [
        Case(
            dataset=dataset.name,
            name=entry["case"],
            path=folder / entry["file"],
            step_s=int(entry.get("step_seconds", manifest.get("step_seconds", 60))),
            train_rows=_train_rows(entry),
            rows=int(entry["rows"]),
        )
        for entry in manifest["cases"]
        if entry["case"].startswith(dataset.prefix)
    ]


def _train_rows(entry: dict[str, object]) -> int:
    rows = int(str(entry["rows"]))
    given = entry.get("train_rows")
    if isinstance(given, list):
        return int(given[1])
    return min(rows - 1, max(LEAST_TRAIN_ROWS, rows // 3))
