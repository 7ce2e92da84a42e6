"""Measure how often the metric or service that is named first, or among the first three, is the cause.

python -m bench.rca --data FOLDER --out build/rca
python -m bench.rca --data FOLDER --datasets petshop,nezha --algorithm ensemble
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from bench.rca.cases import NAMES, find
from bench.rca.measure import Outcome, Trained, outcomes
from rich.console import Console
from rich.progress import Progress

from foreshock.detectors.ensemble import ALGORITHMS

FEW_CAUSES = 4


def main(argv: list[str] | None = None) -> int:
    """Run, print the table, and write `outcomes.parquet` and `table.md`."""
    options = _parser().parse_args(argv)
    missing = [name for name in options.datasets if name not in NAMES or not (options.data / name).is_dir()]
    if missing:
        sys.stderr.write(f"bench.rca: {options.data} holds no {', '.join(missing)}; there are {', '.join(NAMES)}.\n")
        return 2
    found: list[Outcome] = []
    trained = Trained()
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        for dataset in options.datasets:
            cases = list(find(options.data, dataset))
            for case in bar.track(cases, description=dataset):
                found += outcomes(case, trained, options.algorithm)
                if not console.is_terminal:
                    sys.stderr.write(f"{dataset}/{case.name}: {len(found)} incidents so far\n")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = {each.name: [asdict(one)[each.name] for one in found] for each in fields(Outcome)}
    pq.write_table(pa.table(columns), options.out / "outcomes.parquet")
    text = table(found)
    (options.out / "table.md").write_text(text)
    print(text)
    return 0


def table(found: Sequence[Outcome]) -> str:
    """The figures as markdown: the headline of each dataset, then its kinds of fault."""
    lines = [
        "| dataset | incidents | detected | hit@1 | hit@3 | with calls @1 | @3 | constant @1 | @3 | random @1 | @3 |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for dataset in dict.fromkeys(one.dataset for one in found):
        every = [one for one in found if one.dataset == dataset]
        few = [one for one in every if one.n_causes <= FEW_CAUSES]
        if len(few) < len(every):
            lines.append(_line(f"{dataset}, at most {FEW_CAUSES} causes", few))
        lines.append(_line(dataset, every))
        kinds = sorted({one.kind for one in every if one.kind})
        lines += [_line(f"{dataset}: {kind}", [one for one in every if one.kind == kind]) for kind in kinds]
    return "\n".join(lines) + "\n"


def _line(title: str, some: Sequence[Outcome]) -> str:
    if not some:
        return f"| {title} | 0 |" + " |" * 9
    places = (
        [one.place for one in some],
        [one.place_with_calls for one in some],
        [one.place_of_constant for one in some],
    )
    hits = [sum(place <= k for place in each) / len(some) for each in places for k in (1, 3)]
    chances = [sum(one.chance_at_1 for one in some) / len(some), sum(one.chance_at_3 for one in some) / len(some)]
    detected = sum(one.detected for one in some) / len(some)
    figures = " | ".join(f"{share:.2f}" for share in (detected, *hits, *chances))
    return f"| {title} | {len(some)} | {figures} |"


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
    return parser


if __name__ == "__main__":
    sys.exit(main())
