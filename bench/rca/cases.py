"""Labelled incidents with their causes: a history to learn from, rows to judge, and who was to blame."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshock.detectors.rules import Rules

NAMES = ("smd", "petshop", "nezha")
_NO_METRICS = ("timestamp", "is_anomaly")
_LOADS, _BAD_WHEN_LOW, _BAD_WHEN_HIGH = ("request", "workload"), ("availab", "success"), ("latency", "usage")


@dataclass(frozen=True, slots=True)
class Incident:
    """Rows of the judged part, the end not included, and the names that count as right."""

    start: int
    end: int
    causes: frozenset[str]
    kind: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """`history` teaches, `judged` follows it at once; `units` (n_metrics,) is who each column belongs to, "" nobody.

    `guess` are all units in the best fixed order that somebody could know; `is_fleet` is whether each has a detector of
    its own; `joint` are the columns that one detector for everything would take, none where there are too many.
    """

    dataset: str
    name: str
    step_s: int
    columns: tuple[str, ...]
    units: tuple[str, ...]
    history: NDArray[np.float64]
    judged: NDArray[np.float64]
    incidents: tuple[Incident, ...]
    guess: tuple[str, ...]
    calls: tuple[tuple[str, str], ...] = ()
    is_fleet: bool = True
    joint: tuple[int, ...] = ()


def rules_of(columns: Sequence[str]) -> Rules:
    """What a user would have written of these metrics: which is a load, and on which side the others are bad."""
    names = [column.lower() for column in columns]
    loads = np.array([any(word in name for word in _LOADS) for name in names])
    low = np.array([any(word in name for word in _BAD_WHEN_LOW) for name in names])
    high = np.array([any(word in name for word in _BAD_WHEN_HIGH) for name in names])
    free = Rules.none(len(columns))
    # a service that is nothing but its requests has nothing that could be judged given them
    is_load = np.zeros(len(columns), np.bool_) if loads.all() else loads
    return replace(free, direction=np.where(loads, 0.0, np.where(low, -1.0, np.where(high, 1.0, 0.0))), is_load=is_load)


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


def _order(units: Sequence[str], incidents: Iterable[Incident]) -> tuple[str, ...]:
    """The most frequent cause first."""
    counts = Counter(cause for each in incidents for cause in each.causes)
    return tuple(sorted({unit for unit in units if unit}, key=lambda unit: (-counts[unit], unit)))


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
        guess = _order(names, incidents)  # of this machine, from the very labels
        yield Case(
            "smd", path.stem, 60, names, names, values[:first], values[first:], incidents, guess, is_fleet=False,
            joint=tuple(range(len(names))),
        )  # fmt: skip


def _petshop(folder: Path) -> Iterator[Case]:
    """The issues whose scenario has normal data; the guess of one scenario is counted on the others."""
    found = {
        path: json.loads(path.with_suffix(".json").read_text()) for path in sorted(folder.glob("*issue_*.parquet"))
    }
    found = {path: said for path, said in found.items() if said["train_case"] is not None}
    issues = {
        path: tuple(
            Incident(each["start"], each["end"], frozenset(each["root_causes"]), said["target"]["metric"])
            for each in said["segments"]
        )
        for path, said in found.items()
    }
    for path, said in found.items():
        table, learnt = _table(path), _table(folder / f"{said['train_case']}.parquet")
        names = tuple(name for name, column in learnt.items() if np.isfinite(column).any())
        # of the five latencies of each node the mean: with all percentiles there are more columns than a forest takes
        joint = tuple(k for k, name in enumerate(names) if name.endswith(("Average", "Sum")))
        graph = json.loads((folder / f"graph_{said['family']}.json").read_text())
        units = tuple(name.split("|")[0] for name in names)
        calls = tuple((caller, callee) for caller, callee in graph["edges"])
        elsewhere = [
            each for other, some in issues.items() if found[other]["family"] != said["family"] for each in some
        ]
        history, judged = _columns(learnt, names), _columns(table, names)
        yield Case(
            "petshop", path.stem, 300, names, units, history, judged, issues[path], _order(units, elsewhere), calls,
            joint=joint,
        )  # fmt: skip


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
        guess = _order(units, incidents)  # of this application, from the very labels
        application = said["application"]
        # the 879 metrics of Train Ticket have 14,064 features, and a forest takes 4,095
        joint = () if application == "trainticket" else tuple(range(len(names)))
        yield Case(
            f"nezha {application}", path.stem, 60, names, units, values[start:end], values[:start], incidents, guess,
            calls, joint=joint,
        )  # fmt: skip
