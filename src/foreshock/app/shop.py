"""The shop of the demo: three weeks of its metrics, a flash sale, and the drift that no static rule sees.

Pure: instants and the seed are arguments, so the same arguments give the same samples in every process. The history
that is backfilled and what `shop_exporter` serves afterwards are cut from one and the same series.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP_S = 60
DAY_S = 86_400
HISTORY_DAYS = 21
SEED = 7
DRIFT_MILLISECONDS = 200.0
ERROR_RATIO_AT_WORST = 0.02  # what the failing gateway reaches: below half of what the team's rule waits for
INSTANCE = "shop-0:8080"  # backfilled and scraped samples carry the same labels, so that they form one series


@dataclass(frozen=True, slots=True)
class Story:
    """What happens on the replayed day; `day_start_s` is midnight UTC, three weeks of history lie before it."""

    day_start_s: int

    @classmethod
    def before(cls, now_s: float) -> Story:
        """The last day whose story is told completely before `now_s`: it ends at 20:00 UTC, with the alert resolved."""
        return cls(int((now_s - 20 * 3600) // DAY_S) * DAY_S)

    @property
    def history_start_s(self) -> int:
        return self.day_start_s - HISTORY_DAYS * DAY_S

    @property
    def sale_s(self) -> tuple[int, int]:
        """The flash sale, 10:00 to 11:30, doubles the traffic and hurts nobody."""
        return self.day_start_s + 10 * 3600, self.day_start_s + 11 * 3600 + 1800

    @property
    def drift_s(self) -> tuple[int, int]:
        """The three hours, 15:00 to 18:00, over which the pool wait grows by 200 ms."""
        return self.day_start_s + 15 * 3600, self.day_start_s + 18 * 3600

    @property
    def repaired_s(self) -> int:
        """18:30: somebody restarts the gateway's client, and all is as before within five minutes."""
        return self.drift_s[1] + 1800

    @property
    def counter_reset_s(self) -> int:
        """A deployment of payment-api in the second week: its counter begins at zero again."""
        return self.day_start_s - 12 * DAY_S + 10 * 3600 + 47 * 60


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series: `values` (n_times,) in the unit that `name` says, at `times_s` (n_times,), UTC seconds."""

    name: str
    kind: str  # gauge or counter
    help: str
    labels: tuple[tuple[str, str], ...]
    times_s: NDArray[np.int64]
    values: Array


@dataclass(frozen=True, slots=True)
class StaticRule:
    """One of the team's alerting rules: it fires when `expression` has been true for `for_s` seconds."""

    alert: str
    expression: str
    for_s: int


STATIC_RULES = (
    StaticRule("CheckoutSlow", 'shop_http_request_latency_seconds{job="checkout"} > 1', 300),
    StaticRule("CheckoutFailing", 'shop_http_error_ratio{job="checkout"} > 0.05', 300),
    StaticRule("ConnectionPoolSlow", 'shop_database_connection_pool_wait_milliseconds{job="checkout"} > 500', 300),
    StaticRule("CacheCold", 'shop_cache_hit_ratio{job="checkout"} < 0.8', 600),
    StaticRule("NoTraffic", 'shop_http_requests_per_second{job="checkout"} == 0', 300),
)
# Nobody's rule: it shows that the replayed rules do fire where their expression becomes true.
CONTROL_RULE = StaticRule("Control", 'shop_database_connection_pool_wait_milliseconds{job="checkout"} > 150', 300)


def rules_yaml() -> str:
    """The team's static rules and the control rule, as a rule file of Prometheus."""
    rules = [
        {"alert": rule.alert, "expr": rule.expression, "for": f"{rule.for_s // 60}m"}
        for rule in (*STATIC_RULES, CONTROL_RULE)
    ]
    return yaml.safe_dump({"groups": [{"name": "shop", "interval": "1m", "rules": rules}]}, sort_keys=False, width=120)


def shop_series(story: Story, start_s: int, end_s: int, *, seed: int = SEED) -> tuple[Series, ...]:
    """All six series from `start_s` to `end_s`, both included; a longer range holds the shorter one's samples exactly.

    Raises:
        ValueError: `start_s` lies before the story's history, or behind `end_s`.

    """
    if not story.history_start_s <= start_s <= end_s:
        raise ValueError(f"the shop opened at {story.history_start_s}; {start_s} to {end_s} is no part of its history")
    times_s = np.arange(story.history_start_s, end_s + 1, STEP_S, dtype=np.int64)
    first = int(np.searchsorted(times_s, start_s))
    checkout = (("instance", INSTANCE), ("job", "checkout"))
    gauges = _checkout(story, times_s, seed)
    return (
        *(
            Series(name, "gauge", text, checkout, times_s[first:], values[first:])
            for (name, text), values in zip(_GAUGES, gauges, strict=True)
        ),
        Series(
            "http_requests_total",
            "counter",
            "Requests that payment-api has answered.",
            (("instance", "payment-api-0:8080"), ("job", "payment-api")),
            times_s[first:],
            _payment_requests(story, times_s, seed)[first:],
        ),
    )


_GAUGES = (
    ("shop_http_requests_per_second", "Requests that the checkout answers."),
    ("shop_http_request_latency_seconds", "Mean time to answer one request."),
    ("shop_http_error_ratio", "Share of the answers that are 5xx."),
    ("shop_database_connection_pool_wait_milliseconds", "Mean wait for a connection to the database."),
    ("shop_cache_hit_ratio", "Share of the lookups that the cache answers."),
)


def _checkout(story: Story, times_s: NDArray[np.int64], seed: int) -> tuple[Array, ...]:
    noise = _Noise(seed, times_s.size)
    fault = _fault_level(story, times_s)
    requests = 620.0 * _rhythm(times_s) * (1.0 + _burst(times_s, *story.sale_s))
    requests *= 1.0 + 0.02 * noise("requests", 0.85) + 0.01 * noise("requests, white", 0.0)
    excess_milliseconds = DRIFT_MILLISECONDS * fault
    pool_wait = 40.0 + 0.001 * requests + 2.5 * noise("pool wait", 0.7) + excess_milliseconds
    # One request in ten opens a transaction; the others never wait for a connection.
    latency = 0.14 + 0.00002 * requests + 0.005 * noise("latency", 0.7) + 0.1e-3 * excess_milliseconds
    errors = 0.002 * np.exp(0.2 * noise("errors", 0.6)) + ERROR_RATIO_AT_WORST * _gateway_failures(story, times_s)
    hits = 0.94 + 0.004 * noise("cache", 0.8)
    return requests, latency, np.clip(errors, 0.0, None), pool_wait, np.clip(hits, 0.0, 1.0)


def _payment_requests(story: Story, times_s: NDArray[np.int64], seed: int) -> Array:
    noise = _Noise(seed, times_s.size)
    per_second = 180.0 * _rhythm(times_s) * (1.0 + 0.03 * noise("payments", 0.8))
    counter = np.floor(np.cumsum(per_second * STEP_S))
    reset = int(np.searchsorted(times_s, story.counter_reset_s))
    if reset < counter.size:
        counter[reset:] -= counter[reset - 1]
    return counter


class _Noise:
    """Unit noise of a name, autocorrelated from sample to sample; it depends on nothing else that is generated."""

    _MEMORY = 64  # 0.85 ** 64 is 3e-5

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size = seed, size

    def __call__(self, name: str, autocorrelation: float) -> Array:
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        shocks = generator.standard_normal(self._size + self._MEMORY - 1)
        kernel = np.sqrt(1.0 - autocorrelation**2) * autocorrelation ** np.arange(self._MEMORY)
        return np.convolve(shocks, kernel, mode="valid")


def _rhythm(times_s: NDArray[np.int64]) -> Array:
    """The traffic relative to its mean: lowest at four in the morning, a lunch hump, less at weekends."""
    hour = (times_s % DAY_S) / 3600.0
    daily = 1.0 - 0.42 * np.cos(2 * np.pi * (hour - 4.0) / 24.0) + 0.08 * np.cos(4 * np.pi * (hour - 12.5) / 24.0)
    day_of_week = (times_s / DAY_S + 3.0) % 7.0  # 1970-01-01 was a Thursday; 0 is Monday's midnight
    noons = np.arange(-1, 8) + 0.5
    factors = np.array([0.84, 1.02, 1.0, 1.0, 1.03, 1.08, 0.9, 0.84, 1.02])  # Sunday, Monday to Sunday, Monday
    weekly: Array = np.interp(day_of_week, noons, factors)
    return daily * weekly


def _burst(times_s: NDArray[np.int64], start_s: int, end_s: int) -> Array:
    """From 0 to 1 within ten minutes of `start_s`, back within the last fifteen before `end_s`."""
    return np.interp(times_s, [start_s, start_s + 600, end_s - 900, end_s], [0.0, 1.0, 1.0, 0.0])


def _fault_level(story: Story, times_s: NDArray[np.int64]) -> Array:
    (start_s, end_s), repaired_s = story.drift_s, story.repaired_s
    return np.interp(times_s, [start_s, end_s, repaired_s, repaired_s + 300], [0.0, 1.0, 1.0, 0.0])


def _gateway_failures(story: Story, times_s: NDArray[np.int64]) -> Array:
    """Two minutes in every eleven the gateway fails, first hardly, in the end at its worst."""
    minutes = (times_s - story.drift_s[0]) // 60
    failing = (minutes % 11 >= 9) & (minutes >= 0)
    share = np.where(minutes % 11 == 9, 0.9, 0.6)
    return np.where(failing, share * _fault_level(story, times_s), 0.0)


def openmetrics_lines(series: tuple[Series, ...]) -> Iterator[str]:
    """The text of an OpenMetrics file, a chunk a series: families with their type first, seconds, `# EOF` last.

    NaN is left out: not measured is no sample.
    """
    for one in series:
        family = one.name.removesuffix("_total") if one.kind == "counter" else one.name
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels)
        head = f"{one.name}{{{labels}}} " if labels else f"{one.name} "
        measured = ~np.isnan(one.values)
        pairs = zip(one.values[measured].tolist(), one.times_s[measured].tolist(), strict=True)
        lines = [f"{head}{value} {time_s}\n" for value, time_s in pairs]
        yield f"# HELP {family} {one.help}\n# TYPE {family} {one.kind}\n" + "".join(lines)
    yield "# EOF\n"


def write_openmetrics(path: Path, story: Story, start_s: int, end_s: int, *, seed: int = SEED) -> int:
    """Write `shop_series` for `promtool tsdb create-blocks-from openmetrics`; returns the number of samples."""
    series = shop_series(story, start_s, end_s, seed=seed)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(openmetrics_lines(series))
    return sum(one.values.size for one in series)
