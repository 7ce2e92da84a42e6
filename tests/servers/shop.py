"""A Prometheus with a day of two series, one of which breaks in half an hour: for clocks that tests push ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.servers.binaries import require

from foreshock.app.shop import Series, openmetrics_lines
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running

HEALTHY, BROKEN = "healthy_wait", "broken_wait"
TO_THE_FAULT_S = 2_700  # from the start of the tests, and a quarter of an hour into it


@pytest.fixture(scope="module")
def breaking_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A day until well after now, so that instants yet to come hold samples; one series breaks in half an hour."""
    require("prometheus", "promtool", package="prometheus")
    folder = tmp_path_factory.mktemp("shop")
    chance, now_s = np.random.default_rng(3), int(time.time())
    times_s = np.arange(now_s // 60 * 60 - 86_400, now_s // 60 * 60 + 7200, 60)
    healthy, broken = (40.0 + chance.normal(0, 2, times_s.size) for _ in range(2))
    broken[times_s > now_s + 1800] += 300.0
    named = ((HEALTHY, healthy), (BROKEN, broken))
    series = [Series(name, "gauge", "A test.", (), times_s, values) for name, values in named]
    file = folder / "shop.om"
    file.write_text("".join(openmetrics_lines(tuple(series))))
    backfill(folder / "data", file)
    with running(folder) as server:
        yield server
