"""What `decide` looks at, drawn from vectors and samples: scores, gaps, ranges. Pure, for a history as for a fleet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array, Frame
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine.decide import Facts
from foreshock.features.schema import HALF, INDEX

LEAST_SAMPLES = 3  # a lone sample is noise
_AVAILABILITY = INDEX["data_availability"]


def facts_of(model: Model, rules: Rules, vectors: Array, rows: Frame, first_row: int) -> Facts:
    """The facts of each window of one subject that ends at `first_row` or later."""
    judged = without_thin_metrics(vectors)
    return Facts(
        scores=model.ensemble.score(judged, rules),
        availability=availability_of(vectors),
        gap_steps=gap_steps(rows.values)[first_row:],
        out_of_range=rules.out_of_range(judged),
        usual_availability=model.availability,
        degraded=np.zeros(len(vectors), np.bool_),
        step_s=model.schema.step_s,
        window_s=model.schema.window_s,
    )


def outside_without_model(values: Array, rules: Rules, recent_steps: int) -> NDArray[np.bool_]:
    """Whether the newest samples of each metric left its valid range, (n, n_metrics): all that needs no model.

    `values`: (n, n_times, n_metrics). The mean of the last `recent_steps` decides, as it does beside a model; fewer
    than three samples there say nothing.
    """
    recent = values[:, -recent_steps:]
    count = np.isfinite(recent).sum(axis=1)
    mean = np.nansum(recent, axis=1) / np.maximum(1, count)
    return rules.outside(np.where(count >= LEAST_SAMPLES, mean, np.nan))


def availability_of(vectors: Array) -> Array:
    """The share of each window that was measured, (n, n_metrics)."""
    return np.nan_to_num(vectors[..., _AVAILABILITY])


def without_thin_metrics(vectors: Array) -> Array:
    """The vectors without the metrics of which less than half of the window was measured: they have no say."""
    thin = availability_of(vectors) < HALF
    return np.where(thin[..., None], np.nan, vectors) if thin.any() else vectors


def gap_steps(values: Array) -> Array:
    """Steps since the newest sample of each metric at each row, (n_times, n_metrics): 0 where there is one."""
    rows = np.arange(len(values))[:, None]
    newest = np.maximum.accumulate(np.where(np.isfinite(values), rows, -len(values) - 1), axis=0)
    return np.asarray((rows - newest).astype(np.float64))
