"""`foreshock run`: the engine without Kubernetes, with a fixed set of manifests and a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TextIO

from foreshock.app.engine import Engine
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.core.clock import Clock
from foreshock.engine.cycle import Summary
from foreshock.manifests.detector import AnomalyDetector
from foreshock.store.history import History


class Runner:
    """Judges the detectors of a set of manifests until it is cancelled."""

    def __init__(
        self,
        settings: Settings,
        detectors: Sequence[AnomalyDetector],
        *,
        clock: Clock | None = None,
        executor: Executor | None = None,
        on_cycle: Callable[[Summary], None] = lambda _: None,
        metrics: Metrics | None = None,
        events: TextIO | None = None,
    ) -> None:
        self._history = History(settings.database, password_file=settings.database_password_file)
        self._engine = Engine(
            settings, self._history, clock=clock, executor=executor, metrics=metrics, events=events, on_cycle=on_cycle
        )
        for detector in detectors:
            self._engine.put(detector)

    async def run(self) -> None:
        """Run until cancelled; what was decided is committed, what was not sent yet waits in the outbox."""
        try:
            await self._engine.run()
        finally:
            self._history.close()
