"""Real Prometheus servers for tests: one with a shared history, and as many others as a test asks for."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from tests.servers.binaries import require

from foreshock.prometheus import local_server
from foreshock.prometheus.local_server import LocalPrometheus

HISTORY_START_S = 1_760_000_400  # a multiple of 600; retention is ten years
HISTORY_END_S = HISTORY_START_S + 7200
SCRAPE_S = 15

JOBS = ("api", "api.v2", "a+b|c", "checkout (eu)", 'quo"ted', "[x]{1}^$", "é-ü", "idle")
"""Values that a careless regular expression would confuse; `idle` has fewer metrics than the others."""

Samples = Sequence[tuple[float, float]]  # (UTC seconds, value), oldest first


def openmetrics(series: Mapping[str, Samples]) -> str:
    """The text that promtool reads; a key is a series as in PromQL, `x{job="a"}`, those of one metric in a row."""
    lines, metric = [], ""
    for key, samples in series.items():
        if (name := key.partition("{")[0]) != metric:
            metric = name
            lines.append(f"# TYPE {metric} gauge")
        lines += [f"{key} {_written(value)} {time_s}" for time_s, value in samples]
    return "\n".join([*lines, "# EOF", ""])


def _written(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(value) if math.isfinite(value) else ("+Inf" if value > 0 else "-Inf")


def shared_history() -> dict[str, list[tuple[float, float]]]:
    """Two hours of a small shop: counters with resets, gauges, a histogram, and a metric that knows no job."""
    chance = random.Random(7)
    busy, instances = JOBS[:-1], ("0", "1")
    keys = [f"requests_total{{{_labels(j, i, code=code)}}}" for j in busy for i in instances for code in ("200", "500")]
    keys += [f"latency_bucket{{{_labels(j, '0', le=le)}}}" for j in JOBS[:3] for le in ("0.1", "1", "+Inf")]
    history = {key: _counter(chance) for key in keys}
    keys = [f"pool_wait{{{_labels(j, i)}}}" for j in JOBS for i in instances]
    keys += [f"pool_size{{{_labels(j, i)}}}" for j in busy for i in instances]
    history |= {key: _gauge(chance) for key in [*keys, "nodes"]}
    for kind, value in (("nan", math.nan), ("inf", math.inf)):
        history[f'odd{{kind="{kind}"}}'] = [
            (HISTORY_START_S + 60 * i, value if i % 3 == 1 else float(i)) for i in range(60)
        ]
    return history


_TIMES_S = range(HISTORY_START_S, HISTORY_END_S + 1, SCRAPE_S)


def _counter(chance: random.Random) -> list[tuple[float, float]]:
    value, samples = chance.uniform(0, 1e6), []
    for time_s in _TIMES_S:
        value = 0.0 if chance.random() < 0.01 else value + chance.expovariate(0.1)
        samples.append((time_s, value))
    return samples


def _gauge(chance: random.Random) -> list[tuple[float, float]]:
    centre = chance.uniform(1, 100)
    return [(time_s, chance.gauss(centre, 5)) for time_s in _TIMES_S if chance.random() > 0.02]


def _labels(job: str, instance: str, **others: str) -> str:
    escaped = job.replace('"', '\\"')
    return ",".join(f'{name}="{value}"' for name, value in {"job": escaped, "instance": instance, **others}.items())


class NewPrometheus(Protocol):
    """Start one more server, with its own history; it is stopped after the test."""

    def __call__(
        self,
        series: Mapping[str, Samples] | None = None,
        *,
        config_text: str | None = None,
        rules_text: str | None = None,
        arguments: Sequence[str] = (),
    ) -> LocalPrometheus: ...


@contextlib.contextmanager
def serving(
    folder: Path,
    series: Mapping[str, Samples] | None = None,
    *,
    config_text: str | None = None,
    rules_text: str | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[LocalPrometheus]:
    """A server with this history and nothing else, in `folder`."""
    require("prometheus", "promtool", package="prometheus")
    if series:
        file = folder / "history.om"
        file.write_text(openmetrics(series))
        local_server.backfill(folder / "data", file)
    with local_server.running(folder, config_text=config_text, rules_text=rules_text, arguments=arguments) as server:
        yield server


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """One server for the whole run, with `shared_history`; leave it as it is."""
    with serving(tmp_path_factory.mktemp("prometheus"), shared_history()) as server:
        yield server


@pytest.fixture
def new_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewPrometheus]:
    """A function that starts servers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(
            series: Mapping[str, Samples] | None = None,
            *,
            config_text: str | None = None,
            rules_text: str | None = None,
            arguments: Sequence[str] = (),
        ) -> LocalPrometheus:
            folder = tmp_path_factory.mktemp("prometheus")
            return stack.enter_context(
                serving(folder, series, config_text=config_text, rules_text=rules_text, arguments=arguments)
            )

        yield start
