"""What an event carries so that an engineer starts from a diagnosis: vector, model, queries, two sentences. Pure.

And the input of the judgement itself, so that `engine.rebuild` can judge again what was judged here.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import numpy as np

from foreshock.alerting import bundle
from foreshock.alerting.bundle import MAX_FEATURES, Bundle
from foreshock.alerting.event import MAX_FEATURE_CHARS, Evidence, ModelIdentity
from foreshock.alerting.event import RangeQuery as QueryEvidence
from foreshock.alerting.state import Transition
from foreshock.core.frame import Array, Frame
from foreshock.core.verdicts import Cause, Contribution
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.diagnosis.expected import expected_vector
from foreshock.diagnosis.narrative import Observation, observe, sentence
from foreshock.diagnosis.quantities import unit_of
from foreshock.diagnosis.relations import Broken, broken_pairs
from foreshock.engine.cohort import Revision
from foreshock.engine.facts import availability_of, gap_steps, without_thin_metrics
from foreshock.engine.watch import Watch
from foreshock.features.schema import STATISTICS

BAND = 3.0  # usual distances on either side of the expected value: the band that people see
RULES = ("direction", "min_deviation", "min_relative_deviation", "is_load", "valid_low", "valid_high")
TAIL = "generalised Pareto of hourly maxima"
_BLAMED = 3  # metrics whose broken relations are looked for, and whose course is told
_LONGEST_QUERY_IN_A_LINK = 1_500


def evidence_of(watch: Watch, row: int, vector: Array, transition: Transition) -> Evidence:
    """The evidence of one transition, from the vector (n_metrics, n_statistics) and the ring of its subject."""
    cohort = watch.cohort
    model, revision = cohort.models[row], cohort.revisions[row]
    end_s, step_s = int(cohort.ends_s[row]), watch.schema.step_s
    start_s = end_s - (watch.schema.context_steps - 1) * step_s
    names = tuple(metric.name for metric in watch.metrics)
    frame = Frame(start_s, step_s, names, cohort.ring[row])
    queries = tuple(QueryEvidence(metric.name, metric.query, start_s, end_s, step_s) for metric in watch.metrics)
    blamed = tuple(each.metric for each in transition.contributions[:_BLAMED])
    found = Evidence(
        features=_features(names, vector, transition),
        model=ModelIdentity(revision.version, revision.name, revision.digest) if revision else None,
        training_window=(revision.trained_from_s, revision.trained_to_s) if revision else None,
        queries=queries,
    )
    if model is None or revision is None:
        return replace(found, summary=_without_model(watch.rules, frame, transition.contributions))
    broken = broken_pairs(model, frame, blamed)
    made = bundle_of(model, watch.rules, frame, vector, transition.contributions, broken)
    training = bundle.TrainingFacts(rows_used=revision.rows_used or 0, rows_excluded=dict(revision.rows_excluded))
    calibration = made.calibration and made.calibration.model_copy(
        update={"false_alarm_budget": str(watch.spec.false_alarm_budget)}
    )
    links = {"explain": f"foreshock explain {transition.incident_id}", **_graph(watch.graph_url, queries, blamed)}
    return replace(
        found,
        summary=_lent(revision, story(model, frame, transition.contributions, transition.peak.cause, broken)),
        relations=tuple(str(each) for each in broken),
        bundle=made.model_copy(update={"training": training, "calibration": calibration, "links": links}),
    )


def bundle_of(
    model: Model,
    rules: Rules,
    frame: Frame,
    vector: Array,
    contributions: tuple[Contribution, ...],
    broken: tuple[Broken, ...] = (),
) -> Bundle:
    """All that the judgement of the end of `frame` rested on.

    The samples go along where they give this very vector, and the vector alone where another process described it.
    """
    names = frame.metrics
    blamed = {each.metric: -each.share for each in contributions}
    order = sorted(range(len(names)), key=lambda k: blamed.get(names[k], 0.0))
    judged = without_thin_metrics(vector[None])
    expected = expected_vector(model, frame)
    anomalous = bool(contributions) and bool(np.isfinite(vector).any())
    shares = model.ensemble.by_feature(judged, rules)[0] if anomalous else np.zeros_like(vector)
    largest = np.argsort(-shares, axis=None, kind="stable")[: bundle.MAX_FEATURE_SHARES]
    channel_scores = model.ensemble.channel_scores(judged, rules)[:, 0]
    available = availability_of(vector)
    return Bundle(
        units={_cut(names[k]): unit for k in order[: bundle.MAX_METRICS] if (unit := unit_of(names[k]))},
        data_availability={_cut(names[k]): float(available[k]) for k in order[: bundle.MAX_METRICS]},
        expected=_named(names, expected, order),
        feature_contributions=[
            bundle.FeatureShare(feature=_feature(names, int(place)), share=float(shares.flat[place]))
            for place in largest
            if shares.flat[place] > 0.0
        ],
        broken_pairs=[
            bundle.BrokenPair(metric=_cut(one.metric), other=_cut(one.other), before=one.before, now=one.now)
            for one in broken[: bundle.MAX_PAIRS]
        ],
        training=None,
        calibration=bundle.CalibrationFacts(
            false_alarm_budget="",
            tail=TAIL,
            channels=[
                bundle.ChannelFacts(
                    channel=channel.name, score=float(score), middle=float(calibration.middle),
                    threshold=float(calibration.threshold),
                )
                for channel, calibration, score in zip(
                    model.ensemble.channels, model.ensemble.calibrations, channel_scores, strict=True
                )
            ],
        ),
        links={},
        replay=_replay(model, rules, frame, vector),
    )  # fmt: skip


def _replay(model: Model, rules: Rules, frame: Frame, vector: Array) -> bundle.ReplayFacts | None:
    again = model.vectors(frame, frame.n_times - 1)[0]
    own = np.array_equal(again, vector, equal_nan=True)
    samples = bundle.pack(frame.values.astype(np.float32)) if own else None
    gaps = gap_steps(frame.values)[-1] if own else np.zeros(len(frame.metrics))
    packed_gaps = bundle.pack(gaps)
    packed_rules = bundle.pack(np.stack([np.asarray(getattr(rules, name), np.float64) for name in RULES], axis=-1))
    if packed_gaps is None or packed_rules is None:
        return None
    return bundle.ReplayFacts(
        end_s=frame.end_s, step_s=frame.step_s, window_s=model.schema.window_s,
        samples=samples, vector=bundle.pack(vector), gaps=packed_gaps, rules=packed_rules,
    )  # fmt: skip


def story(
    model: Model,
    frame: Frame,
    contributions: tuple[Contribution, ...],
    cause: Cause,
    broken: tuple[Broken, ...] | None = None,
) -> str:
    """Two sentences about the end of a frame, as an engineer would say them; empty where nobody contributed."""
    if not contributions:
        return ""
    expected, usual = model.baseline.expect(frame)
    told = contributions[:_BLAMED]
    if broken is None:
        broken = broken_pairs(model, frame, [each.metric for each in told])
    partners = {each.metric: each.other for each in reversed(broken)}
    return sentence(
        [_observation(frame, each, expected, usual, partners.get(each.metric)) for each in told],
        cause,
        len(frame.metrics),
    )


def _lent(revision: Revision, said: str) -> str:
    """The story, and whose model told it where that is another group's."""
    if revision.sibling is None:
        return said
    sibling = ",".join(value for _, value in revision.sibling)
    return f"{said} The model is that of {sibling}, until this group has its own.".lstrip()


def _without_model(rules: Rules, frame: Frame, contributions: tuple[Contribution, ...]) -> str:
    """What left its valid range while there is no model; what a vanished metric was like nobody knows."""
    outside = [each for each in contributions[:_BLAMED] if each.share > 0.0]
    if not outside:
        return ""
    said = []
    for each in outside:
        k = frame.metrics.index(each.metric)
        low, high = (np.full(frame.n_times, limit[k]) for limit in (rules.valid_low, rules.valid_high))
        times_s, unknown = frame.times_s.astype(np.float64), np.full(frame.n_times, np.nan)
        said.append(
            observe(each.metric, each.share, times_s, frame.values[:, k], expected=unknown, lower=low, upper=high)
        )
    return f"{sentence(said, Cause.OUT_OF_RANGE)} Nothing is learnt of it yet: its range alone says so."


def _observation(frame: Frame, each: Contribution, expected: Array, usual: Array, partner: str | None) -> Observation:
    k = frame.metrics.index(each.metric)
    reach = BAND * usual[:, k]
    return observe(
        each.metric, each.share, frame.times_s.astype(np.float64), frame.values[:, k],
        expected=expected[:, k], lower=expected[:, k] - reach, upper=expected[:, k] + reach, partner=partner,
    )  # fmt: skip


def _graph(base: str, queries: tuple[QueryEvidence, ...], blamed: tuple[str, ...]) -> dict[str, str]:
    """A link to the expression browser with the query of the metric that leads, over the range that was read."""
    lead = next((each for each in queries if blamed and each.metric == blamed[0]), queries[0] if queries else None)
    if not base or lead is None or len(lead.query) > _LONGEST_QUERY_IN_A_LINK:
        return {}
    fields = {
        "g0.expr": lead.query, "g0.tab": "0", "g0.range_input": f"{int(lead.end_s - lead.start_s)}s",
        "g0.end_input": _minute(lead.end_s),
    }  # fmt: skip
    link = f"{base.rstrip('/')}/graph?{urlencode(fields)}"
    return {"graph": link} if len(link) <= bundle.MAX_LINK_CHARS else {}


def _minute(instant_s: float) -> str:
    return str(np.datetime64(int(instant_s), "s")).replace("T", " ")


def _features(names: tuple[str, ...], vector: Array, transition: Transition) -> dict[str, float | None]:
    """`metric.statistic` to value, the largest contributors first, as many as an event may hold."""
    blamed = {each.metric: -each.share for each in transition.contributions}
    return _named(names, vector, sorted(range(len(names)), key=lambda k: blamed.get(names[k], 0.0)))


def _named(names: tuple[str, ...], vector: Array, order: list[int]) -> dict[str, float | None]:
    pairs = [
        (f"{names[k]}.{statistic}"[:MAX_FEATURE_CHARS], vector[k, s])
        for k in order
        for s, statistic in enumerate(STATISTICS)
    ]
    return {name: float(value) if np.isfinite(value) else None for name, value in pairs[:MAX_FEATURES]}


def _feature(names: tuple[str, ...], place: int) -> str:
    return f"{names[place // len(STATISTICS)]}.{STATISTICS[place % len(STATISTICS)]}"[:MAX_FEATURE_CHARS]


def _cut(name: str) -> str:
    return name[:256]
