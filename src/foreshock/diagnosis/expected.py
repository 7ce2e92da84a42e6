"""What was expected of every statistic of a window, beside what it was."""

from __future__ import annotations

import numpy as np

from foreshock.core.frame import Array, Frame
from foreshock.detectors.model import Model
from foreshock.features.schema import INDEX, STATISTICS

_IQR_OF_NORMAL = 1.349  # inter-quartile range of a standard normal variable


def expected_vector(model: Model, frame: Frame) -> Array:
    """The vector that the end of `frame` would have had, had every metric done what was expected of it.

    (n_metrics, n_statistics), each in the unit of the statistic. Where a statistic tells of scatter, the usual scatter
    is expected around the expected course: the extremes are those of as many normal variables as the window has steps.
    """
    expected, usual = model.baseline.expect(frame)
    steps = min(model.schema.window_steps, frame.n_times)
    course, around = expected[-steps:], usual[-steps:]
    recent = course[-model.schema.recent_steps :]
    scatter = np.sqrt((around**2).mean(axis=0))
    reach = np.sqrt(2.0 * np.log(max(2, steps)))
    quartiles = np.quantile(course, [0.25, 0.75], axis=0)
    result = np.zeros((len(frame.metrics), len(STATISTICS)))
    raw = {
        "mean": course.mean(axis=0),
        "median": np.median(course, axis=0),
        "standard_deviation": np.hypot(course.std(axis=0), scatter),
        "rate_of_change": (course[-1] - course[0]) / max(1, (steps - 1) * frame.step_s),
        "inter_quartile_range": np.hypot(quartiles[1] - quartiles[0], _IQR_OF_NORMAL * scatter),
        "minimum": course.min(axis=0) - reach * scatter,
        "maximum": course.max(axis=0) + reach * scatter,
        "data_availability": model.availability,
        "deviation_standard_deviation": 1.0,
        "deviation_inter_quartile_range": _IQR_OF_NORMAL,
        "deviation_minimum": -reach,
        "deviation_maximum": reach,
        "relation_standard_deviation": 1.0 / np.sqrt(np.maximum(model.baseline.precision, 1e-12)),
        "expected_mean": course.mean(axis=0),
        "expected_recent": recent.mean(axis=0),
        "gap_root_mean_square": scatter,
        "usual_distance": around[-1],
    }
    for name, value in raw.items():
        result[:, INDEX[name]] = value
    return result
