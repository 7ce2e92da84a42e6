"""What an event carries so that an engineer starts from a diagnosis: vector, model, queries, two sentences. Pure."""

from __future__ import annotations

import numpy as np

from foreshock.alerting.event import MAX_FEATURES, Evidence, ModelIdentity
from foreshock.alerting.event import RangeQuery as QueryEvidence
from foreshock.alerting.state import Transition
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Cause, Contribution
from foreshock.detectors.model import Model
from foreshock.diagnosis.narrative import Observation, observe, sentence
from foreshock.engine.watch import Watch
from foreshock.features.schema import STATISTICS

BAND = 3.0  # usual distances on either side of the expected value: the band that people see


def evidence_of(watch: Watch, row: int, vector: Array, transition: Transition) -> Evidence:
    """The evidence of one transition, from the vector (n_metrics, n_statistics) and the ring of its subject."""
    cohort = watch.cohort
    model, revision = cohort.models[row], cohort.revisions[row]
    end_s, step_s = int(cohort.ends_s[row]), watch.schema.step_s
    start_s = end_s - (watch.schema.context_steps - 1) * step_s
    names = tuple(metric.name for metric in watch.metrics)
    frame = Frame(start_s, step_s, names, cohort.ring[row])
    return Evidence(
        features=_features(names, vector, transition),
        model=ModelIdentity(revision.version, revision.name, revision.digest) if revision else None,
        training_window=(revision.trained_from_s, revision.trained_to_s) if revision else None,
        queries=tuple(QueryEvidence(metric.name, metric.query, start_s, end_s, step_s) for metric in watch.metrics),
        summary=story(model, frame, transition.contributions, transition.peak.cause) if model else "",
    )


def story(model: Model, frame: Frame, contributions: tuple[Contribution, ...], cause: Cause) -> str:
    """Two sentences about the end of a frame, as an engineer would say them; empty where nobody contributed."""
    if not contributions:
        return ""
    expected, usual = model.baseline.expect(frame)
    return sentence([_observation(frame, each, expected, usual) for each in contributions[:3]], cause)


def _observation(frame: Frame, each: Contribution, expected: Array, usual: Array) -> Observation:
    k = frame.metrics.index(each.metric)
    reach = BAND * usual[:, k]
    return observe(
        each.metric, each.share, frame.times_s.astype(np.float64), frame.values[:, k],
        expected=expected[:, k], lower=expected[:, k] - reach, upper=expected[:, k] + reach,
    )  # fmt: skip


def _features(names: tuple[str, ...], vector: Array, transition: Transition) -> dict[str, float | None]:
    """`metric.statistic` to value, the largest contributors first, as many as an event may hold."""
    blamed = {each.metric: -each.share for each in transition.contributions}
    order = sorted(range(len(names)), key=lambda k: blamed.get(names[k], 0.0))
    pairs = [(f"{names[k]}.{statistic}", vector[k, s]) for k in order for s, statistic in enumerate(STATISTICS)]
    return {name: float(value) if np.isfinite(value) else None for name, value in pairs[:MAX_FEATURES]}
