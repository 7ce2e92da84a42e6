"""Our rows of the NAB table: every detector and mode of the run, by the benchmark's rules, standard profile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench.quality import nab, store
from bench.quality.cases import Case
from bench.quality.detector import Budget, Contender, Mode
from bench.quality.store import Key


@dataclass(frozen=True, slots=True)
class NabLine:
    """One row: at score 1.0, without any label, and at the best common threshold, as NAB itself does it."""

    detector: str
    mode: str
    budget: str
    files: int
    at_one: float
    best: float
    at_one_adapted: float
    best_adapted: float
    digest: str


def nab_lines(
    out: Path, cases: Iterable[Case], chosen: Sequence[Contender], modes: Sequence[Mode], budget: Budget, measure: str
) -> list[NabLine]:
    """A row for each detector and mode that has judged every NAB case of this run; kept in OUT/nab.parquet."""
    files = [case for case in cases if case.dataset == "nab"]
    path = out / "nab.parquet"
    kept = {line.digest: line for line in (NabLine(**row) for row in store.read_table(path))}
    lines = []
    for contender in chosen:
        for mode in (mode for mode in modes if mode in contender.modes):
            keys = [Key("nab", case.name, contender.name, mode, budget.text) for case in files]
            digests = [store.digest_in(out, key) for key in keys]
            if not files or None in digests:
                continue
            digest = store.digest_of([], measure, contender.name, mode, budget.text, *map(str, digests))
            lines.append(kept.get(digest) or _line(out, files, keys, digest))
    if lines:
        store.write_table(path, [asdict(line) for line in {**kept, **{each.digest: each for each in lines}}.values()])
    return lines


def _line(out: Path, files: Sequence[Case], keys: Sequence[Key], digest: str) -> NabLine:
    sheets, scores = [], []
    for case, key in zip(files, keys, strict=True):
        run = store.load(out, key)
        assert run is not None
        sheets.append(nab.sheet(case.rows, [(first, end - 1) for first, end in case.windows]))
        # a detector that trains on more rows than the probation has is silent until then
        whole = np.concatenate([np.full(case.train_rows, np.nan), run.scores])
        scores.append(whole[nab.probation_rows(case.rows) :])
    return NabLine(
        keys[0].detector, str(keys[0].mode), keys[0].budget, len(files),
        at_one=nab.score_at(sheets, scores, 1.0, adapted=False),
        best=nab.best(sheets, scores, adapted=False)[1],
        at_one_adapted=nab.score_at(sheets, scores, 1.0, adapted=True),
        best_adapted=nab.best(sheets, scores, adapted=True)[1],
        digest=digest,
    )  # fmt: skip
