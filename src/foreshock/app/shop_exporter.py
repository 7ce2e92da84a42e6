"""The live shop of the demo: an exporter on loopback that goes on where the backfilled history ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
import yaml
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from foreshock.app.shop import DRIFT_MILLISECONDS, ERROR_RATIO_AT_WORST, SEED, STEP_S, Series, Story, shop_series

_AHEAD_S = 6 * 3600

# What a fault of level 1.0 adds to a metric: the end of the drift of the story.
_FAULT = {
    "shop_database_connection_pool_wait_milliseconds": DRIFT_MILLISECONDS,
    "shop_http_request_latency_seconds": 0.1e-3 * DRIFT_MILLISECONDS,
    "shop_http_error_ratio": ERROR_RATIO_AT_WORST / 2,
}


class ShopExporter:
    """Serves the shop's series at their values of `now_s()`, those of the history to the last digit at fault level 0.

    A gauge holds its value for the minute, the counter grows within it. `fault_level` may change at any time: 0 is a
    healthy shop, 1 the end of the drift. `retries` are requests beyond the story's, counted so far; it may only grow.
    """

    def __init__(self, story: Story, now_s: Callable[[], float], *, seed: int = SEED) -> None:
        self.fault_level = 0.0
        self.retries = 0.0
        self._collector = _LiveShop(self, story, now_s, seed)
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._server, self._thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    @property
    def address(self) -> str:
        """`host:port`, as a scrape configuration wants it."""
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scrape_config_yaml(address: str, *, interval_s: int = 5) -> str:
    """A Prometheus configuration's `scrape_configs`, under which the scraped series are the backfilled ones."""
    job = {
        "job_name": "shop",
        "honor_labels": True,  # job and instance are those of the history, not the exporter's
        "scrape_interval": f"{interval_s}s",
        "static_configs": [{"targets": [address]}],
    }
    return yaml.safe_dump({"scrape_configs": [job]}, sort_keys=False)


class _LiveShop(Collector):
    def __init__(self, exporter: ShopExporter, story: Story, now_s: Callable[[], float], seed: int) -> None:
        self._exporter, self._story, self._now_s, self._seed = exporter, story, now_s, seed
        self._series: tuple[Series, ...] = ()

    def describe(self) -> Iterator[Metric]:
        return iter(())  # nothing to compare with: the registry is ours alone

    def collect(self) -> Iterator[Metric]:
        now_s = self._now_s()
        for one in self._around(now_s):
            yield self._family(one, now_s)

    def _around(self, now_s: float) -> tuple[Series, ...]:
        """The series with `now_s` in them; generated for hours ahead, so that a scrape is a look-up."""
        series = self._series
        if not series or not series[0].times_s[0] <= now_s < series[0].times_s[-1]:
            start_s = int(now_s) // STEP_S * STEP_S
            series = self._series = shop_series(self._story, start_s, start_s + _AHEAD_S, seed=self._seed)
        return series

    def _family(self, one: Series, now_s: float) -> Metric:
        names, values = [name for name, _ in one.labels], [value for _, value in one.labels]
        if one.kind == "counter":
            counter = CounterMetricFamily(one.name, one.help, labels=names)
            count = float(np.floor(np.interp(now_s, one.times_s, one.values)))
            counter.add_metric(values, count + self._exporter.retries)
            return counter
        row = int((now_s - one.times_s[0]) // STEP_S)
        gauge = GaugeMetricFamily(one.name, one.help, labels=names)
        gauge.add_metric(values, float(one.values[row]) + self._exporter.fault_level * _FAULT.get(one.name, 0.0))
        return gauge
