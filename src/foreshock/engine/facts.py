"""What `decide` looks at, drawn from vectors and samples: scores, gaps, ranges. Pure, for a history as for a fleet."""

from __future__ import annotations

import numpy as np

from foreshock.core.frame import Array, Frame
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine.decide import HALF, Facts
from foreshock.features.schema import INDEX

_AVAILABILITY = INDEX["data_availability"]


def facts_of(model: Model, rules: Rules, vectors: Array, rows: Frame, first_row: int) -> Facts:
    """The facts of each window of one subject that ends at `first_row` or later."""
    gaps = gap_steps(rows.values)[first_row:]
    return facts(model, rules, vectors, gaps, model.availability)


def facts(model: Model, rules: Rules, vectors: Array, gaps: Array, usual_availability: Array) -> Facts:
    """The facts of n windows; a metric of which less than half of the window was measured has no part in the score."""
    availability = np.nan_to_num(vectors[..., _AVAILABILITY])
    judged = np.where((availability < HALF)[..., None], np.nan, vectors)
    return Facts(
        scores=model.ensemble.score(judged, rules),
        availability=availability,
        gap_steps=gaps,
        out_of_range=rules.out_of_range(judged),
        usual_availability=usual_availability,
        degraded=np.zeros(len(vectors), np.bool_),
        step_s=model.schema.step_s,
        window_s=model.schema.window_s,
    )


def gap_steps(values: Array) -> Array:
    """Steps since the newest sample of each metric at each row, (n_times, n_metrics): 0 where there is one."""
    rows = np.arange(len(values))[:, None]
    newest = np.maximum.accumulate(np.where(np.isfinite(values), rows, -len(values) - 1), axis=0)
    return np.asarray((rows - newest).astype(np.float64))
