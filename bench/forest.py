"""Measure the packed forest beside scikit-learn and isotree, in one run: fit, hot and cold scores, credits, bytes.

Process CPU time, one thread, ours and the peers alternating; each row is the median of `REPEATS` with its range. Ratios
count, absolute figures belong to the machine. Cold: more models than the last cache holds, in random order, each asked
for one vector (1,000 of ours in one block, 200 of isotree, 50 of scikit-learn, which would take minutes to train).

    python -m bench.forest
"""

from __future__ import annotations

import pickle
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import isotree
import numpy as np
from bench.row import Row
from bench.windows import WINDOW, statistics_of
from sklearn.ensemble import IsolationForest

from foreshock.detectors import forest as own

N_TIMES, N_FEATURES = 10_080, 12
N_TREES, SAMPLE_SIZE = 100, 256
OWN_MODELS, ISOTREE_MODELS, SKLEARN_MODELS = 1_000, 200, 50
REPEATS = 7


def training_rows() -> np.ndarray:
    """Twelve statistics of each window of one metric with a daily shape: (10,080, 12), float64, one week a minute."""
    rng = np.random.default_rng(7)
    n = N_TIMES + WINDOW - 1
    noise = rng.normal(size=n)
    for i in range(1, n):
        noise[i] += 0.8 * noise[i - 1]
    return statistics_of(40.0 + 5.0 * np.sin(2.0 * np.pi * np.arange(n) / 1_440.0) + noise)


def _own(rows: np.ndarray, seed: int = 1) -> own.Forest:
    return own.fit(rows, n_trees=N_TREES, sample_size=SAMPLE_SIZE, seed=seed)


def _isotree(rows: np.ndarray, seed: int = 1) -> Any:
    model = isotree.IsolationForest(
        ndim=1, ntrees=N_TREES, sample_size=SAMPLE_SIZE, missing_action="fail", nthreads=1, random_seed=seed
    )
    return model.fit(rows)


def _sklearn(rows: np.ndarray, seed: int = 1) -> Any:
    return IsolationForest(n_estimators=N_TREES, max_samples=SAMPLE_SIZE, random_state=seed).fit(rows)


def _cpu_us(call: Callable[[], object], per: int) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e6 / per


def _alternate(
    name: str, unit: str, calls: dict[str, tuple[Callable[[], object], int]], scale: float = 1.0
) -> list[Row]:
    """Time each call `REPEATS` times, in turns; a call comes with the number of things that it does."""
    samples: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(REPEATS):
        for who, (call, per) in calls.items():
            samples[who].append(_cpu_us(call, per) * scale)
    ours = statistics.median(samples["foreshock"])
    rows = []
    for who, values in samples.items():
        value = statistics.median(values)
        peer, ratio = (None, None) if who == "foreshock" else (who, value / ours)
        rows.append(Row(f"{name}, {who}", value, unit, peer, ratio, min(values), max(values)))
    return rows


def _repeat(call: Callable[[], object], times: int) -> tuple[Callable[[], object], int]:
    def many() -> None:
        for _ in range(times):
            call()

    return many, times


def _each(calls: list[Callable[[], object]]) -> tuple[Callable[[], object], int]:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them, len(calls)


def _fit_rows(rows: np.ndarray) -> list[Row]:
    calls = {
        "foreshock": _repeat(lambda: _own(rows), 10),
        "isotree": _repeat(lambda: _isotree(rows), 10),
        "scikit-learn": _repeat(lambda: _sklearn(rows), 1),
    }
    return _alternate(f"fit {N_TIMES:,} x {N_FEATURES}", "ms", calls, scale=1e-3)


def _hot_rows(rows: np.ndarray) -> list[Row]:
    mine, iso, scikit = _own(rows), _isotree(rows), _sklearn(rows)
    one = rows[:1].copy()
    expected = own.expected_paths(mine)
    block = own.pack([mine])
    flat, starts, same = rows.ravel(), np.arange(N_TIMES + 1) * N_FEATURES, np.zeros(N_TIMES, np.int64)
    return [
        *_alternate(
            "score, hot, one vector",
            "us",
            {
                "foreshock": _repeat(lambda: own.score(mine, one), 5_000),
                "isotree": _repeat(lambda: iso.predict(one), 300),
                "scikit-learn": _repeat(lambda: scikit.score_samples(one), 10),
            },
        ),
        *_alternate(
            "score, hot, a vector of 10,080",
            "us",
            {
                "foreshock": (lambda: own.score(mine, rows), N_TIMES),
                "isotree": (lambda: iso.predict(rows), N_TIMES),
                "scikit-learn": (lambda: scikit.score_samples(rows), N_TIMES),
            },
        ),
        *_alternate(
            "score by block, hot, a vector of 10,080",
            "us",
            {"foreshock": (lambda: own.score_fleet(block, flat, starts, same), N_TIMES)},
        ),
        *_alternate(
            "credits, hot, one vector",
            "us",
            {"foreshock": _repeat(lambda: own.credits(mine, one, expected), 5_000)},
        ),
        *_alternate(
            "credits, hot, a vector of 10,080",
            "us",
            {"foreshock": (lambda: own.credits(mine, rows, expected), N_TIMES)},
        ),
        *_alternate("expected paths, once a model", "us", {"foreshock": _repeat(lambda: own.expected_paths(mine), 50)}),
    ]


def _cold_rows(rows: np.ndarray) -> list[Row]:
    rng = np.random.default_rng(0)
    block = own.pack([_own(rows, seed) for seed in range(OWN_MODELS)])
    index = rng.permutation(OWN_MODELS)
    flat = rows[rng.integers(0, N_TIMES, OWN_MODELS)].ravel()
    starts = np.arange(OWN_MODELS + 1) * N_FEATURES
    one = rows[:1].copy()
    peers = {
        "isotree": [_isotree(rows, seed + 1).predict for seed in range(ISOTREE_MODELS)],
        "scikit-learn": [_sklearn(rows, seed).score_samples for seed in range(SKLEARN_MODELS)],
    }
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "foreshock": (lambda: own.score_fleet(block, flat, starts, index), OWN_MODELS)
    }
    for who, scorers in peers.items():
        order = rng.permutation(len(scorers))
        calls[who] = _each([lambda score=scorers[i]: score(one) for i in order])
    return _alternate("score, cold, one vector a model", "us", calls)


def _size_rows(rows: np.ndarray) -> list[Row]:
    def dumped(forest: own.Forest) -> float:
        return float(sum(array.nbytes for array in own.dump(forest).values()))

    mine, exact = _own(rows), own.fit(rows, n_trees=N_TREES, sample_size=SAMPLE_SIZE, seed=1, compact=False)
    uniform = _own(np.random.default_rng(0).uniform(size=rows.shape))
    result = [
        Row("serialised model, foreshock", dumped(mine), "bytes"),
        Row("the same in memory", float(mine.size_bytes), "bytes"),
        Row("the same, exact layout, serialised", dumped(exact), "bytes"),
        Row("uniform noise, the worst continuous case, serialised", dumped(uniform), "bytes"),
        Row("the same in memory", float(uniform.size_bytes), "bytes"),
    ]
    for who, model in (("isotree", _isotree(rows)), ("scikit-learn", _sklearn(rows))):
        size = float(len(pickle.dumps(model)))
        result.append(Row(f"serialised model, {who}", size, "bytes", who, size / dumped(mine)))
    return result


def _warm_up(rows: np.ndarray) -> Row:
    start = time.process_time()
    forest = _own(rows[:300])
    own.score(forest, rows[:1])
    own.credits(forest, rows[:1])
    own.score_fleet(own.pack([forest]), rows[0], np.array([0, N_FEATURES]), np.array([0]))
    return Row("first calls, kernels compiled or from the cache", (time.process_time() - start) * 1e3, "ms")


def run() -> list[Row]:
    """All figures, in the order of the table; takes about a minute."""
    rows = training_rows()
    return [_warm_up(rows), *_fit_rows(rows), *_hot_rows(rows), *_cold_rows(rows), *_size_rows(rows)]


def main() -> None:
    libraries = ("numpy", "numba", "scikit-learn", "isotree")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in libraries))
    for row in run():
        spread = "" if row.low is None else f"{row.low:,.2f} - {row.high:,.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:,.1f}x"
        print(f"{row.name:<56}{row.value:>14,.2f} {row.unit:<6}{spread:>26}{ratio:>12}")


if __name__ == "__main__":
    main()
