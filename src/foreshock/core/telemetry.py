"""Every metric that Foreshock shows about itself: the one list. Who does the work counts; the documentation is a test.

Names follow Prometheus' conventions: base units, `_total` on what only grows. No label takes more values than an
administrator or a manifest gave names: datasources, sinks, detectors, and the closed lists of reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One family as `/metrics` shows it; `help` is a sentence that the documentation repeats."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


CYCLES: Final = Metric("foreshock_cycles_total", "counter", "Windows judged.", ("datasource", "verdict"))
CYCLES_MISSED: Final = Metric(
    "foreshock_cycles_missed_total", "counter", "Windows that were due and never judged.", ("datasource",)
)
CYCLE_SECONDS: Final = Metric("foreshock_cycle_seconds", "histogram", "Duration of a cycle.", ("datasource",))
CYCLE_LAG: Final = Metric(
    "foreshock_cycle_lag_seconds", "gauge",
    "How long after its data was there the newest window waits or waited for its verdict.", ("datasource",),
)  # fmt: skip
QUERY_SECONDS: Final = Metric(
    "foreshock_query_seconds", "histogram", "Duration of a query, retries included.", ("datasource",)
)
NAMESPACE_QUERY_SECONDS: Final = Metric(
    "foreshock_namespace_query_seconds_total", "counter",
    "Query time that namespaces took of their budgets, where a datasource tells them apart.",
    ("datasource", "namespace"),
)  # fmt: skip
QUERY_ERRORS: Final = Metric(
    "foreshock_query_errors_total", "counter", "Detectors that a cycle could not judge, by reason.",
    ("datasource", "reason"),
)  # fmt: skip
THROTTLE_ASKED: Final = Metric(
    "foreshock_throttle_asked_total", "counter", "Windows that the cheap check saw, forced ones aside."
)
THROTTLE_PASSED: Final = Metric(
    "foreshock_throttle_passed_total", "counter", "Of these, windows that the full model looked at."
)
SCORE: Final = Metric(
    "foreshock_score", "gauge", "Score of subjects that are or were anomalous.", ("detector", "group")
)
DETECTORS: Final = Metric("foreshock_detectors", "gauge", "Detectors that are judged.", ("datasource",))
TRAININGS_RUNNING: Final = Metric("foreshock_trainings_running", "gauge", "Trainings that go on right now.")
EXPECTED_FALSE: Final = Metric(
    "foreshock_expected_false_incidents_per_week", "gauge",
    "What all detectors of a datasource may raise wrongly in a week by their budgets, summed.", ("datasource",),
)  # fmt: skip
TRAINING_SECONDS: Final = Metric("foreshock_training_seconds", "histogram", "Duration of a training.")
CANDIDATES: Final = Metric(
    "foreshock_candidates_total", "counter", "Models that were trained, by what became of them.", ("outcome",)
)
PRECISION: Final = Metric(
    "foreshock_precision_ratio", "gauge", "Share of incidents with a verdict that people called true.", ("detector",)
)
WARM_UP: Final = Metric(
    "foreshock_warm_up_ratio", "gauge", "How much of its warm-up a detector has; none once it has learnt.",
    ("detector",),
)  # fmt: skip
WARM_UP_END: Final = Metric(
    "foreshock_warm_up_end_timestamp_seconds", "gauge", "When the warm-up of a detector should be over.", ("detector",)
)
DRIFT: Final = Metric(
    "foreshock_drift_ratio", "gauge", "The largest lasting move of a detector, over what its history explains.",
    ("detector",),
)  # fmt: skip
DRIFT_TRAININGS: Final = Metric(
    "foreshock_drift_trainings_total", "counter", "Trainings before they were due, because a service had moved."
)
MODEL_LOAD_FAILURES: Final = Metric(
    "foreshock_model_load_failures_total", "counter", "Models that could not be restored, by reason.", ("reason",)
)
DELIVERIES: Final = Metric(
    "foreshock_deliveries_total", "counter", "Attempts to deliver an event.", ("sink", "outcome")
)
SINK_ERRORS: Final = Metric(
    "foreshock_sink_errors_total", "counter", "Attempts to deliver an event that failed.", ("sink",)
)
OUTBOX_PENDING: Final = Metric("foreshock_outbox_pending", "gauge", "Events that a sink has not taken yet.", ("sink",))
OUTBOX_OLDEST: Final = Metric(
    "foreshock_outbox_oldest_seconds", "gauge", "Age of the oldest event that a sink has not taken yet.", ("sink",)
)
STORE_UNAVAILABLE: Final = Metric(
    "foreshock_store_unavailable_total", "counter", "Decisions that were not published: the database was away."
)
DROPPED: Final = Metric("foreshock_dropped_total", "counter", "What was left out on purpose, by reason.", ("reason",))
LEADER: Final = Metric("foreshock_leader", "gauge", "1 where this process leads, else 0.")
STATUS_WRITES: Final = Metric(
    "foreshock_status_writes_total", "counter", "Writes to the Kubernetes API, by kind and outcome.",
    ("kind", "outcome"),
)  # fmt: skip
WATCH_RELISTS: Final = Metric(
    "foreshock_watch_relists_total", "counter", "Complete lists that were asked for, by kind and reason.",
    ("kind", "reason"),
)  # fmt: skip
WATCH_OBJECTS: Final = Metric("foreshock_watch_objects", "gauge", "Objects known from the API server.", ("kind",))
WATCH_EVENTS: Final = Metric(
    "foreshock_watch_events_total", "counter", "Changes that the API server reported.", ("kind",)
)

EXTRACTOR_FALLBACKS: Final = Metric(
    "foreshock_extractor_fallbacks_total", "counter",
    "Cycles in which the engine extracted by itself although an extractor is configured.", ("datasource",),
)  # fmt: skip
EXTRACTOR_UP: Final = Metric(
    "foreshock_extractor_up", "gauge", "1 where the last cycle used the configured extractor, else 0.", ("datasource",)
)

METRICS: Final = (
    CYCLES, CYCLES_MISSED, CYCLE_SECONDS, CYCLE_LAG, QUERY_SECONDS, QUERY_ERRORS, THROTTLE_ASKED, THROTTLE_PASSED,
    SCORE, DETECTORS, EXPECTED_FALSE, TRAININGS_RUNNING, TRAINING_SECONDS, MODEL_LOAD_FAILURES, DELIVERIES,
    SINK_ERRORS, OUTBOX_PENDING, OUTBOX_OLDEST, STORE_UNAVAILABLE, DROPPED, LEADER, STATUS_WRITES, WATCH_RELISTS,
    WATCH_OBJECTS, WATCH_EVENTS, EXTRACTOR_FALLBACKS, EXTRACTOR_UP, CANDIDATES, PRECISION, WARM_UP, WARM_UP_END,
    NAMESPACE_QUERY_SECONDS, DRIFT, DRIFT_TRAININGS,
)  # fmt: skip

# Those of `foreshock extractor`, a process of its own
EXTRACTOR_REQUESTS: Final = Metric(
    "foreshock_extractor_requests_total", "counter", "Requests by how they ended.", ("outcome",)
)
EXTRACTOR_SECONDS: Final = Metric("foreshock_extractor_request_seconds", "histogram", "Duration of a request.")
EXTRACTOR_IN_FLIGHT: Final = Metric(
    "foreshock_extractor_requests_in_flight", "gauge", "Requests that are being worked on."
)
EXTRACTOR_DETECTORS: Final = Metric(
    "foreshock_extractor_detectors_total", "counter", "Detectors that were asked for.", ("datasource",)
)
EXTRACTOR_MODEL_BYTES: Final = Metric("foreshock_extractor_model_bytes", "gauge", "Models in memory.")
EXTRACTOR_MODEL_READS: Final = Metric(
    "foreshock_extractor_model_reads_total", "counter", "Models that were read from the artifact store."
)

EXTRACTOR_METRICS: Final = (
    EXTRACTOR_REQUESTS, EXTRACTOR_SECONDS, EXTRACTOR_IN_FLIGHT, EXTRACTOR_DETECTORS, EXTRACTOR_MODEL_BYTES,
    EXTRACTOR_MODEL_READS,
)  # fmt: skip
