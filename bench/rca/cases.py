"""Labelled incidents with their causes: a history to learn from, rows to judge, and who was to blame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

NAMES = ("smd", "petshop", "nezha")
_NO_METRICS = ("timestamp", "is_anomaly")


@dataclass(frozen=True, slots=True)
class Incident:
    """Rows of the judged part, the end not included, and the names that count as right."""

    start: int
    end: int
    causes: frozenset[str]
    kind: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """`history` teaches, `judged` follows it at once; `units` (n_metrics,) is who each column belongs to, "" nobody."""

    dataset: str
    name: str
    step_s: int
    columns: tuple[str, ...]
    units: tuple[str, ...]
    history: NDArray[np.float64]
    judged: NDArray[np.float64]
    incidents: tuple[Incident, ...]
    calls: tuple[tuple[str, str], ...] = ()


def find(folder: Path, dataset: str) -> Iterator[Case]:
    """The cases of one dataset, in the order of their names."""
    return {"smd": _smd, "petshop": _petshop, "nezha": _nezha}[dataset](folder / dataset)


def _table(path: Path) -> dict[str, NDArray[np.float64]]:
    table = pq.read_table(path)
    return {
        name: np.asarray(table.column(name).to_numpy(), np.float64)
        for name in table.column_names
        if name not in _NO_METRICS
    }


def _columns(table: dict[str, NDArray[np.float64]], names: tuple[str, ...]) -> NDArray[np.float64]:
    n = len(next(iter(table.values())))
    return np.column_stack([table.get(name, np.full(n, np.nan)) for name in names])


def _smd(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*.parquet")):
        said, table = json.loads(path.with_suffix(".json").read_text()), _table(path)
        names, first = tuple(table), said["train"]["end"]
        values = _columns(table, names)
        incidents = tuple(
            Incident(each["start"] - first, each["end"] - first, frozenset(each["root_causes"]))
            for each in said["segments"]
            if each["root_causes"]
        )
        yield Case("smd", path.stem, 60, names, names, values[:first], values[first:], incidents)


def _petshop(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*issue_*.parquet")):
        said, table = json.loads(path.with_suffix(".json").read_text()), _table(path)
        if said["train_case"] is None:  # the source's normal data could not be had
            continue
        learnt = _table(folder / f"{said['train_case']}.parquet")
        # of the five latencies of each node the mean: with all percentiles there are more columns than a forest takes
        usable = (name for name, column in learnt.items() if np.isfinite(column).any())
        names = tuple(name for name in usable if name.endswith(("Average", "Sum")))
        graph = json.loads((folder / f"graph_{said['family']}.json").read_text())
        incidents = tuple(
            Incident(each["start"], each["end"], frozenset(each["root_causes"]), said["target"]["metric"])
            for each in said["segments"]
        )
        units = tuple(name.split("|")[0] for name in names)
        calls = tuple((caller, callee) for caller, callee in graph["edges"])
        history, judged = _columns(learnt, names), _columns(table, names)
        yield Case("petshop", path.stem, 300, names, units, history, judged, incidents, calls)


def _nezha(folder: Path) -> Iterator[Case]:
    """The clean rows lie after the faults: they come first here, as the day before would."""
    for path in sorted(folder.glob("*.parquet")):
        said, table = json.loads(path.with_suffix(".json").read_text()), _table(path)
        names, (start, end) = tuple(table), (said["train"]["start"], said["train"]["end"])
        values = _columns(table, names)
        units = tuple("" if "edge" in name or name.startswith("front|") else name.split("|")[0] for name in names)
        incidents = tuple(
            Incident(each["start"], each["end"], frozenset(each["root_causes"]), each["fault_type"])
            for each in said["segments"]
        )
        calls = tuple((caller, callee) for caller, callee in said.get("edges", ()))
        yield Case("nezha", path.stem, 60, names, units, values[start:end], values[:start], incidents, calls)
