"""Foreshock's own metrics, for the Prometheus that watches the watcher; the one list of their names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from foreshock.engine.cycle import Summary


class Metrics:
    """Prefix `foreshock_`, base units; one registry a process, so that tests own theirs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.has_judged = False
        registry = self.registry
        self._cycles = Counter("foreshock_cycles", "Windows judged.", ["datasource", "verdict"], registry=registry)
        self._missed = Counter(
            "foreshock_cycles_missed", "Windows that were not judged.", ["datasource"], registry=registry
        )
        self._seconds = Histogram("foreshock_cycle_seconds", "Duration of a cycle.", ["datasource"], registry=registry)
        self._errors = Counter(
            "foreshock_query_errors", "Detectors without data.", ["datasource", "reason"], registry=registry
        )
        self._asked = Counter(
            "foreshock_throttle_asked", "Windows that the cheap check saw, forced ones aside.", registry=registry
        )
        self._passed = Counter(
            "foreshock_throttle_passed", "Of these, windows that the full model looked at.", registry=registry
        )
        self._score = Gauge(
            "foreshock_score", "Score of subjects that are or were anomalous.", ["detector", "group"], registry=registry
        )
        self._training = Histogram("foreshock_training_seconds", "Duration of a training.", registry=registry)
        self._deliveries = Counter(
            "foreshock_deliveries", "Attempts to deliver an event.", ["sink", "outcome"], registry=registry
        )
        self._store = Counter("foreshock_store_unavailable", "Cycles that could not be committed.", registry=registry)

    def cycle(self, datasource: str, summary: Summary, duration_s: float) -> None:
        """Count one cycle."""
        self.has_judged = True
        for verdict, count in summary.verdicts.items():
            self._cycles.labels(datasource, verdict).inc(count)
        self._missed.labels(datasource).inc(summary.missed)
        self._seconds.labels(datasource).observe(duration_s)
        self._asked.inc(summary.asked)
        self._passed.inc(summary.let_through)
        for failure in summary.failures.values():
            self._errors.labels(datasource, failure.reason.value).inc()
        for subject, score in summary.scores.items():
            group = ",".join(f"{name}={value}" for name, value in subject.group)
            self._score.labels(subject.detector, group).set(score)

    def training(self, duration_s: float) -> None:
        """Count one training."""
        self._training.observe(duration_s)

    def delivery(self, sink: str, outcome: str) -> None:
        """Count one attempt."""
        self._deliveries.labels(sink, outcome).inc()

    def store_unavailable(self) -> None:
        """Count one cycle that was thrown away because it could not be committed."""
        self._store.inc()
