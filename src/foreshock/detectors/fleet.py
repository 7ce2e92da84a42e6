"""Models of many services that are shaped alike, in one block: one compiled pass describes and scores them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.ensemble import Ensemble
from foreshock.detectors.model import Model, Screen
from foreshock.detectors.rules import Rules
from foreshock.features import kernels
from foreshock.features.calendar import civil_seconds
from foreshock.features.schema import STATISTICS, Schema

_BASELINE_ARRAYS = (
    "level",
    "known",
    "slope",
    "daily",
    "weekly",
    "scale",
    "daily_scale",
    "weekly_scale",
    "knots",
    "response",
    "explained_by",
)


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Row i of every array is member i; the metrics' names differ, their number, the step and the window do not."""

    schema: Schema
    anchors_s: NDArray[np.int64]  # (n_members,)
    time_zones: tuple[str, ...]
    baselines: dict[str, Array]
    loads: NDArray[np.int64]
    ensemble: Ensemble
    screen: Screen
    screen_quantiles: Array  # (n_members, n_shares)
    availability: Array  # (n_members, n_metrics)
    rules: Rules

    @classmethod
    def of(cls, models: Sequence[Model], rules: Sequence[Rules]) -> Fleet:
        """Copy the models into a block; they stay usable one by one."""
        first = models[0]
        baselines = {
            name: np.ascontiguousarray(np.stack([getattr(model.baseline, name) for model in models]))
            for name in _BASELINE_ARRAYS
        }
        return cls(
            schema=first.schema,
            anchors_s=np.array([model.baseline.anchor_s for model in models], dtype=np.int64),
            time_zones=tuple(model.baseline.time_zone for model in models),
            baselines=baselines,
            loads=first.baseline.loads,
            ensemble=Ensemble.stack(tuple(model.ensemble for model in models)),
            screen=Screen.stack(tuple(model.screen for model in models)),
            screen_quantiles=np.stack([model.screen_quantiles for model in models]),
            availability=np.stack([model.availability for model in models]),
            rules=Rules.stack(rules),
        )

    def __len__(self) -> int:
        return len(self.anchors_s)

    def vectors(self, values: Array, ends_s: NDArray[np.int64], members: NDArray[np.int64]) -> tuple[Array, Array]:
        """Describe the last window of some members: vectors (n, n_metrics, n_statistics) and gaps (n, n_metrics).

        `values` (n, n_context, n_metrics) end at `ends_s` (n,). Equal to `Model.vectors` bit for bit.
        """
        n, n_context, n_metrics = values.shape
        phases = [(int(end_s), self.time_zones[member]) for end_s, member in zip(ends_s, members, strict=True)]
        number = {phase: k for k, phase in enumerate(dict.fromkeys(phases))}
        back_s = np.arange(n_context - 1, -1, -1, dtype=np.int64) * self.schema.step_s
        calendars = np.array([civil_seconds(end_s - back_s, zone) for end_s, zone in number])
        out, gaps = np.empty((n, n_metrics, len(STATISTICS))), np.empty((n, n_metrics))
        everyone = len(members) == len(self) and bool((members == np.arange(len(self))).all())
        chosen = self.baselines if everyone else {name: array[members] for name, array in self.baselines.items()}
        describe_fleet: Any = kernels.describe_fleet  # the order of the baselines' arrays is _BASELINE_ARRAYS'
        describe_fleet(
            values,
            calendars,
            np.array([number[phase] for phase in phases]),
            (ends_s - self.anchors_s[members]).astype(np.float64),
            *(chosen[name] for name in _BASELINE_ARRAYS[:8]),
            self.loads,
            *(chosen[name] for name in _BASELINE_ARRAYS[8:]),
            self.schema.step_s,
            self.schema.window_steps,
            self.schema.recent_steps,
            self.schema.long_steps,
            out,
            gaps,
        )
        return out, gaps
