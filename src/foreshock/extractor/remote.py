"""The engine's way to the extractors: what is due goes out, samples and vectors come in, and the engine's own way
takes over whenever that fails. The rings stay the engine's: falling back asks the datasource for nothing twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from foreshock.core.errors import ExtractorUnavailable
from foreshock.engine.gather import Gathered, Gathers, advance_rings
from foreshock.engine.watch import Watch
from foreshock.extractor.client import ExtractorClient
from foreshock.extractor.exchange import Exchange, Planner, described_by
from foreshock.extractor.rows import Taken
from foreshock.prometheus.places import PER_NAMESPACE
from foreshock.prometheus.settings import Datasource

MAX_IN_FLIGHT = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
_SHARE_OF_INTERVAL = 0.5  # so that the engine's own way still fits into the interval


def most_in_flight(datasource: Datasource) -> int:
    """How many requests about one datasource are under way at a time, however many extractors there are."""
    return max(1, min(MAX_IN_FLIGHT, datasource.concurrency - 1))


class RemoteGatherer:
    """Gathers through extractors, and by itself while there is none that answers as this version should.

    Once one failed it is only probed, after pauses that grow to a minute, until it is ready again. A datasource has at
    most as many requests in flight as it allows, less one for training: each causes one query at a time. Where it tells
    namespaces apart, each has a gatherer of its own: they share `places`, and none takes more than its two.
    """

    def __init__(
        self,
        own: Gathers,
        client: ExtractorClient,
        datasource: Datasource,
        *,
        timeout_s: float,
        places: asyncio.Semaphore | None = None,
        jitter: Callable[[], float] = random.random,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own, self._client, self._planner = own, client, Planner(datasource.name)
        self._timeout_s, self._jitter, self._monotonic_s = timeout_s, jitter, monotonic_s
        self.max_in_flight = most_in_flight(datasource)
        self._places = places or asyncio.Semaphore(self.max_in_flight)
        self._turns = asyncio.Semaphore(self.max_in_flight if datasource.namespace_label is None else PER_NAMESPACE)
        self.away = ""  # why it is not used, in one sentence; empty while it is
        self._pause_s, self._try_at_s = FIRST_PAUSE_S, 0.0

    def forget(self) -> None:
        """Detectors came or went: plan anew."""
        self._own.forget()
        self._planner.forget()

    async def gather(self, due: Sequence[tuple[Watch, int]]) -> Gathered:
        """Bring the rings of the due detectors up to the instant that each is due at, with vectors where possible."""
        if not await self._is_there():
            return await self._by_itself(due, Gathered())
        gathered = Gathered()
        advance_rings(due)
        exchanges, left = self._planner.plan(due)
        taken: list[Taken] = []
        unusable: dict[str, str] = {}
        answered: set[Watch] = set()

        async def exchange(one: Exchange) -> None:
            async with self._turns, self._places:
                if self.away:
                    return
                try:
                    answer = await self._client.ask(one.body, self._timeout_of(one))
                    taken.extend(one.put(answer, gathered))
                    unusable.update((each.digest, each.message) for each in answer.unusable)
                except ExtractorUnavailable as error:
                    self._left(str(error))
                    return
            answered.update(one.watches)

        await asyncio.gather(*(exchange(one) for one in exchanges))
        if exchanges and not self.away:
            self._pause_s = FIRST_PAUSE_S
        for watch, at_s in due:
            if watch in answered and watch not in gathered.failures and watch not in gathered.degraded:
                watch.filled(at_s)
        left += [(watch, at_s) for one in exchanges for watch, at_s in one.due if watch not in answered]
        gathered = await self._by_itself(left, gathered) if left else gathered
        if unusable and not gathered.extractor_away:
            gathered.extractor_away = (
                f"the extractor {self._client.url} cannot use {len(unusable)} models, such as: "
                f"{next(iter(unusable.values()))}"
            )
        gathered.described = described_by(taken)
        return gathered

    async def _by_itself(self, due: Sequence[tuple[Watch, int]], gathered: Gathered) -> Gathered:
        own = await self._own.gather(due)
        gathered.failures.update(own.failures)
        gathered.degraded.update(own.degraded)
        gathered.extractor_away = self.away
        return gathered

    async def _is_there(self) -> bool:
        """Whether to ask: where it failed, only once it says that it is ready, and not at every cycle."""
        if not self.away:
            return True
        if self._monotonic_s() < self._try_at_s:
            return False
        try:
            await self._client.probe()
        except ExtractorUnavailable as error:
            self.away = str(error)
            self._try_later()
            return False
        self.away = ""
        return True

    def _left(self, why: str) -> None:
        """Remember why; what else fails in the same cycle says the same."""
        if not self.away:
            self.away = why
            self._try_later()

    def _try_later(self) -> None:
        """Look again sooner after the first failure than after the tenth; an answer makes it the first again."""
        self._try_at_s = self._monotonic_s() + self._pause_s * (0.5 + 0.5 * self._jitter())
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)

    def _timeout_of(self, one: Exchange) -> float:
        interval_s = min(watch.spec.interval for watch in one.watches)
        return min(self._timeout_s, _SHARE_OF_INTERVAL * interval_s)
