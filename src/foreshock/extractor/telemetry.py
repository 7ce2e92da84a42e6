"""Counts what `core/telemetry.py` declares for an extractor; one registry a process, so that tests own theirs."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from foreshock.core import telemetry
from foreshock.extractor.models import ModelCache

_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Telemetry:
    """Every family of the list; what the models say of themselves is read when the page is."""

    def __init__(self, models: ModelCache) -> None:
        self._models, self._reads = models, 0
        self._registry = CollectorRegistry()
        self._families: dict[telemetry.Metric, Any] = {
            metric: _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=self._registry)
            for metric in telemetry.EXTRACTOR_METRICS
        }

    def taken(self, n_in_flight: int) -> None:
        """Show how many requests are being worked on."""
        self._families[telemetry.EXTRACTOR_IN_FLIGHT].set(n_in_flight)

    def asked(self, datasource: str, n_detectors: int) -> None:
        """Count the detectors of one request."""
        self._families[telemetry.EXTRACTOR_DETECTORS].labels(datasource).inc(n_detectors)

    def ended(self, outcome: str, duration_s: float) -> None:
        """Count one request."""
        self._families[telemetry.EXTRACTOR_REQUESTS].labels(outcome).inc()
        self._families[telemetry.EXTRACTOR_SECONDS].observe(duration_s)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        self._families[telemetry.EXTRACTOR_MODEL_BYTES].set(self._models.size_bytes)
        reads = self._models.reads
        self._families[telemetry.EXTRACTOR_MODEL_READS].inc(reads - self._reads)
        self._reads = reads
        return generate_latest(self._registry)
