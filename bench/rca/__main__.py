"""Measure how often the metric or service that is named first, or among the first three, is the cause.

python -m bench.rca --data FOLDER --out build/rca
python -m bench.rca --data FOLDER --datasets petshop,nezha --algorithm ensemble
python -m bench.rca --data FOLDER --write-docs docs/quality.md
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from bench.rca.cases import NAMES, find
from bench.rca.fleet import Fleet
from bench.rca.measure import Outcome, Trained, outcomes
from bench.rca.report import report, write_into
from rich.console import Console
from rich.progress import Progress

from foreshock.detectors.ensemble import ALGORITHMS


def main(argv: list[str] | None = None) -> int:
    """Run, print the table, and write `outcomes.parquet` and `table.md`."""
    options = _parser().parse_args(argv)
    missing = [name for name in options.datasets if name not in NAMES or not (options.data / name).is_dir()]
    if missing:
        sys.stderr.write(f"bench.rca: {options.data} holds no {', '.join(missing)}; there are {', '.join(NAMES)}.\n")
        return 2
    found: list[Outcome] = []
    trained, fleet = Trained(), Fleet(options.algorithm)
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        for dataset in options.datasets:
            cases = list(find(options.data, dataset))
            for case in bar.track(cases, description=dataset):
                found += outcomes(case, trained, options.algorithm) if case.joint else []
                found += fleet.outcomes(case) if case.is_fleet else []
                if not console.is_terminal:
                    sys.stderr.write(f"{dataset}/{case.name}: {len(found)} rankings so far\n")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = {each.name: [asdict(one)[each.name] for one in found] for each in fields(Outcome)}
    pq.write_table(pa.table(columns), options.out / "outcomes.parquet")
    text = report(found)
    (options.out / "table.md").write_text(text)
    print(text)
    if options.write_docs is not None:
        write_into(options.write_docs, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rca", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the datasets")
    parser.add_argument(
        "--datasets", type=lambda text: text.split(","), default=list(NAMES), help=f"some of {','.join(NAMES)}"
    )
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="ensemble")
    parser.add_argument("--out", type=Path, default=Path("build/rca"), help="where results are kept")
    parser.add_argument("--write-docs", type=Path, help="a page with markers, between which the tables are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
