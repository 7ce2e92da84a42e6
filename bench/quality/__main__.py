"""Measure detection on labelled data: ours beside the peers, one report.

python -m bench.quality --data FOLDER --out build/quality
python -m bench.quality --data FOLDER --datasets d2,asd --detectors foreshock,textbook --modes adapt --jobs 1
python -m bench.quality --data FOLDER --out build/quality --report-only
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.quality import store
from bench.quality.cases import NAMES, Case, NoData, find_cases
from bench.quality.contenders import NoSuchDetector, contenders, measure_digest, named
from bench.quality.detector import Budget, Contender, Mode
from bench.quality.run import jobs, run_all
from bench.quality.store import Key
from bench.quality.summary import Row, honesty, row_of, summaries
from bench.quality.text import honesty_table, table

from foreshock.manifests import fields

_HONESTY = ("d2", "asd", "smd")  # datasets on which the budget is judged


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, print the table, write the report."""
    options = _parser().parse_args(argv)
    try:
        cases = find_cases(options.data, options.datasets, options.cases)
        chosen = [named(name) for name in options.detectors or [each.name for each in contenders()]]
        budgets = [Budget(text, fields.Budget.parse(text).per_s) for text in options.budgets]
    except (NoData, NoSuchDetector, ValueError) as error:
        sys.stderr.write(f"bench.quality: {error}\n")
        return 2
    if not options.report_only:
        run_all(list(jobs(options.out, cases, chosen, options.modes, budgets)), options.jobs)
    rows = measure(options.out, cases, chosen, options.modes, budgets)
    if not rows:
        sys.stderr.write(f"bench.quality: {options.out} holds no result of these; leave --report-only out.\n")
        return 1
    _print(rows, budgets)
    return 0


def measure(
    out: Path, cases: list[Case], chosen: list[Contender], modes: list[Mode], budgets: list[Budget]
) -> list[Row]:
    """The rows of every run that is there; what was measured before with the same code is not measured again."""
    current = measure_digest()
    kept = {
        (row["dataset"], row["case"], row["detector"], row["mode"], row["budget"]): row for row in store.read_rows(out)
    }
    rows: list[Row] = []
    for budget in budgets:
        for contender in chosen:
            for mode in (mode for mode in modes if mode in contender.modes):
                for case in cases:
                    key = Key(case.dataset, case.name, contender.name, mode, budget.text)
                    digest = store.digest_in(out, key)
                    if digest is None:
                        continue
                    name = (key.dataset, key.case, key.detector, str(key.mode), key.budget)
                    row = kept.get(name)
                    if row is None or (row["digest"], row["measure_digest"]) != (digest, current):
                        run = store.load(out, key)
                        assert run is not None
                        row = row_of(key, case, run, current)
                    kept[name] = row
                    rows.append(row)
    if rows:
        store.write_rows(out, list(kept.values()))
    return rows


def _print(rows: list[Row], budgets: list[Budget]) -> None:
    lines = summaries(rows)
    print(table(lines))
    by_text = {budget.text: budget for budget in budgets}
    honest = [
        honesty(line, by_text[line.budget]) for line in lines if line.dataset in _HONESTY and line.weeks and line.cases
    ]
    if honest:
        print(honesty_table(honest))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the datasets")
    parser.add_argument("--datasets", type=_words, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--cases", type=_words, default=["*"], help="names or patterns of cases: d2_service0*,omi-1")
    parser.add_argument("--detectors", type=_words, default=None, help="some rows of the table: foreshock,textbook")
    parser.add_argument("--modes", type=_modes, default=list(Mode), help="adapt, frozen, or both")
    parser.add_argument("--budgets", type=_words, default=["1/7d"], help="1/1d,1/7d,1/30d; the first is the headline")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("build/quality"), help="where results are kept")
    parser.add_argument("--report-only", action="store_true", help="run nothing: report what is in --out")
    return parser


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _modes(text: str) -> list[Mode]:
    return [Mode(word) for word in _words(text)]


if __name__ == "__main__":
    sys.exit(main())
