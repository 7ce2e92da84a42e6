"""Every scenario keeps its promises, in memory and, a handful of them, on a real Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from tests.scenarios.language import Scenario, parse
from tests.scenarios.runner import broken_promises, run_in_memory, run_on_prometheus, write_openmetrics
from tests.scenarios.series import frame_of

from foreshock.prometheus.local_server import backfill, running

FILES = sorted(Path(__file__).parent.glob("*.scenario"))
# One of each kind: a drift, a load that is none, a ratio, gaps, an absence, and a step of five minutes.
ON_PROMETHEUS = ("drift", "flash_sale", "few_errors", "scrape_gaps", "absent", "memory_leak")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_memory(file: Path) -> None:
    """The production engine keeps every promise of the file on the file's own series."""
    scenario = read(file.stem)
    judgements, alerts = run_in_memory(scenario)
    assert broken_promises(scenario, judgements, alerts) == []


@pytest.mark.parametrize("name", ["jump_of_a_wanderer", "slow_in_between"])
def test_only_its_own_channel_finds_it(name: str) -> None:
    """Why `forecast` and `autoencoder` exist: the ensemble is silent where they keep every promise."""
    scenario = read(name)
    _, alerts = run_in_memory(replace(scenario, spec={**scenario.spec, "algorithm": "ensemble"}))
    assert alerts == []


@pytest.mark.parametrize("algorithm", ["forecast", "autoencoder"])
@pytest.mark.parametrize("name", ["flash_sale", "constant", "nightly_batch", "scrape_gaps", "ordinary_day"])
def test_nobody_is_woken(name: str, algorithm: str) -> None:
    """What the ensemble stays silent at, these channels stay silent at."""
    scenario = read(name)
    judgements, alerts = run_in_memory(replace(scenario, spec={**scenario.spec, "algorithm": algorithm}))
    assert broken_promises(scenario, judgements, alerts) == []


@pytest.fixture(scope="module")
def prometheus_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server that holds the series of all scenarios that are run on it, told apart by their label."""
    folder = tmp_path_factory.mktemp("prometheus")
    files = [folder / f"{name}.om" for name in ON_PROMETHEUS]
    for name, file in zip(ON_PROMETHEUS, files, strict=True):
        write_openmetrics(read(name), file)
    backfill(folder / "data", *files)
    with running(folder) as server:
        yield server.url


@pytest.mark.parametrize("name", ON_PROMETHEUS)
def test_prometheus_holds_each_measured_sample(name: str, prometheus_url: str) -> None:
    """As many samples of every series as the frame has values: none is lost, and no other scenario adds any."""
    frame = frame_of(read(name))
    expected = dict(zip(frame.metrics, np.isfinite(frame.values).sum(axis=0).tolist(), strict=True))
    for metric, count in expected.items():
        parameters = {"query": f'count_over_time({metric}{{scenario="{name}"}}[20d])', "time": frame.end_s}
        with urlopen(f"{prometheus_url}/api/v1/query?{urlencode(parameters)}", timeout=10) as answer:
            (result,) = json.load(answer)["data"]["result"]
        assert int(result["value"][1]) == count, metric


@pytest.mark.parametrize("name", ON_PROMETHEUS)
def test_on_prometheus(name: str, prometheus_url: str, tmp_path: Path) -> None:
    """`foreshock backtest` keeps the same promises on what Prometheus returns."""
    assert run_on_prometheus(read(name), prometheus_url, tmp_path) == []


def read(name: str) -> Scenario:
    """The scenario of a file of this folder."""
    return parse((Path(__file__).parent / f"{name}.scenario").read_text(encoding="utf-8"), name)
