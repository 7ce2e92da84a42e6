"""`autoencoder`: a curved relation that no line describes, errors that keep growing, a network of plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.core.frame import Array, Frame
from foreshock.detectors.autoencoder import Autoencoder
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema

STEP_S, PER_DAY, N_DAYS = 300, 288, 10
NAMES = ("requests", "latency")
SCHEMA = Schema(NAMES, STEP_S, 3600)


def _history(seed: int = 3) -> Array:
    """Requests wander; latency is high where they are few and where they are many."""
    random = np.random.default_rng(seed)
    n, memory = N_DAYS * PER_DAY, np.exp(-1.0 / PER_DAY)
    wander = np.zeros(n)
    for row in range(1, n):
        wander[row] = memory * wander[row - 1] + np.sqrt(1.0 - memory**2) * random.normal()
    latency = 40.0 + 20.0 * np.minimum(np.abs(wander), 2.0) + random.normal(0.0, 1.0, n)
    requests = 300.0 + 100.0 * np.clip(wander, -2.0, 2.0) + random.normal(0.0, 4.0, n)
    return np.asarray(np.column_stack([requests, latency]), np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def model() -> Model:
    frame = Frame(0, STEP_S, NAMES, _history())
    course = Course(SCHEMA, Rules.none(2), "autoencoder", 1 / 604_800, (), "UTC")
    return train(frame, course, np.ones(frame.n_times, np.bool_))


def _judged(model: Model, values: Array) -> tuple[float, Array]:
    vectors = model.vectors(Frame(0, STEP_S, NAMES, values), len(values) - 1)
    rules = Rules.none(2)
    return float(model.ensemble.score(vectors, rules)[-1]), model.ensemble.contributions(vectors, rules)[-1]


def test_ten_times_further_outside_loses_ten_times_as_much(model: Model) -> None:
    """Activations saturate, what they are compared with does not: the error is linear far outside."""
    values, scores = _history(), []
    for by in (1e4, 1e5):
        moved = values.copy()
        moved[-12:, 1] += by
        scores.append(_judged(model, moved)[0])
    assert scores[1] == pytest.approx(10.0 * scores[0], rel=0.05)


def test_one_metric_that_runs_away_is_not_blamed_on_the_other(model: Model) -> None:
    """What enters the network is bounded, so that it cannot shake what is given back of the others."""
    values = _history()
    values[-12:, 0] += 1e5
    assert _judged(model, values)[1][0] > 0.99


def test_what_is_missing_is_not_lost(model: Model) -> None:
    """A metric without a sample adds nothing to the error, and the other one is judged."""
    values = _history()
    values[-100:, 1] = np.nan
    score, shares = _judged(model, values)
    assert np.isfinite(score)
    assert shares[1] == 0.0 or score == 0.0


def test_a_network_is_small_and_single(model: Model) -> None:
    """Four layers in float32, a few kilobytes: thousands of models lie in one block."""
    (channel,) = model.ensemble.channels
    assert isinstance(channel, Autoencoder)
    layers = [channel.encode, channel.squeeze, channel.widen, channel.decode]
    assert {layer.dtype for layer in layers} == {np.dtype(np.float32)}
    assert sum(layer.nbytes for layer in layers) < 4_096
