"""What a week of a minute costs to train, and a window to judge, channel by channel, beside the forest alone.

Training: `detectors.model.train` with everything that it does (baselines, vectors, four held-out blocks, channels,
screen), beside scikit-learn's `IsolationForest.fit` on twelve statistics a metric, whose computation isn't counted.
Judging: one window of each of a stack of models, as a cycle of the engine does; the vectors are computed before. CPU
time of this one process; the median of `ROUNDS`, after a first one that compiles.

    python -m bench.channels
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from bench.windows import WINDOW, statistics_of
from sklearn.ensemble import IsolationForest as Peer

from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.ensemble import Ensemble
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema

N_METRICS, N_TIMES, STEP_S, DAY_STEPS = (1, 5, 20), 10_080, 60, 1_440
N_MODELS = 256  # of a stack: copies of one, each in memory of its own
ROUNDS = 5


def week(n_metrics: int, seed: int) -> np.ndarray:
    """A daily swing of its own under a noise with memory for each metric, (N_TIMES, n_metrics)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 3.0, (N_TIMES, n_metrics))
    for i in range(1, N_TIMES):
        noise[i] += 0.7 * noise[i - 1]
    day = np.sin(2.0 * np.pi * np.arange(N_TIMES) / DAY_STEPS)
    return np.asarray(100.0 + day[:, None] * rng.uniform(0.0, 20.0, n_metrics) + noise)


def cpu_s(call: Callable[[], object]) -> list[float]:
    """CPU seconds of each round, the first one aside."""
    spent = []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return spent[1:]


def main() -> None:
    """Measure, and print."""
    print(f"{'':<50}{'median':>9}{'range':>17}{'ratio':>9}")
    for n_metrics in N_METRICS:
        model, frame, rules = _training(n_metrics)
        _judging(model, frame, rules)


def _training(n_metrics: int) -> tuple[Model, Frame, Rules]:
    names, rules = tuple(f"m{k}" for k in range(n_metrics)), Rules.none(n_metrics)
    frame = Frame(0, STEP_S, names, as_samples(week(n_metrics, 0)))
    course = Course(Schema(names, STEP_S, WINDOW * STEP_S), rules, "ensemble", 1.0 / 604_800, None, "UTC")
    teaches = np.ones(N_TIMES, np.bool_)
    rows = np.hstack([statistics_of(column) for column in frame.values.T])
    peer = cpu_s(lambda: Peer(n_estimators=100, max_samples=256, random_state=0).fit(rows))
    ours = cpu_s(lambda: train(frame, course, teaches))
    print(f"train on {N_TIMES:,} x {n_metrics}, s; times scikit-learn's forest")
    _line("scikit-learn's IsolationForest.fit", peer, 1.0)
    _line("everything that makes a model", ours, statistics.median(ours) / statistics.median(peer))
    return train(frame, course, teaches), frame, rules


def _judging(model: Model, frame: Frame, rules: Rules) -> None:
    n_metrics = len(frame.metrics)
    context = model.schema.context_steps
    windows = model.vectors(frame.rows(N_TIMES - N_MODELS - context, N_TIMES), context)
    stack = Ensemble.stack((model.ensemble,) * N_MODELS)
    many = Rules.stack((rules,) * N_MODELS)
    spent = {channel.name: cpu_s(lambda it=channel: it.score(windows, many)) for channel in stack.channels}
    spent["ensemble"] = cpu_s(lambda: stack.score(windows, many))
    alone = statistics.median(spent["isolation_forest"])
    print(f"judge a window of {n_metrics} metric{'s'[: n_metrics > 1]}, us; times the forest alone")
    for name, each in spent.items():
        _line(name, [one / N_MODELS * 1e6 for one in each], statistics.median(each) / alone)


def _line(name: str, values: list[float], ratio: float) -> None:
    spread = f"{min(values):.3g} - {max(values):.3g}"
    print(f"  {name:<48}{statistics.median(values):>9.3g}{spread:>17}{ratio:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
