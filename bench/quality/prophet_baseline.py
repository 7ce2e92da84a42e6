"""Whether Prophet would expect better than the baseline does: the day after the training rows, from the same rows.

    python -m bench.quality.prophet_baseline --data FOLDER

A line a dataset: the ratio of the two mean absolute errors (below 1 Prophet is better), how often it is better, and
what a fit and the forecast of one hour cost. One metric of each case, the cases every `--every`-th.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from bench.quality.cases import Case, find_cases
from bench.quality.measure import HOUR_S, Scores
from bench.quality.peers.base import filled
from bench.quality.peers.prophet_model import prophet

from foreshock.core.frame import Frame, as_samples
from foreshock.features.baseline import fit_baseline
from foreshock.features.schema import Schema

_DAY_S, _LEAST_WINDOW_ROWS, _NAME = 86_400, 12, "m0"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line a dataset."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.prophet_baseline", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the datasets")
    parser.add_argument("--datasets", default="d2,asd,nab", help="some of d2,d3,asd,smd,nab,microsoft")
    parser.add_argument("--every", type=int, default=3, help="the first case of every K")
    options = parser.parse_args(argv)
    print(f"{'':<10}{'series':>7}{'error ratio':>13}{'better':>8}{'fit s':>8}{'hour s':>8}{'baseline fit s':>16}")
    for name in options.datasets.split(","):
        found = np.array([_compare(case) for case in find_cases(options.data, [name], every=options.every)])
        middle = np.median(found, axis=0)
        better = f"{int((found[:, 0] < 1.0).sum())}/{len(found)}"
        print(
            f"{name:<10}{len(found):>7}{middle[0]:>13.2f}{better:>8}{middle[1]:>8.1f}{middle[2]:>8.2f}{middle[3]:>16.3f}"
        )


def _compare(case: Case) -> tuple[float, float, float, float]:
    """Error of Prophet over that of the baseline; seconds of Prophet's fit and of an hour's forecast, and of ours."""
    values = filled(case.values, case.train_rows)
    spread = values[: case.train_rows].std(axis=0)
    column = int(np.argmax(spread / np.maximum(np.abs(values[: case.train_rows].mean(axis=0)), 1e-9)))
    start_s = int(pq.read_table(case.path, columns=["timestamp"]).column("timestamp")[0].as_py())
    times_s = start_s + np.arange(case.rows) * case.step_s  # a few files count rows, or have an hour twice
    first, end = case.train_rows, min(case.rows, case.train_rows + _DAY_S // case.step_s)
    series = pd.DataFrame({"ds": pd.to_datetime(times_s, unit="s"), "y": values[:, column]})
    began = time.perf_counter()
    model = prophet().fit(series[:first])
    fit_s = time.perf_counter() - began
    theirs = model.predict(series[first:end][["ds"]])["yhat"].to_numpy()
    began = time.perf_counter()
    model.predict(series[first : first + max(1, HOUR_S // case.step_s)][["ds"]])
    hour_s = time.perf_counter() - began
    ours, ours_s = _baseline(values[:, column], start_s, first, end, case.step_s)
    actual = values[first:end, column]
    ratio = np.abs(theirs - actual).mean() / max(np.abs(ours - actual).mean(), 1e-12)
    return float(ratio), fit_s, hour_s, ours_s


def _baseline(series: Scores, start_s: int, first: int, end: int, step_s: int) -> tuple[Scores, float]:
    frame = Frame(start_s, step_s, (_NAME,), as_samples(series[:, None]))
    schema = Schema((_NAME,), step_s, max(HOUR_S, _LEAST_WINDOW_ROWS * step_s))
    began = time.perf_counter()
    fitted = fit_baseline(frame.rows(0, first), np.ones(first, np.bool_), (), None, "UTC", schema)
    seconds = time.perf_counter() - began
    expected, _ = fitted.expect(frame.rows(first, end))
    return expected[:, 0], seconds


if __name__ == "__main__":
    main()
