"""`forecast`: weights that are a recursion's, jumps of a metric that wanders, recoveries, what is unknown, imports."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from foreshock.core.frame import Array, Frame
from foreshock.detectors.forecast import Forecast, _errors, _weights
from foreshock.detectors.model import Course, Model, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import INDEX, STATISTICS, Schema

STEP_S, PER_DAY, N_DAYS = 300, 288, 8
NAMES = ("queue", "latency")
SCHEMA = Schema(NAMES, STEP_S, 3600)


def _history(seed: int = 3) -> Array:
    """A queue that wanders with a memory of a day, and a latency that is noise."""
    random = np.random.default_rng(seed)
    n, memory = N_DAYS * PER_DAY, np.exp(-1.0 / PER_DAY)
    queue = np.zeros(n)
    for row in range(1, n):
        queue[row] = memory * queue[row - 1] + np.sqrt(1.0 - memory**2) * random.normal(0.0, 50.0)
    return np.asarray(np.column_stack([400.0 + queue, random.normal(100.0, 5.0, n)]), np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def model() -> Model:
    frame = Frame(0, STEP_S, NAMES, _history())
    course = Course(SCHEMA, Rules.none(2), "forecast", 1 / 604_800, (), "UTC")
    return train(frame, course, np.ones(frame.n_times, np.bool_))


def _channel(model: Model) -> Forecast:
    (channel,) = model.ensemble.channels
    assert isinstance(channel, Forecast)
    return channel


def _score(model: Model, values: Array) -> float:
    vectors = model.vectors(Frame(0, STEP_S, NAMES, values), len(values) - 1)
    return float(model.ensemble.score(vectors, Rules.none(2))[-1])


def test_what_wanders_is_foretold_by_its_last_value_and_noise_by_its_mean(model: Model) -> None:
    """The smoothing parameter that statsforecast finds is near one for a walk, and near zero for noise."""
    alpha = _channel(model).alpha
    assert alpha[0, 0] > 0.7
    assert alpha[1, 0] < 0.2


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.95])
def test_the_weights_are_those_of_the_recursion(alpha: float) -> None:
    """Smoothing 71 blocks one after another gives the forecast that three weights give of their means."""
    schema = Schema(("m",), 60, 3600)
    weights = _weights(np.array([[alpha, alpha]]), schema)[0]
    before, rest, earlier = 3.0, 2.0, -1.0
    state = 0.0
    for block in [*[earlier] * 60, *[rest] * 10, before]:
        state += alpha * (block - state)
    assert weights[:3] @ np.array([before, rest, earlier]) == pytest.approx(state)


def test_a_jump_within_the_range_of_a_wanderer_is_found_and_its_wandering_is_not(model: Model) -> None:
    """Half of the range in a quarter of an hour; the level afterwards was there many times."""
    values = _history()
    assert _score(model, values) < 1.0
    jumped = values.copy()
    jumped[-3:, 0] -= np.sign(values[-4, 0] - 400.0) * 120.0
    assert _score(model, jumped) >= 1.0


def test_the_way_back_from_an_incident_is_no_incident(model: Model) -> None:
    """Two hours of trouble were said; their end is none."""
    values = _history()
    values[-27:-3, 1] += 60.0
    assert _score(model, values[:-3]) >= 1.0
    assert _score(model, values) < 1.0


def test_an_unknown_past_foretells_what_is_there() -> None:
    """A ring that holds one window only gives no error, and a metric without any sample none that counts."""
    vectors = np.zeros((1, 2, len(STATISTICS)))
    vectors[0, 0, [INDEX[f"deviation_{name}"] for name in ("recent", "mean", "long", "last", "before")]] = 7.0
    vectors[0, 1] = np.nan
    errors = _errors(vectors, np.array([[1.0, 0.0, 0.0, 1.0]] * 2), 0.9)
    assert errors[0, 0].tolist() == [0.0, 0.0]
    assert np.isnan(errors[0, 1]).all()


def test_neither_library_is_imported_before_a_training() -> None:
    """They cost seconds, which the command line and a cycle have not."""
    code = (
        "import sys, foreshock.cli.main, foreshock.app.engine; print({'statsforecast', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
