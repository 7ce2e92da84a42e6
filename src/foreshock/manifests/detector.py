"""`AnomalyDetector`, the manifest that users write: one declaration gives parser, sentences and the CRD's schema.

Durations are held as whole seconds and instants as UTC seconds, under the name of their field; both are written back
as they were read.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import promql_parser
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

from foreshock.core.durations import format_duration
from foreshock.core.verdicts import Subject
from foreshock.manifests.fields import (
    Budget,
    ConfiguredName,
    CronSchedule,
    DurationS,
    FalseAlarmBudget,
    InstantS,
    LabelName,
    MetricName,
    ModelVersion,
    Namespace,
    ObjectName,
    Query,
    Reason,
    SeasonS,
    ServiceName,
    TimeZone,
    between,
    unique,
)
from foreshock.manifests.problems import refuse_all
from foreshock.manifests.rules import broken_rules

API_VERSION = "devopsroles.com/v1"
KIND = "AnomalyDetector"

Role = Literal["health", "load"]
Direction = Literal["up", "down", "both"]
Severity = Literal["critical", "warning", "info"]
Algorithm = Literal["ensemble", "isolation_forest", "correlation", "level", "forecast", "autoencoder"]
DriftDetection = Literal["enabled", "disabled"]

_Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]


class Model(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ValidRange(Model):
    """What a metric can be at all; a value outside is anomalous whatever a model says."""

    min: _Number | None = Field(
        default=None, description="Lowest possible value, in the metric's unit; absent means no limit."
    )
    max: _Number | None = Field(
        default=None, description="Highest possible value, in the metric's unit; absent means no limit."
    )


class Metric(Model):
    """One named series of the service."""

    name: MetricName = Field(description="What alerts and reports call this metric; unique in its detector.")
    query: Query = Field(description="PromQL that returns one series, or one for each group of group_by.")
    role: Role = Field(
        default="health",
        description="load is demand that the service does not control: it is never anomalous for being high, and the "
        "health metrics are judged given it.",
    )
    direction: Direction = Field(
        default="both",
        description="Which deviations count: up, down or both. A cache's hit ratio is only bad when it goes down.",
    )
    min_deviation: Annotated[_Number, Field(ge=0)] = Field(
        default=0.0, description="Smaller deviations never count, in the metric's unit: what nobody would get up for."
    )
    min_relative_deviation: Annotated[_Number, Field(ge=0, le=1000)] = Field(
        default=0.05, description="Smaller deviations never count, as a ratio of the expected value (0.05 is 5 %)."
    )
    valid_range: ValidRange | None = Field(
        default=None, description="A value outside is anomalous whatever a model says."
    )


class Throttle(Model):
    """The cheap check that decides whether the full model runs."""

    sigma: Annotated[_Number, Field(gt=0, le=100)] = Field(
        default=2.0,
        description="The full model runs when the window as a whole lies beyond this many standard deviations, "
        "two-sided: 2 lets 4.6 % of normal windows pass.",
    )
    force_every: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        default=5, description="The full model runs at least every so many intervals; 1 turns the check off."
    )


class Exclusion(Model):
    """A stretch of history that no model may learn from."""

    start: InstantS = Field(description="First instant left out, RFC 3339.")
    end: InstantS = Field(description="First instant used again, RFC 3339.")
    reason: Reason = Field(default="", description="What happened then; it is kept in the model's record.")


class Training(Model):
    """How models are learnt and renewed."""

    window: Annotated[DurationS, between("1h", "400d")] = Field(
        default=28 * 86_400,
        description="The history that may be used: as much as Prometheus holds of it, never less than warm_up.",
    )
    warm_up: Annotated[DurationS, between("10m", "400d")] = Field(
        default=7 * 86_400, description="The history that a first model needs; a weekly shape needs two weeks."
    )
    retrain_interval: Annotated[DurationS, between("1h", "30d")] = Field(
        default=86_400, description="How often a new revision is trained, so that slow change is followed."
    )
    persistence: Annotated[DurationS, between("1h", "7d")] = Field(
        default=43_200,
        description="An incident that lasts longer is how the service is now: it is learnt, and ends as adapted.",
    )
    shadow: Annotated[DurationS, between("0s", "7d")] = Field(
        default=3_600, description="How long a candidate is looked at beside the active model before it may judge."
    )
    drift_detection: DriftDetection = Field(
        default="enabled", description="Train early when the service has settled at another level for good."
    )
    exclude: Annotated[tuple[Exclusion, ...], Field(max_length=100)] = Field(
        default=(), description="Stretches of history that no model may learn from, such as an outage or a load test."
    )


class Maintenance(Model):
    """A recurring (`schedule` and `duration`) or single (`start` and `end`) maintenance."""

    schedule: CronSchedule | None = Field(
        default=None, description="Five cron fields in the detector's time_zone: when the maintenance begins."
    )
    duration: Annotated[DurationS, between("1m", "7d")] | None = Field(
        default=None, description="How long a scheduled maintenance lasts."
    )
    start: InstantS | None = Field(default=None, description="When a single maintenance begins, RFC 3339.")
    end: InstantS | None = Field(default=None, description="When a single maintenance is over, RFC 3339.")
    reason: Reason = Field(default="", description="Written into the alerts of that time instead of paging.")

    def spans(self, from_s: float, to_s: float, zone: ZoneInfo) -> tuple[tuple[float, float], ...]:
        """Begin and end, in UTC seconds, of each time that has a part after `from_s` and up to `to_s`, oldest first.

        The end is no longer part of it. A scheduled one lasts `duration` also where clocks are set meanwhile.
        """
        if self.schedule is not None and self.duration is not None:
            begins = self.schedule.begins(from_s - self.duration, to_s, zone)
            return tuple((begin_s, begin_s + self.duration) for begin_s in begins)
        if self.start is not None and self.end is not None and self.start <= to_s and self.end > from_s:
            return ((self.start, self.end),)
        return ()


class DetectorSpec(Model):
    """What to watch, how to judge it and whom to tell."""

    target_service: ServiceName = Field(description="The service whose health this is; every alert carries it.")
    prometheus_query: Query | None = Field(
        default=None, description="PromQL of the one metric to judge; exactly one of metrics and prometheus_query."
    )
    metrics: Annotated[tuple[Metric, ...], Field(max_length=100)] = Field(
        default=(),
        description="Named metrics judged jointly by one model; exactly one of metrics and prometheus_query.",
    )
    group_by: Annotated[tuple[LabelName, ...], Field(max_length=10), unique("label")] = Field(
        default=(), description="Labels that split the query's series into groups with a model of their own each."
    )
    max_groups: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        default=1000, description="More groups than this are refused, so that a new label cannot multiply the load."
    )
    algorithm: Algorithm = Field(
        default="ensemble",
        description=(
            "What judges. level: a metric leaves its expected level or begins to scatter. correlation: metrics stop "
            "moving together. isolation_forest: the shape of a window is rare. forecast: a metric does what its last "
            "hours did not foretell, for levels that wander. autoencoder: the numbers of a window do not fit together, "
            "for services with several ways to be normal. ensemble: the most alarmed of the first three, and from six "
            "metrics on also of what many metrics say at once."
        ),
    )
    model_version: ModelVersion = Field(
        default="v1", description="The line of models; v2.1.0-r3 pins revision 3 of the line v2.1.0."
    )
    detection_window: Annotated[DurationS, between("2s", "30d")] = Field(
        default=3600, description="The stretch that is judged each time; at least two steps and one interval."
    )
    interval: Annotated[DurationS, between("1m", "1d")] = Field(
        default=60, description="How often to judge; 1m is the floor that keeps Prometheus safe."
    )
    step: Annotated[DurationS, between("1s", "1d")] = Field(
        default=60, description="Resolution of the window; at most half of it."
    )
    query_offset: Annotated[DurationS, between("0s", "1d")] | None = Field(
        default=None, description="How late the data arrives; absent means what the datasource says (30s)."
    )
    throttle: Throttle = Field(default=Throttle(), description="The cheap check before the full model.")
    seasonality: Annotated[tuple[SeasonS, ...], Field(max_length=2), unique("period", format_duration)] | None = Field(
        default=None,
        description="Daily (1d) and weekly (7d) shape to remove; [] for none; absent means detected from history.",
    )
    time_zone: TimeZone = Field(
        default="UTC", description="Where the users live: seasons and schedules follow its civil time."
    )
    training: Training = Field(
        default=Training(), description="What models may learn from, and how often they are renewed."
    )
    false_alarm_budget: FalseAlarmBudget = Field(
        default=Budget(1, 7 * 86_400),
        description="How many false incidents are accepted of the whole detector, all groups together, such as 1/7d.",
    )
    pending_for: Annotated[DurationS, between("0s", "7d")] = Field(
        default=0, description="How long a window must stay anomalous before it alerts, as Prometheus' for."
    )
    keep_firing_for: Annotated[DurationS, between("0s", "7d")] = Field(
        default=600,
        description="How long an alert stays after the last anomalous window, as Prometheus' keep_firing_for.",
    )
    alert_severity: Severity = Field(default="warning", description="How urgent an alert of this detector is.")
    sinks: Annotated[tuple[ConfiguredName, ...], Field(max_length=10), unique("sink")] | None = Field(
        default=None,
        description="Names of the receivers that the administrator configured; absent means the default ones.",
    )
    datasource: ConfiguredName | None = Field(
        default=None,
        description="Name of the Prometheus that the administrator configured; absent means the default one.",
    )
    maintenance: Annotated[tuple[Maintenance, ...], Field(max_length=100)] = Field(
        default=(), description="When alerts are annotated instead of paging; these times stay out of training."
    )
    suspend: StrictBool = Field(
        default=False, description="Stop judging; what fires expires with the reason suspended."
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        refuse_all(broken_rules(self))
        return self

    @cached_property
    def named_metrics(self) -> tuple[Metric, ...]:
        """What is judged, under the names that people see: `metrics`, or the one that `prometheus_query` stands for.

        Its name is the name of the metric inside the query where there is exactly one, made valid; else `value`.
        """
        if self.prometheus_query is None:
            return self.metrics
        # already validated, as `prometheus_query`
        return (Metric.model_construct(name=_name_within(self.prometheus_query), query=self.prometheus_query),)

    @property
    def model_line(self) -> str:
        """`model_version` without the revision that it may pin."""
        return _revision_of(self.model_version)[0]

    @property
    def pinned_revision(self) -> int | None:
        """The revision that `model_version` pins, or None where the best validated one is meant."""
        return _revision_of(self.model_version)[1]

    def maintenance_spans(self, from_s: float, to_s: float) -> tuple[tuple[float, float, str], ...]:
        """Begin, end and reason of every maintenance with a part after `from_s` and up to `to_s`, in UTC seconds."""
        zone = ZoneInfo(self.time_zone)
        return tuple(
            (begin_s, end_s, entry.reason)
            for entry in self.maintenance
            for begin_s, end_s in entry.spans(from_s, to_s, zone)
        )

    def maintenance_in_window(self, at_s: float) -> str | None:
        """Why the window that ends at `at_s` is not to page: the reason of a maintenance that it saw; None without one.

        Not only while it goes on: what it did to the metrics is judged for as long as the window holds it.
        """
        if not self.maintenance:
            return None
        spans = self.maintenance_spans(at_s - self.detection_window, at_s)
        return next((reason or "maintenance" for _, _, reason in spans), None)


class Metadata(Model):
    """Kubernetes' ObjectMeta, with what kubectl and the API server add to it."""

    name: ObjectName = Field(description="The name of the detector, unique in its namespace.")
    namespace: Namespace = Field(default="default", description="The namespace of the detector.")
    labels: dict[str, str] = Field(default={}, description="As for any Kubernetes object.")
    annotations: dict[str, str] = Field(default={}, description="As for any Kubernetes object.")
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = Field(default=None, alias="resourceVersion")
    creation_timestamp: str | None = Field(default=None, alias="creationTimestamp")
    deletion_timestamp: str | None = Field(default=None, alias="deletionTimestamp")
    deletion_grace_period_seconds: int | None = Field(default=None, alias="deletionGracePeriodSeconds")
    generate_name: str | None = Field(default=None, alias="generateName")
    self_link: str | None = Field(default=None, alias="selfLink")
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[dict[str, Any], ...] = Field(default=(), alias="ownerReferences")
    managed_fields: tuple[dict[str, Any], ...] = Field(default=(), alias="managedFields")


class AnomalyDetector(Model):
    """One manifest: a service to watch. `status`, which only Foreshock writes, is allowed and not looked at."""

    api_version: Literal["devopsroles.com/v1"] = Field(alias="apiVersion")
    kind: Literal["AnomalyDetector"]
    metadata: Metadata
    spec: DetectorSpec
    status: dict[str, Any] | None = Field(default=None, repr=False)

    @property
    def subject(self) -> Subject:
        """Who is judged, without a group."""
        return Subject(self.metadata.namespace, self.metadata.name)


def fingerprint(spec: DetectorSpec) -> str:
    """The sha256, in hex, of what a trained model depends on: where it differs, the model is stale.

    Severity, sinks, throttle, maintenance to come, and what merely bounds or names things are not part of it.
    """
    written = spec.model_dump(mode="json", include=set(_TRAINED_ON))
    written["training"] = spec.training.model_dump(mode="json", include={"window", "exclude"})
    written["metrics"] = [metric.model_dump(mode="json") for metric in spec.named_metrics]
    canonical = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


# The budget, pending_for and interval belong to it because 1.0 is the threshold that spends the budget, counted in the
# incidents that people would see.
_TRAINED_ON = (
    "group_by",
    "algorithm",
    "detection_window",
    "interval",
    "step",
    "seasonality",
    "time_zone",
    "false_alarm_budget",
    "pending_for",
    "datasource",
)


def _revision_of(version: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)-r([0-9]{1,9})", version)
    return (match[1], int(match[2])) if match else (version, None)


def _name_within(query: str) -> str:
    names: set[str | None] = set()

    def visit(expression: promql_parser.Expr) -> None:
        if isinstance(expression, promql_parser.MatrixSelector):
            visit(expression.vector_selector)
        elif isinstance(expression, promql_parser.VectorSelector):
            names.add(_selected_name(expression))

    promql_parser.walk(promql_parser.parse(query), visit)
    only = names.pop() if len(names) == 1 else None
    if only is None:
        return "value"
    valid = re.sub(r"[^a-zA-Z0-9_]", "_", only)[:100]
    return valid if re.match(r"[a-zA-Z_]", valid) else f"_{valid}"[:100]


def _selected_name(selector: promql_parser.VectorSelector) -> str | None:
    if selector.name:
        return str(selector.name)
    exact = [
        matcher.value
        for matcher in selector.matchers.matchers
        if matcher.name == "__name__" and matcher.op == promql_parser.MatchOp.Equal
    ]
    return str(exact[0]) if len(exact) == 1 else None
