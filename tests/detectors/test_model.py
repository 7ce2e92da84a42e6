"""What a model is calibrated on."""

from __future__ import annotations

import numpy as np

from foreshock.core.frame import Frame
from foreshock.detectors.model import Course, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema

STEP_S, N_ROWS = 60, 2 * 1440


def _threshold_of_scatter(values: np.ndarray) -> float:
    """The largest logarithm of a scatter, above its middle, that is not unusual."""
    course = Course(Schema(("m",), STEP_S, 3600), Rules.none(1), "level", 1 / 604_800, (), "UTC")
    level = train(Frame(0, STEP_S, ("m",), values[:, None]), course, np.ones(len(values), np.bool_)).ensemble.channels[
        0
    ]
    return float(level.tails.threshold[0, -1] * level.tails.spread[0, -1])


def test_windows_that_are_not_judged_do_not_calibrate() -> None:
    """A window of two samples scatters by nothing: ten holes of two hours must not teach that scatter varies widely."""
    whole = 100.0 + np.random.default_rng(3).normal(0.0, 2.0, N_ROWS)
    torn = whole.copy()
    for hole in range(10):
        torn[200 + 270 * hole : 320 + 270 * hole] = np.nan
    assert _threshold_of_scatter(torn) < 1.3 * _threshold_of_scatter(whole)
