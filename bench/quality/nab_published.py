"""The benchmark's own results, by our scorer: proof that it scores as NAB does, and the rows to compare with.

    git clone https://github.com/numenta/NAB && python -m bench.quality.nab_published NAB [--data FOLDER]

scores the result files of a checkout of the benchmark again, at the thresholds that it published, and prints the rows
of `PUBLISHED`; with --data also on the files of the development half alone.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.quality import nab
from bench.quality.cases import find_cases

DEVELOPMENT_FILES = 29


@dataclass(frozen=True, slots=True)
class Published:
    """Standard profile; `all_files` is the published figure, the others are ours from the published result files."""

    detector: str
    all_files: float  # 58 files, at the published threshold
    development: float  # the 29 files of the development half, at the same threshold
    development_best: float  # at the best common threshold of these files
    development_adapted: float  # the same with the onset adapter


# Measured with the command above at commit ea702d7 of the benchmark. Of each detector the figure of `all_files` equals
# results/final_results.json to the sixth decimal, in the other two profiles as well.
PUBLISHED: tuple[Published, ...] = (
    Published("ARTime", 74.85, 75.01, 75.05, 75.83),
    Published("numenta", 70.10, 70.71, 70.71, 71.06),
    Published("contextOSE", 69.90, 70.77, 70.86, 70.86),
    Published("htmjava", 65.55, 66.71, 68.67, 71.29),
    Published("numentaTM", 64.55, 65.26, 65.35, 66.54),
    Published("earthgeckoSkyline", 58.20, 58.27, 58.27, 58.27),
    Published("knncad", 57.99, 58.34, 58.34, 58.34),
    Published("relativeEntropy", 54.64, 56.20, 56.20, 57.33),
    Published("randomCutForest", 51.72, 51.39, 51.97, 60.44),
    Published("twitterADVec", 47.06, 45.56, 45.56, 49.01),
    Published("windowedGaussian", 39.65, 47.35, 47.35, 52.95),
    Published("skyline", 35.69, 34.96, 34.96, 47.96),
    Published("random", 16.83, 13.73, 14.98, 16.35),
    Published("expose", 16.44, 16.81, 17.40, 27.77),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what `PUBLISHED` holds, and whether it is what the benchmark says."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.nab_published")
    parser.add_argument("checkout", type=Path, help="a clone of the benchmark")
    parser.add_argument("--data", type=Path, help="the folder of the labelled data")
    options = parser.parse_args(argv)
    windows = json.loads((options.checkout / "labels/combined_windows.json").read_text())
    final = json.loads((options.checkout / "results/final_results.json").read_text())
    thresholds = json.loads((options.checkout / "config/thresholds.json").read_text())
    half = [f"{case.name.replace('__', '/')}.csv" for case in find_cases(options.data, ["nab"])] if options.data else []
    for detector in sorted(set(final) - {"null"}):
        threshold = thresholds[detector]["standard"]["threshold"]
        pages = {name: _page(options.checkout, detector, name, windows[name]) for name in sorted(windows)}
        whole = nab.score_at(*zip(*pages.values(), strict=True), threshold, adapted=False)
        line = f"{detector:<20}published {final[detector]['standard']:.6f}  scored again {whole:.6f}"
        if half:
            some = tuple(zip(*(pages[name] for name in half), strict=True))
            at = nab.score_at(*some, threshold, adapted=False)
            best, adapted = nab.best(*some, adapted=False)[1], nab.best(*some, adapted=True)[1]
            line += f"  {len(half)} files {at:.2f}  best {best:.2f}  adapted {adapted:.2f}"
        print(line, flush=True)


def _page(checkout: Path, detector: str, name: str, windows: list[list[str]]) -> tuple[nab.Sheet, np.ndarray]:
    folder, file = name.split("/")
    with (checkout / "results" / detector / folder / f"{detector}_{file}").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    times = [row["timestamp"][:19] for row in rows]
    bounds = [(times.index(first[:19]), times.index(last[:19])) for first, last in windows]
    scores = np.array([float(row["anomaly_score"]) for row in rows])
    page = nab.sheet(len(rows), bounds)
    return page, scores[len(rows) - len(page.worth) :]


if __name__ == "__main__":
    main()
