"""Everything that a report says, from the folder of results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.quality import store
from bench.quality.cases import Case
from bench.quality.contenders import measure_digest
from bench.quality.detector import Budget, Contender, Mode
from bench.quality.nab_lines import NabLine, nab_lines
from bench.quality.store import Key
from bench.quality.summary import Honesty, Row, Scope, Summary, honesty, row_of, summaries
from bench.quality.throttle import Effect, effects

HONEST_DATASETS = ("d2", "asd", "smd")  # on which the budget is judged


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """The figures of one folder; `budget` is the headline."""

    budget: Budget
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    honesty: tuple[Honesty, ...]
    nab: tuple[NabLine, ...]
    throttle: tuple[Effect, ...]
    scopes: Mapping[str, Scope]  # of each dataset as a whole


def collect(
    out: Path,
    cases: Sequence[Case],
    chosen: Sequence[Contender],
    modes: Sequence[Mode],
    budgets: Sequence[Budget],
    scopes: Mapping[str, Scope],
) -> Results:
    """Measure what is there, in the order of cases, detectors and modes; the first budget is the headline."""
    rows = _rows(out, cases, chosen, modes, budgets)
    lines = summaries(rows)
    by_text = {budget.text: budget for budget in budgets}
    honest = [honesty(line, by_text[line.budget]) for line in lines if line.dataset in HONEST_DATASETS and line.cases]
    nab = nab_lines(out, cases, chosen, modes, budgets[0], measure_digest())
    return Results(budgets[0], tuple(rows), tuple(lines), tuple(honest), tuple(nab), tuple(effects(rows)), scopes)


def _rows(
    out: Path, cases: Sequence[Case], chosen: Sequence[Contender], modes: Sequence[Mode], budgets: Sequence[Budget]
) -> list[Row]:
    """A row a run; OUT/results.parquet keeps those of other datasets and detectors."""
    current = measure_digest()
    rows: dict[Key, Row] = {}
    for case in cases:
        for contender in chosen:
            for mode in (mode for mode in modes if mode in contender.modes):
                for budget in budgets:
                    key = Key(case.dataset, case.name, contender.name, mode, budget.text)
                    if row := _row(out, key, case, current):
                        rows[key] = row
    if rows:
        path = out / "results.parquet"
        store.write_table(path, list(({_key(row): row for row in store.read_table(path)} | rows).values()))
    return list(rows.values())


def _row(out: Path, key: Key, case: Case, current: str) -> Row | None:
    """What the run amounts to by today's measure: measured again only where that has changed."""
    row = store.row_in(out, key)
    if row.get("measure_digest") == current:
        return row
    run = store.load(out, key)
    if run is None:
        return None
    row = row_of(key, case, run, current)
    store.save(out, key, run, row)
    return row


def _key(row: Row) -> Key:
    return Key(row["dataset"], row["case"], row["detector"], Mode(row["mode"]), row["budget"])
