"""`AnomalyModel`: the artifact of one trained revision as a resource, owned by its detector.

The spec says which revision it is and never changes; all facts are in the status, which only Foreshock may write: the
digest there is where the trust in a model begins.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from foreshock.manifests.conditions import MAX_MESSAGE_CHARS, Stage, StatusModel
from foreshock.manifests.detector import Algorithm, Metadata, Model
from foreshock.manifests.fields import FalseAlarmBudget, InstantS, ModelVersion, ObjectName, Reason

KIND = "AnomalyModel"

Validation = Literal["Passed", "Failed", "NotRun"]
_Digest = Annotated[str, Field(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")]
_Rows = Annotated[StrictInt, Field(ge=0)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class ModelSpec(Model):
    """Which revision this is."""

    detector: ObjectName = Field(description="The AnomalyDetector that it was trained for, in the same namespace.")
    version: ModelVersion = Field(description="The line of models, such as v2.1.0.")
    revision: Annotated[StrictInt, Field(ge=1, le=999_999_999)] = Field(
        description="The training within the line, from 1; model_version v2.1.0-r3 pins revision 3 of v2.1.0."
    )
    algorithm: Algorithm = Field(description="What was trained.")


class Span(StatusModel):
    """A stretch of time."""

    start: InstantS = Field(description="Its first instant, RFC 3339.")
    end: InstantS = Field(description="Its end, RFC 3339.")


class ExcludedRows(StatusModel):
    """Rows of the training window that taught nothing, for one reason."""

    reason: Reason = Field(description="Why: incident, maintenance, or the reason of training.exclude.")
    rows: _Rows = Field(description="How many.")


class Artifact(StatusModel):
    """Where the model lies and what proves it."""

    uri: Annotated[str, Field(max_length=2048)] = Field(description="Its address in the artifact store.")
    sha256: _Digest = Field(description="The digest of its manifest, checked before anything of it is read.")
    size_bytes: Annotated[StrictInt, Field(ge=0)] | None = Field(default=None, description="The size of its arrays.")


class Calibration(StatusModel):
    """How raw scores became 1.0 = the budget is spent."""

    false_alarm_budget: FalseAlarmBudget = Field(description="The budget that the threshold spends.")
    threshold: _Finite | None = Field(
        default=None,
        description="How far the threshold was stretched by verdicts: 1 is where the budget alone puts it, 0.9 to 1.5.",
    )
    held_out_incidents: _Rows | None = Field(
        default=None, description="How many incidents the replay of the held-out history had at that threshold."
    )


class ValidationResult(StatusModel):
    """Whether the revision was good enough to become active."""

    result: Validation = Field(description="Passed, Failed, or NotRun for a first model with nothing to compare to.")
    message: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)] = Field(
        default="", description="What was compared, and why it failed."
    )


class ModelStatus(StatusModel):
    """How the revision was made, and where it stands."""

    stage: Stage | None = Field(
        default=None, description="Candidate, Shadow, Active (it judges), Retired (replaced) or Rejected."
    )
    message: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)] = Field(
        default="", description="Why it is in that stage, in a sentence."
    )
    created_at: InstantS | None = Field(default=None, description="When training ended, RFC 3339.")
    feature_schema: _Digest | None = Field(
        default=None, description="Fingerprint of what it was trained on; where the detector's differs, it is stale."
    )
    training_window: Span | None = Field(default=None, description="The history that it learnt from.")
    rows_used: _Rows | None = Field(default=None, description="Rows of that history that taught, of all groups.")
    rows_excluded: Annotated[tuple[ExcludedRows, ...], Field(max_length=20)] = Field(
        default=(), description="Rows that were left out, by reason."
    )
    groups: Annotated[StrictInt, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="How many groups have a model in this artifact."
    )
    artifact: Artifact | None = Field(default=None, description="Where the model lies, with its digest.")
    calibration: Calibration | None = Field(default=None, description="How its threshold was found.")
    validation: ValidationResult | None = Field(default=None, description="Whether it was good enough.")


class AnomalyModel(Model):
    """One revision of a detector's line of models."""

    api_version: Literal["devopsroles.com/v1"] = Field(alias="apiVersion")
    kind: Literal["AnomalyModel"]
    metadata: Metadata
    spec: ModelSpec
    status: ModelStatus | None = None


def model_name(detector: str, version: str, revision: int) -> str:
    """The name of the resource: the detector's with `-v2.1.0-r3`, made a Kubernetes name and cut to 253.

    Versions that differ have names that differ: what Kubernetes does not allow in a name becomes a short digest.

    >>> model_name("payment-service-monitor", "v2.1.0", 3)
    'payment-service-monitor-v2.1.0-r3'
    >>> model_name("payment-service-monitor", "V2_1", 3)
    'payment-service-monitor-v2-1-d53c3c-r3'
    """
    line = re.sub(r"[.-]*\.[.-]*", ".", re.sub(r"[^a-z0-9.]", "-", version.lower()))
    if line != version:
        line = f"{line}-{hashlib.sha256(version.encode()).hexdigest()[:6]}"
    suffix = f"-{line}-r{revision}"
    return f"{detector[: 253 - len(suffix)].rstrip('.-')}{suffix}"
