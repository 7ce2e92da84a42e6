"""Measure detection on labelled data: ours beside the peers, one report.

python -m bench.quality --data FOLDER --out build/quality
python -m bench.quality --data FOLDER --datasets d2,asd --detectors foreshock,textbook --modes adapt --jobs 1
python -m bench.quality --data FOLDER --out build/quality --report-only --write-docs docs/quality.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.quality import markdown, report, text
from bench.quality.cases import NAMES, NoData, find_cases
from bench.quality.collect import collect
from bench.quality.contenders import NoSuchDetector, chosen
from bench.quality.detector import Budget, Mode
from bench.quality.run import jobs, run_all
from bench.quality.summary import scope_of

from foreshock.manifests import fields


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, print the table, write the report."""
    options = _parser().parse_args(argv)
    try:
        cases = find_cases(options.data, options.datasets, options.cases, options.every)
        detectors = chosen(options.detectors)
        budgets = [Budget(said, fields.Budget.parse(said).per_s) for said in options.budgets]
        if options.write_docs is not None:
            markdown.refuse_without_markers(options.write_docs)
    except (NoData, NoSuchDetector, markdown.NoMarkers, ValueError) as error:
        sys.stderr.write(f"bench.quality: {error}\n")
        return 2
    scopes = {name: scope_of(find_cases(options.data, [name])) for name in options.datasets}
    if not options.report_only:
        run_all(list(jobs(options.out, cases, detectors, options.modes, budgets)), options.jobs)
    results = collect(options.out, cases, detectors, options.modes, budgets, scopes)
    if not results.rows:
        sys.stderr.write(f"bench.quality: {options.out} holds no result of these; leave --report-only out.\n")
        return 1
    print(text.report(results))
    path = options.out / "report.html"
    path.write_text(report.page(results))
    sys.stderr.write(f"bench.quality: the report is {path}\n")
    if options.write_docs is not None:
        markdown.write_between_markers(options.write_docs, markdown.tables(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the datasets")
    parser.add_argument("--datasets", type=_words, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--cases", type=_words, default=["*"], help="names or patterns of cases: d2_service0*,omi-1")
    parser.add_argument("--every", type=_count, default=1, metavar="K", help="the first case of every K of a dataset")
    parser.add_argument("--detectors", type=_words, default=["ours", "peers"], help="rows: foreshock,ours,peers")
    parser.add_argument("--modes", type=_modes, default=list(Mode), help="adapt, frozen, or both")
    parser.add_argument("--budgets", type=_words, default=["1/7d"], help="1/1d,1/7d,1/30d; the first is the headline")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("build/quality"), help="where results are kept")
    parser.add_argument("--write-docs", type=Path, help="a page whose tables between the markers are replaced")
    parser.add_argument("--report-only", action="store_true", help="run nothing: report what is in --out")
    return parser


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _modes(text: str) -> list[Mode]:
    return [Mode(word) for word in _words(text)]


if __name__ == "__main__":
    sys.exit(main())
