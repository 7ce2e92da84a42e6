"""Reading Prometheus' JSON: our byte parser beside the standard library's json, alternating in one run.

    python bench/prometheus_parse.py

Prints the median CPU time of each and the ratio, for a fleet's window, the same with 17 digits, one long history, and
an instant vector. Both end with the same array, which is checked.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from foreshock.core.frame import as_samples
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import read_matrix

STEP_S = 60
REPEATS = 9


def main() -> None:
    """Print one line a case."""
    generator = np.random.default_rng(7)
    print(f"{'case':<32}{'MB':>7}{'json, ms':>10}{'ours, ms':>10}{'ratio':>8}")
    for name, n_series, n_times, digits in (
        ("1,000 series x 60, 3 digits", 1000, 60, 3),
        ("1,000 series x 60, 17 digits", 1000, 60, 17),
        ("1 series x 10,080, 17 digits", 1, 10_080, 17),
        ("1,000 series x 1, 17 digits", 1000, 1, 17),
    ):
        body = _body(generator.lognormal(size=(n_series, n_times)), digits)
        query = RangeQuery("x", STEP_S, n_times * STEP_S, STEP_S)
        theirs, ours = _with_json(body, query), read_matrix(body, query).values
        if not np.array_equal(theirs, ours):
            raise SystemExit(f"{name}: the two parsers disagree")
        json_ms, ours_ms = _medians(lambda: _with_json(body, query), lambda: read_matrix(body, query))  # noqa: B023 - called at once
        print(f"{name:<32}{len(body) / 1e6:>7.2f}{json_ms:>10.2f}{ours_ms:>10.2f}{json_ms / ours_ms:>8.1f}")


def _body(values: np.ndarray, digits: int) -> bytes:
    series = [
        {
            "metric": {"__name__": "http_requests_total", "job": f"service-{i}", "instance": f"10.0.0.{i % 256}:9090"},
            "values": [[(j + 1) * STEP_S, f"{value:.{digits}g}"] for j, value in enumerate(row)],
        }
        for i, row in enumerate(values)
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    return json.dumps(answer, separators=(",", ":")).encode()


def _with_json(body: bytes, query: RangeQuery) -> np.ndarray:
    result = json.loads(body)["data"]["result"]
    values = np.full((len(result), query.n_times), np.nan)
    for row, series in zip(values, result, strict=True):
        samples = series["values"]
        columns = (np.array([sample[0] for sample in samples]) - query.start_s) / query.step_s
        row[columns.astype(np.int64)] = [float(sample[1]) for sample in samples]
    return as_samples(values)


def _medians(*functions: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, taken in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            taken.append((time.process_time() - start) * 1000)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
