"""From answers to frames: which series belongs to which group, and what to say where that is not clear. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foreshock.core.errors import TooManySeries
from foreshock.core.frame import Array, Frame
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.responses import Matrix

Group = tuple[tuple[str, str], ...]


def group_of(detector: AnomalyDetector, labels: Mapping[str, str]) -> Group:
    """The group a series belongs to: its labels projected on `group_by`, a missing one being empty."""
    return tuple(sorted((name, labels.get(name, "")) for name in detector.spec.group_by))


def frames_of(detector: AnomalyDetector, matrices: Sequence[Matrix]) -> dict[Group, Frame]:
    """One frame a group, one matrix a metric, from the first row on which anything was measured.

    Raises:
        TooManySeries: a query returns several series for one group, or there are more groups than `max_groups`.

    """
    names = tuple(metric.name for metric in detector.spec.named_metrics)
    blocks: dict[Group, Array] = {}
    for column, matrix in enumerate(matrices):
        seen: dict[Group, int] = {}
        for series in range(matrix.n_series):
            group = group_of(detector, matrix.labels(series))
            if group in seen:
                raise TooManySeries(several(detector, column, matrix.labels(seen[group]), matrix.labels(series)))
            seen[group] = series
            values = blocks.setdefault(group, np.full((matrix.values.shape[1], len(names)), np.nan))
            values[:, column] = matrix.values[series]
    if len(blocks) > detector.spec.max_groups:
        raise TooManySeries(too_many(detector))
    frames = {}
    for group, values in blocks.items():
        rows = np.flatnonzero(np.isfinite(values).any(axis=1))
        if len(rows):
            start_s = matrices[0].start_s + int(rows[0]) * matrices[0].step_s
            frames[group] = Frame(start_s, matrices[0].step_s, names, values[rows[0] :])
    return frames


def most_series(detector: AnomalyDetector) -> int:
    """How many series the server may return to a query of this detector: more than it can use, so that it is noticed.

    Where groups are many, known ones must not be cut off by some new ones; four times `max_groups` is a bomb.
    """
    return 4 * detector.spec.max_groups if detector.spec.group_by else 2


def several(detector: AnomalyDetector, metric: int, one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The sentence about a query that returns more series than one is judged by."""
    spec = detector.spec
    said = " and ".join(
        "{" + ", ".join(f'{name}="{value}"' for name, value in sorted(each.items())[:6]) + "}" for each in (one, other)
    )
    fix = (
        "add the label that tells them apart to group_by" if spec.group_by else "set group_by, or aggregate with sum()"
    )
    name = spec.named_metrics[metric].name
    return (
        f"{detector.subject.detector}: the query of {name} returns several series for one group, such as {said}: {fix}."
    )


def too_many(detector: AnomalyDetector) -> str:
    """The sentence about more groups than the manifest allows."""
    return (
        f"{detector.subject.detector}: group_by finds more than max_groups={detector.spec.max_groups} groups: "
        "group by fewer labels, or raise max_groups."
    )
