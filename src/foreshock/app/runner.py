"""`foreshock run`: the engine without Kubernetes, with manifests in files and a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TextIO

import structlog

from foreshock.app.clock import SystemClock
from foreshock.app.engine import Engine
from foreshock.app.manifest_files import ManifestFiles
from foreshock.app.metrics import Metrics
from foreshock.app.settings import Settings
from foreshock.core.clock import Clock
from foreshock.engine.cycle import Summary
from foreshock.manifests.detector import AnomalyDetector
from foreshock.store.history import History

REREAD_EVERY_S = 5.0
_log = structlog.get_logger("foreshock")


class Runner:
    """Judges the detectors of a set of manifests until it is cancelled, and follows `files` where there are any."""

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
        files: ManifestFiles | None = None,
    ) -> None:
        self._files, self._clock = files, clock or SystemClock()
        self._given = {detector.subject: detector for detector in detectors}
        self._history = History(settings.database, password_file=settings.database_password_file)
        self._engine = Engine(
            settings,
            self._history,
            clock=self._clock,
            executor=executor,
            metrics=metrics,
            events=events,
            on_cycle=on_cycle,
        )
        for detector in self._given.values():
            self._engine.put(detector)

    async def run(self) -> None:
        """Run until cancelled; what was decided is committed, what was not sent yet waits in the outbox."""
        try:
            if self._files is None:
                await self._engine.run()
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._engine.run())
                tasks.create_task(self._follow(self._files))
        finally:
            self._history.close()

    async def _follow(self, files: ManifestFiles) -> None:
        """Judge what the files say now; what is wrong in them is logged, and changes nothing."""
        while True:
            await self._clock.sleep(REREAD_EVERY_S)
            reading = await asyncio.to_thread(files.read_if_changed)
            if reading is None:
                continue
            for problem in reading.problems:
                _log.warning("a manifest is wrong, and what it said before goes on", problem=str(problem))
            for detector in reading.gone:
                _log.info("a detector is no longer written anywhere", detector=str(detector.subject))
                del self._given[detector.subject]
                self._engine.remove(detector)
            for detector in reading.detectors:
                if self._given.get(detector.subject) != detector:
                    _log.info("a manifest is new or changed", detector=str(detector.subject))
                    self._given[detector.subject] = detector
                    self._engine.put(detector)
