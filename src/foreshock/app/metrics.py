"""Counts what `core/telemetry.py` declares, in a registry of its own, for the Prometheus that watches the watcher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from foreshock.alerting.outbox import Outcome
from foreshock.core import telemetry
from foreshock.engine.cycle import Summary
from foreshock.store.records import Backlog

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """Every family of the list; one registry a process, so that tests own theirs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.has_judged = False
        self._families: dict[telemetry.Metric, Any] = {
            metric: _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry)
            for metric in telemetry.METRICS
        }
        self._sinks: set[str] = set()

    def count(self, metric: telemetry.Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        self._of(metric, labels).inc(by)

    def show(self, metric: telemetry.Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._of(metric, labels).set(value)

    def observe(self, metric: telemetry.Metric, value: float, *labels: str) -> None:
        """Add to a histogram."""
        self._of(metric, labels).observe(value)

    @contextlib.contextmanager
    def timed(self, metric: telemetry.Metric, *labels: str) -> Iterator[None]:
        """Add the duration of the block to a histogram, however it ends."""
        with self._of(metric, labels).time():
            yield

    @contextlib.contextmanager
    def running(self, metric: telemetry.Metric, *labels: str) -> Iterator[None]:
        """Show the block in a gauge for as long as it runs."""
        with self._of(metric, labels).track_inprogress():
            yield

    def cycle(self, datasource: str, summary: Summary, duration_s: float) -> None:
        """Count one cycle."""
        self.has_judged = True
        for verdict, number in summary.verdicts.items():
            self.count(telemetry.CYCLES, datasource, verdict, by=number)
        self.count(telemetry.CYCLES_MISSED, datasource, by=summary.missed)
        self.observe(telemetry.CYCLE_SECONDS, duration_s, datasource)
        self.count(telemetry.THROTTLE_ASKED, by=summary.asked)
        self.count(telemetry.THROTTLE_PASSED, by=summary.let_through)
        for failure in summary.failures.values():
            self.count(telemetry.QUERY_ERRORS, datasource, failure.reason.value)
        for subject, score in summary.scores.items():
            group = ",".join(f"{name}={value}" for name, value in subject.group)
            self.show(telemetry.SCORE, score, subject.detector, group)

    def forget(self, subjects: Iterable[tuple[str, str]]) -> None:
        """Show the scores of these (detector, group) no more."""
        for labels in subjects:
            family = self._families[telemetry.SCORE]
            if labels in family._metrics:  # noqa: SLF001 - `remove` has no way to ask, and raises
                family.remove(*labels)

    def forget_detector(self, detector: str, *metrics: telemetry.Metric) -> None:
        """Show nothing more of a detector in these gauges, or in all that carry its name alone."""
        for metric in metrics or (telemetry.PRECISION, telemetry.WARM_UP, telemetry.WARM_UP_END, telemetry.DRIFT):
            family = self._families[metric]
            if (detector,) in family._metrics:  # noqa: SLF001 - `remove` has no way to ask, and raises
                family.remove(detector)

    def charge(self, datasource: str, namespace: str, took_s: float) -> None:
        """Add what a request of a namespace took."""
        self.count(telemetry.NAMESPACE_QUERY_SECONDS, datasource, namespace, by=took_s)

    def delivery(self, sink: str, outcome: str) -> None:
        """Count one attempt."""
        self.count(telemetry.DELIVERIES, sink, outcome)
        if outcome != "delivered":
            self.count(telemetry.SINK_ERRORS, sink)
        if outcome in {"rejected", "given_up"}:
            self.count(telemetry.DROPPED, f"event_{outcome}")

    def sink_removed(self, sink: str, n_events: int) -> None:
        """Count what waited for a sink that is configured no more."""
        self.count(telemetry.DELIVERIES, sink, Outcome.SINK_REMOVED.value, by=n_events)
        self.count(telemetry.DROPPED, f"event_{Outcome.SINK_REMOVED}", by=n_events)

    def backlog(self, backlog: Iterable[Backlog], now_s: float) -> None:
        """Show what the sinks have not taken; a sink that took all of it is shown as 0."""
        waiting = {one.sink: one for one in backlog}
        self._sinks |= set(waiting)
        for sink in self._sinks:
            one = waiting.get(sink)
            self.show(telemetry.OUTBOX_PENDING, one.rows if one else 0, sink)
            self.show(telemetry.OUTBOX_OLDEST, max(0.0, now_s - one.oldest_s) if one else 0.0, sink)

    def _of(self, metric: telemetry.Metric, labels: tuple[str, ...]) -> Any:
        family = self._families[metric]
        return family.labels(*labels) if metric.labels else family
