"""The conditions of an `AnomalyDetector` and their reasons: closed lists, the same words as in metrics, logs and docs.

`Ready` sums up `DataAvailable`, `ModelReady` and `SinksHealthy`, with the reason of the first that is not True;
`WarmedUp` and `Anomalous` stand beside it. Each is `Unknown` with the reason `Pending` at first sight.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from foreshock.core.verdicts import Cause, Ignorance
from foreshock.manifests.detector import Model
from foreshock.manifests.fields import InstantS

MAX_MESSAGE_CHARS = 1_024


class ConditionType(StrEnum):
    """What a person would ask about a detector."""

    READY = "Ready"
    DATA_AVAILABLE = "DataAvailable"
    MODEL_READY = "ModelReady"
    SINKS_HEALTHY = "SinksHealthy"
    WARMED_UP = "WarmedUp"
    ANOMALOUS = "Anomalous"


class ConditionStatus(StrEnum):
    """Kubernetes' three answers; ignorance is one of them."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Because(StrEnum):
    """Reasons that are no verdict's: what the operator itself knows."""

    PENDING = "Pending"
    ALL_WELL = "AllWell"
    INVALID_MANIFEST = "InvalidManifest"
    NOT_CONFIGURED = "NotConfigured"
    DATA_FLOWS = "DataFlows"
    EXTRACTOR_UNAVAILABLE = "ExtractorUnavailable"
    MODEL_ACTIVE = "ModelActive"
    DRIFTED = "Drifted"
    NO_SUCH_REVISION = "NoSuchRevision"
    TRAINING_FAILED = "TrainingFailed"
    DELIVERING = "Delivering"
    SINK_UNAVAILABLE = "SinkUnavailable"
    SINK_REJECTED = "SinkRejected"
    WARM_UP_COMPLETE = "WarmUpComplete"
    NORMAL = "Normal"
    PENDING_FOR = "PendingFor"
    STORE_UNAVAILABLE = "StoreUnavailable"


_DATA: dict[str, str] = {
    Ignorance.NO_DATA: "The query has never returned a sample.",
    Ignorance.STALE: "The newest samples are missing, and not yet for long enough to be an incident.",
    Ignorance.TOO_FEW_SAMPLES: "Less than half of the window was measured.",
    Ignorance.DATASOURCE_UNAVAILABLE: "Prometheus does not answer as it should; it is asked again.",
    Ignorance.QUERY_REJECTED: "Prometheus understood the query and refuses it; the message quotes its words.",
    Ignorance.TOO_MANY_SERIES: "The query returns several series where one is judged, or more groups than max_groups.",
    Ignorance.QUERY_BUDGET_SPENT: "The namespace has used its query time of each minute; the message says what helps.",
    Ignorance.PARTIAL_RESPONSE: "Prometheus itself warns that data is missing from its answer.",
}
_MODEL: dict[str, str] = {
    Ignorance.WARMING_UP: "There is not enough history for a model yet; WarmedUp says how far it is.",
    Ignorance.MODEL_UNUSABLE: "The artifact is damaged, missing, or was trained on other features.",
    Because.NO_SUCH_REVISION: "model_version pins a revision that does not exist.",
    Because.TRAINING_FAILED: "The last training failed; the message says why, and it is tried again.",
}
_SINKS: dict[str, str] = {
    Because.SINK_UNAVAILABLE: "A receiver has not taken an event for more than five minutes; it is sent again.",
    Because.SINK_REJECTED: "A receiver refuses an event for good; the message says which.",
}
_NOT_CONFIGURED: dict[str, str] = {
    Because.NOT_CONFIGURED: "The manifest names a datasource or a sink that the administrator did not configure.",
}
_PENDING: dict[str, str] = {Because.PENDING: "Foreshock has seen the detector and not looked at it yet."}
_SUSPENDED: dict[str, str] = {Ignorance.SUSPENDED: "spec.suspend is true: nothing is judged."}

REASONS: Mapping[ConditionType, Mapping[str, str]] = MappingProxyType(
    {
        ConditionType.READY: {
            **_PENDING,
            Because.ALL_WELL: "Data flows, a model judges it, and alerts are delivered.",
            Because.INVALID_MANIFEST: "The spec breaks a rule that the API server cannot check; see the message.",
            Because.STORE_UNAVAILABLE: "The database cannot be written; nothing is judged that could not be kept.",
            **_NOT_CONFIGURED,
            **_SUSPENDED,
            **_DATA,
            **_MODEL,
            **_SINKS,
        },
        ConditionType.DATA_AVAILABLE: {
            **_PENDING,
            Because.DATA_FLOWS: "The last windows were measured.",
            Because.EXTRACTOR_UNAVAILABLE: "Data flows; the feature extractor is away, so the operator extracts.",
            **_NOT_CONFIGURED,
            **_SUSPENDED,
            **_DATA,
        },
        ConditionType.MODEL_READY: {
            **_PENDING,
            Because.MODEL_ACTIVE: "The revision in status.activeModel judges.",
            Because.DRIFTED: "It judges, and its successor is learnt before it is due: the message says what moved.",
            **_SUSPENDED,
            **_MODEL,
        },
        ConditionType.SINKS_HEALTHY: {
            **_PENDING,
            Because.DELIVERING: "Every receiver takes what is sent.",
            **_NOT_CONFIGURED,
            **_SINKS,
        },
        ConditionType.WARMED_UP: {
            **_PENDING,
            Because.WARM_UP_COMPLETE: "95 % of training.warm_up, or of what Prometheus holds, was measured; "
            "alerts page from now on.",
            Ignorance.WARMING_UP: "The message says how much of training.warm_up there is, and when it should be over.",
            **_SUSPENDED,
        },
        ConditionType.ANOMALOUS: {
            **_PENDING,
            Because.NORMAL: "The last window lies inside the envelope.",
            Because.PENDING_FOR: "The window is anomalous, and not yet for as long as spec.pending_for.",
            Cause.SCORE: "The score reached the threshold that spends the false-alarm budget.",
            Cause.ABSENT: "A series that was always there is gone while its datasource answers.",
            Cause.OUT_OF_RANGE: "A value left the valid_range of the manifest.",
            **_SUSPENDED,
            **_DATA,
            Ignorance.WARMING_UP: _MODEL[Ignorance.WARMING_UP],
            Ignorance.MODEL_UNUSABLE: _MODEL[Ignorance.MODEL_UNUSABLE],
        },
    }
)
"""Every reason that a condition may have, with what it means to a person."""


class StatusModel(Model):
    """A part of a status: camelCase, as Kubernetes' tools expect; fields of a newer version are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Condition(StatusModel):
    """One answer, as `kubectl wait --for=condition=` and every dashboard read it."""

    type: ConditionType = Field(description="What is answered; Ready sums up the others.")
    status: ConditionStatus = Field(description="True, False, or Unknown where nobody can say.")
    reason: Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z][A-Za-z0-9]*$")] = Field(
        description="Why, in one word of a closed list that the documentation explains."
    )
    message: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)] = Field(
        default="", description="Why, in a sentence for people."
    )
    last_transition_time: InstantS = Field(description="When status last changed, RFC 3339.")
    observed_generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The metadata.generation of the spec that this was said about."
    )

    @model_validator(mode="after")
    def _known_reason(self) -> Self:
        if self.reason not in REASONS[self.type]:
            raise ValueError(f"{self.reason} is no reason of the condition {self.type}")
        return self


class DetectorStatus(StatusModel):
    """What Foreshock says about a detector; scores and ages are metrics, since they change every minute."""

    observed_generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The metadata.generation that Foreshock has acted on."
    )
    active_model: Annotated[str, Field(max_length=80)] | None = Field(
        default=None, description="The revision that judges, such as v2.1.0-r3; its AnomalyModel says how it was made."
    )
    groups: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="How many groups of group_by are judged; 1 without group_by."
    )
    firing: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="How many groups are anomalous and alerted about."
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=len(ConditionType))] = Field(
        default=(),
        description="One for each type: Ready, DataAvailable, ModelReady, SinksHealthy, WarmedUp, Anomalous.",
    )

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type, or None where nothing was said yet."""
        return next((each for each in self.conditions if each.type is kind), None)


Stage = Literal["Candidate", "Shadow", "Active", "Retired", "Rejected"]
"""Where a model stands: trained, judging beside the active one without alerting, judging, replaced, not good enough."""
