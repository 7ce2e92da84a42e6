"""`Anomaly`: one incident as a resource. It is a view, the database is the truth, and old ones expire.

People write one field, `spec.verdict`; it feeds training and the detector's measured precision.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foreshock.manifests.conditions import MAX_MESSAGE_CHARS, StatusModel
from foreshock.manifests.detector import Metadata, Model, Severity
from foreshock.manifests.fields import InstantS, LabelName, MetricName, ObjectName, Reason, ServiceName
from foreshock.manifests.model import Span

KIND = "Anomaly"
MAX_CONTRIBUTIONS = 10  # of a status: all of them are in the database
MAX_SENTENCES = 12
_MAX_LABEL_CHARS = 1_024
_MAX_SENTENCE_CHARS = 512

Verdict = Literal["true_positive", "false_positive", "expected_change"]
State = Literal["firing", "resolved", "expired"]
EndedBy = Literal["adapted", "detector_deleted", "suspended"]


Sentences = Annotated[
    tuple[Annotated[str, Field(max_length=_MAX_SENTENCE_CHARS)], ...], Field(max_length=MAX_SENTENCES)
]


class AnomalySpec(Model):
    """Which incident this is, and what people make of it."""

    detector: ObjectName = Field(description="The AnomalyDetector that found it, in the same namespace.")
    incident: Annotated[str, Field(min_length=32, max_length=32, pattern="^[0-9a-f]{32}$")] = Field(
        description="Its identity in every event: `foreshock explain` takes it."
    )
    verdict: Verdict | None = Field(
        default=None,
        description="What you say it was: true_positive (worth the alert), false_positive (it was not), or "
        "expected_change (real, and wanted). It feeds training and the threshold.",
    )
    note: Reason = Field(default="", description="Why you say so; it is kept with the verdict.")


class GroupLabel(StatusModel):
    """One label of the group that was anomalous."""

    name: LabelName = Field(description="Name of the label.")
    value: Annotated[str, Field(max_length=_MAX_LABEL_CHARS)] = Field(description="Its value.")


class MetricShare(StatusModel):
    """How much one metric had to do with it."""

    metric: MetricName = Field(description="Name of the metric in the manifest.")
    share: Annotated[float, Field(ge=0, le=1)] = Field(description="Its share of the score, 0 to 1.")


class ModelReference(StatusModel):
    """The revision that judged."""

    revision: Annotated[str, Field(max_length=80)] = Field(description="Such as v2.1.0-r3.")
    sha256: Annotated[str, Field(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")] = Field(
        description="The digest of its artifact."
    )


class AnomalyStatus(StatusModel):
    """What is known about the incident."""

    state: State | None = Field(
        default=None, description="firing, resolved, or expired after a day without a conclusive judgement."
    )
    ended_by: EndedBy | None = Field(default=None, description="Who ended it where it was not the service.")
    started_at: InstantS | None = Field(default=None, description="End of the first anomalous window, RFC 3339.")
    ended_at: InstantS | None = Field(default=None, description="When it ended, RFC 3339.")
    service: ServiceName | None = Field(default=None, description="target_service of the detector.")
    severity: Severity | None = Field(default=None, description="alert_severity of the detector when it fired.")
    peak_score: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="The largest score; 1.0 is the threshold that spends the false-alarm budget."
    )
    group: Annotated[tuple[GroupLabel, ...], Field(max_length=10)] = Field(
        default=(), description="Labels of the group, where the detector has group_by."
    )
    contributions: Annotated[tuple[MetricShare, ...], Field(max_length=MAX_CONTRIBUTIONS)] = Field(
        default=(), description="The metrics that moved, largest share first."
    )
    summary: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)] = Field(
        default="", description="The diagnosis in two sentences."
    )
    model: ModelReference | None = Field(default=None, description="The revision that judged.")
    training_window: Span | None = Field(default=None, description="The history that the revision learnt from.")
    changes: Sentences = Field(
        default=(), description="What changed in the cluster before and since it began, newest first."
    )
    neighbours: Sentences = Field(default=(), description="Who else was anomalous then, the likely origin first.")
    likely_origin: Annotated[str, Field(max_length=_MAX_SENTENCE_CHARS)] | None = Field(
        default=None, description="The detector where it began most likely, as namespace/name."
    )
    incident_group: Annotated[str, Field(min_length=32, max_length=32, pattern="^[0-9a-f]{32}$")] | None = Field(
        default=None, description="Equal for incidents that belong together: the one that fired first of them."
    )


class Anomaly(Model):
    """One incident: when, how bad, and why."""

    api_version: Literal["devopsroles.com/v1"] = Field(alias="apiVersion")
    kind: Literal["Anomaly"]
    metadata: Metadata
    spec: AnomalySpec
    status: AnomalyStatus | None = None


def anomaly_name(detector: str, incident_id: str) -> str:
    """The name of the resource: the detector's and the first ten digits of the incident's, cut to 253.

    >>> anomaly_name("payment-service-monitor", "0123456789abcdef0123456789abcdef")
    'payment-service-monitor-0123456789'
    """
    return f"{detector[:242].rstrip('.-')}-{incident_id[:10]}"
