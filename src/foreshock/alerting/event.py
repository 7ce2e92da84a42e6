"""The event that leaves Foreshock: one CloudEvent a transition, bounded in size, with its evidence. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import Field

from foreshock.alerting.bundle import MAX_FEATURES, Bundle, FeatureName
from foreshock.alerting.bundle import Part as _Part
from foreshock.alerting.state import Kind, Transition
from foreshock.core.clock import rfc3339
from foreshock.core.verdicts import Contribution

EVENT_TYPE: Final = "com.devopsroles.anomaly.v1"
# With four bytes a character the largest event stays below 1 MB, the default limit of a Kafka message.
MAX_CONTRIBUTIONS = 20
MAX_QUERIES = 20
MAX_SENTENCES = 20
MAX_LABELS = 32
MAX_NAME_CHARS = 256
MAX_LABEL_CHARS = 512
MAX_SENTENCE_CHARS = 512
MAX_SUMMARY_CHARS = 1_024
MAX_QUERY_CHARS = 4_096
MAX_QUERIES_CHARS = 32_768  # of all queries together
MAX_FEATURE_CHARS = 128
_RESERVED_LABELS = ("alertname", "namespace", "detector", "service", "severity")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model judged: its line, its revision (`v2.1.0-r3`) and the sha256 of its manifest."""

    version: str
    revision: str
    digest: str


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """The PromQL of one metric with the range that was read, so that anyone can run it again."""

    metric: str
    query: str
    start_s: float
    end_s: float
    step_s: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an event rests on, as plain values that diagnosis hands over; `features` largest contributor first."""

    threshold: float = 1.0
    features: Mapping[str, float | None] = field(
        default_factory=dict
    )  # `metric.statistic` to value; None was not measured
    model: ModelIdentity | None = None  # None while a rule without a model judges
    training_window: tuple[float, float] | None = None  # UTC seconds, both included
    queries: tuple[RangeQuery, ...] = ()
    summary: str = ""  # the narrative's one sentence
    relations: tuple[str, ...] = ()  # broken pairs: "latency no longer follows queue depth"
    changes: tuple[str, ...] = ()  # what changed in the cluster
    bundle: Bundle | None = None  # None where nobody judged: a detector that was deleted
    neighbours: tuple[str, ...] = ()  # detectors that are anomalous at the same time, the likely origin first
    likely_origin: str = ""  # namespace/name of the detector where it began most likely, itself or a neighbour


Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
Sentences = Annotated[list[Annotated[str, Field(max_length=MAX_SENTENCE_CHARS)]], Field(max_length=MAX_SENTENCES)]
Labels = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_NAME_CHARS)],
        Annotated[str, Field(max_length=MAX_LABEL_CHARS)],
    ],
    Field(max_length=MAX_LABELS),
]


class ContributionPart(_Part):
    """How much one metric had to do with the score; the shares of one judgement add up to 1."""

    metric: Name
    share: float


Contributions = Annotated[list[ContributionPart], Field(max_length=MAX_CONTRIBUTIONS)]


class ModelPart(_Part):
    """The model that judged."""

    version: Name
    revision: Name
    digest: Name


class SpanPart(_Part):
    """A span of time, both ends included, in RFC 3339."""

    start: str
    end: str


class QueryPart(_Part):
    """A range query as Prometheus takes it; `step` in seconds."""

    metric: Name
    query: str = Field(max_length=MAX_QUERY_CHARS)
    start: str
    end: str
    step: int


class PeakPart(_Part):
    """The worst judgement of the incident so far."""

    at: str
    score: float
    contributions: Contributions


class AnomalyData(_Part):
    """What happened, to whom, how bad, and why we think so."""

    status: Literal["firing", "resolved", "expired"]
    reason: Literal["adapted", "detector_deleted", "suspended"] | None = Field(
        description="Who ended the incident where it was not the service."
    )
    cause: str = Field(description="Score, Absent or OutOfRange: of the worst judgement.")
    incident: str = Field(pattern="^[0-9a-f]{32}$", description="Equal for all events of one incident.")
    incident_group: str = Field(
        pattern="^[0-9a-f]{32}$",
        description="Equal for incidents that belong together, and for all events of each: the incident that fired "
        "first of them. To group by; no label of Alertmanager, which takes another label for another alert.",
    )
    detector: str = Field(description="namespace/name")
    service: str
    severity: str
    group: Labels = Field(description="The labels of `group_by`, empty where the detector has one group.")
    labels: Labels = Field(description="As Alertmanager gets them: they never change while the incident lives.")
    interval: int = Field(description="Seconds between two judgements.")
    started_at: str = Field(description="End of the first anomalous window.")
    ended_at: str | None
    score: float = Field(description="1.0 is the threshold; higher is more anomalous.")
    threshold: float
    contributions: Contributions = Field(description="Of the last anomalous judgement, largest first.")
    peak: PeakPart
    maintenance: Annotated[str, Field(max_length=MAX_SENTENCE_CHARS)] | None = Field(
        description="The reason of the maintenance in which the incident began."
    )
    summary: str = Field(max_length=MAX_SUMMARY_CHARS)
    features: dict[FeatureName, float | None] = Field(
        max_length=MAX_FEATURES, description="`metric.statistic` to value."
    )
    model: ModelPart | None
    training_window: SpanPart | None
    queries: list[QueryPart] = Field(max_length=MAX_QUERIES)
    relations: Sentences
    changes: Sentences
    neighbours: Sentences
    evidence: Bundle | None = Field(default=None, description="What the judgement rested on; `foreshock explain`.")
    likely_origin: Name | None = Field(
        description="namespace/name of the detector where it began most likely, as far as was known then."
    )


class AnomalyEvent(_Part):
    """One transition of one incident, as a CloudEvent 1.0 in structured JSON."""

    specversion: Literal["1.0"]
    id: str = Field(min_length=1, description="incident/transition/sequence: drop what you have seen.")
    source: str = Field(min_length=1, description="/foreshock/<cluster>")
    type: Literal["com.devopsroles.anomaly.v1"]
    subject: str = Field(min_length=1, description="namespace/name of the detector")
    time: str
    datacontenttype: Literal["application/json"]
    data: AnomalyData


def cloud_event(
    transition: Transition,
    evidence: Evidence,
    *,
    cluster: str,
    service: str,
    external_labels: Mapping[str, str] | None = None,
    interval_s: int = 60,
) -> dict[str, Any]:
    """Write one transition as a CloudEvent of plain JSON values, below 1 MB whatever the evidence holds.

    A name or sentence that is too long is cut and ends in `…`; what is too many is left out from the end.
    """
    ended = transition.kind is not Kind.FIRING
    group = _labels(transition.subject.group)
    return AnomalyEvent(
        specversion="1.0",
        type=EVENT_TYPE,
        datacontenttype="application/json",
        id=transition.event_id,
        source=f"/foreshock/{quote(cluster, safe='')}",
        subject=transition.subject.detector,
        time=rfc3339(transition.at_s),
        data=AnomalyData(
            status=transition.kind.value,
            reason=transition.reason.value if transition.reason else None,
            cause=transition.peak.cause.value,
            incident=transition.incident_id,
            incident_group=transition.group_id or transition.incident_id,
            detector=transition.subject.detector,
            service=_cut(service, MAX_LABEL_CHARS),
            severity=transition.severity,
            group=group,
            labels=alert_labels(transition, service=service, external_labels=external_labels),
            interval=interval_s,
            started_at=rfc3339(transition.started_at_s),
            ended_at=rfc3339(transition.at_s) if ended else None,
            score=transition.score,
            threshold=evidence.threshold,
            contributions=_contributions(transition.contributions),
            peak=PeakPart(
                at=rfc3339(transition.peak.at_s),
                score=transition.peak.score,
                contributions=_contributions(transition.peak.contributions),
            ),
            maintenance=None if transition.maintenance is None else _cut(transition.maintenance, MAX_SENTENCE_CHARS),
            summary=_cut(evidence.summary, MAX_SUMMARY_CHARS),
            features=_features(evidence.features),
            model=_model(evidence.model),
            training_window=_span(evidence.training_window),
            queries=_queries(evidence.queries[:MAX_QUERIES]),
            relations=_sentences(evidence.relations),
            changes=_sentences(evidence.changes),
            neighbours=_sentences(evidence.neighbours),
            evidence=evidence.bundle,
            likely_origin=_cut(evidence.likely_origin, MAX_NAME_CHARS) or None,
        ),
    ).model_dump(mode="json")


def alert_labels(
    transition: Transition, *, service: str, external_labels: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The labels of Alertmanager: nothing in them changes while the incident lives.

    A group label that bears the name of one of ours is written `exported_<name>`, as Prometheus does; external labels
    override nothing.
    """
    own = {
        "alertname": "Anomaly",
        "namespace": transition.subject.namespace,
        "detector": transition.subject.name,
        "service": service,
        "severity": transition.severity,
    }
    group = {f"exported_{name}" if name in own else name: value for name, value in transition.subject.group}
    return _labels(
        ({**own, **group} | {k: v for k, v in (external_labels or {}).items() if k not in {**own, **group}}).items()
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every event of `cloud_event` satisfies."""
    schema = AnomalyEvent.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _contributions(contributions: Iterable[Contribution]) -> list[ContributionPart]:
    largest = sorted(contributions, key=lambda one: -one.share)[:MAX_CONTRIBUTIONS]
    return [ContributionPart(metric=_cut(one.metric, MAX_NAME_CHARS), share=one.share) for one in largest]


def _features(features: Mapping[str, float | None]) -> dict[str, float | None]:
    first = list(features.items())[:MAX_FEATURES]
    return {
        _cut(name, MAX_FEATURE_CHARS): float(value) if value is not None and math.isfinite(value) else None
        for name, value in first
    }


def _model(model: ModelIdentity | None) -> ModelPart | None:
    if model is None:
        return None
    version, revision = _cut(model.version, MAX_NAME_CHARS), _cut(model.revision, MAX_NAME_CHARS)
    return ModelPart(version=version, revision=revision, digest=model.digest)


def _span(window: tuple[float, float] | None) -> SpanPart | None:
    return None if window is None else SpanPart(start=rfc3339(window[0]), end=rfc3339(window[1]))


def _queries(queries: Sequence[RangeQuery]) -> list[QueryPart]:
    most = min(MAX_QUERY_CHARS, MAX_QUERIES_CHARS // max(1, len(queries)))
    return [_query(query, most) for query in queries]


def _query(query: RangeQuery, most_chars: int) -> QueryPart:
    return QueryPart(
        metric=_cut(query.metric, MAX_NAME_CHARS),
        query=_cut(query.query, most_chars),
        start=rfc3339(query.start_s),
        end=rfc3339(query.end_s),
        step=query.step_s,
    )


def _sentences(sentences: Iterable[str]) -> list[str]:
    return [_cut(sentence, MAX_SENTENCE_CHARS) for sentence in list(sentences)[:MAX_SENTENCES]]


def _labels(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {_cut(name, MAX_NAME_CHARS): _cut(value, MAX_LABEL_CHARS) for name, value in list(pairs)[:MAX_LABELS]}


def _cut(text: str, limit: int) -> str:
    """The text itself where it fits; a lone surrogate, which no UTF-8 can carry, becomes `?`."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
