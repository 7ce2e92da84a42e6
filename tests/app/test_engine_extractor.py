"""The live engine with an extractor of its own settings: used, lost, said once, and used again."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from tests.app.hurried import HurriedClock, until
from tests.servers.extractor import NewExtractor

from foreshock.app.engine import Engine
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.app.shop import Series, openmetrics_lines
from foreshock.core.verdicts import Subject
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.local_server import LocalPrometheus, backfill, running
from foreshock.store.history import History

SUBJECT = Subject("default", "checkout")
MANIFEST = AnomalyDetector.model_validate(
    {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": "checkout"},
        "spec": {
            "target_service": "checkout", "prometheus_query": "pool_wait", "detection_window": "10m",
            "query_offset": "0s", "training": {"window": "1d", "warm_up": "12h"},
        },
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A day until an hour from now."""
    folder = tmp_path_factory.mktemp("shop")
    times_s = np.arange(int(time.time()) // 60 * 60 - 86_400, int(time.time()) // 60 * 60 + 3600, 60)
    values = 40.0 + np.random.default_rng(3).normal(0, 2, times_s.size)
    file = folder / "shop.om"
    file.write_text("".join(openmetrics_lines((Series("pool_wait", "gauge", "A test.", (), times_s, values),))))
    backfill(folder / "data", file)
    with running(folder) as server:
        yield server


async def test_an_engine_says_once_that_its_extractor_is_away_and_judges_on(
    shop: LocalPrometheus, new_extractor: NewExtractor, tmp_path: Path
) -> None:
    """Kill -9 while it runs: standing and metrics say so, no window is missed, and a new process is used again."""
    data = {"datasources": [{"url": shop.url}], "artifacts": str(tmp_path / "models")}
    extractor = new_extractor(data)
    port = int(extractor.url.rpartition(":")[2])
    settings = Settings.model_validate(
        {**data, "database": f"sqlite:///{tmp_path / 'state.db'}", "extractor": {"url": extractor.url}}
    )
    clock, metrics, history = HurriedClock(), Metrics(), History(settings.database)
    engine = Engine(
        settings, history, clock=clock, metrics=metrics, executor=ThreadPoolExecutor(1), events=io.StringIO()
    )

    def shows(name: str, least: float) -> Callable[[], bool]:
        wanted = f'{name}{{datasource="default"}}'
        return lambda: any(
            line.startswith(wanted) and float(line.split()[-1]) >= least
            for line in generate_latest(metrics.registry).decode().splitlines()
        )

    def away() -> str:
        standing = engine.standing(SUBJECT)
        return standing.extractor_away if standing is not None else "unknown"

    with capture_logs() as logs:
        engine.put(MANIFEST)
        task = asyncio.create_task(engine.run())
        try:
            await until(lambda: bool((now := engine.standing(SUBJECT)) and now.revision))
            clock.skip(60)
            await until(shows("foreshock_extractor_up", 1))
            assert away() == ""
            extractor.kill()
            for cycles in (1, 2):
                clock.skip(60)
                await until(shows("foreshock_extractor_fallbacks_total", cycles))
            assert "is not available" in away()
            standing = engine.standing(SUBJECT)
            assert standing is not None
            assert standing.failed_cycles == 0
            new_extractor(data, port=port)
            clock.skip(120)
            await until(lambda: away() == "")
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            history.close()
    said = [entry["event"] for entry in logs if "extract" in entry["event"]]
    assert len(said) == 2, said
    assert said[0].endswith("the engine extracts by itself")
    assert said[1] == "the extractor is used again"
