"""Brings every committed transition to every sink, at least once and in order within an incident.

Each sink has a task of its own, so that a dead one delays nobody. A row leaves the store's pending rows only after the
sink took it: a crash in between sends it again, under the same `event_id`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from foreshock.alerting.sinks.base import RepeatingSink, Sink
from foreshock.alerting.state import Kind, Transition
from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, SinkRejected, SinkUnavailable

BACK_OFF_BASE_S = 1.0
BACK_OFF_CAP_S = 60.0
MAX_RETRY_AFTER_S = 3_600.0
GIVE_UP_AFTER_S = 7 * 86_400
BATCH_ROWS = 32  # in flight at once to one sink, each of another incident
REPEAT_ENDED_S = 900.0  # how long a receiver that forgets is told of an end, as Prometheus does
REPEAT_PIECE = 64  # events read and sent at once
IDLE_POLL_S = 5.0  # how late a row is found that nobody announced, for example after a restart


@dataclass(frozen=True, slots=True)
class Delivery:
    """One transition of one incident on its way to one sink: the row of the outbox."""

    event_id: str
    incident_id: str
    sink: str
    kind: Kind
    sequence: int
    event: dict[str, Any]
    created_s: float  # UTC, when it was committed
    attempts: int = 0
    next_attempt_s: float = 0.0  # UTC


def deliveries(
    transition: Transition, event: dict[str, Any], *, sinks: Sequence[str], created_s: float
) -> tuple[Delivery, ...]:
    """One row for each sink that hears of it, due at once."""
    return tuple(
        Delivery(
            transition.event_id, transition.incident_id, sink, transition.kind, transition.sequence, event, created_s
        )
        for sink in dict.fromkeys(sinks)
        if transition.only is None or sink in transition.only
    )


class Outcome(StrEnum):
    """What became of one attempt; used word for word as metric label."""

    DELIVERED = "delivered"
    POSTPONED = "postponed"
    REJECTED = "rejected"
    GIVEN_UP = "given_up"
    SINK_REMOVED = "sink_removed"  # what waited for a sink that is configured no more
    STORE_UNAVAILABLE = "store_unavailable"
    NOT_REPEATED = "not_repeated"  # a receiver that forgets did not take what stands; it was delivered before


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of sending one row; `next_attempt_s` (UTC) is set where it was postponed."""

    delivery: Delivery
    outcome: Outcome
    message: str = ""
    next_attempt_s: float | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the outbox tells whoever counts and logs; `event_id` is None where the store itself failed."""

    sink: str
    outcome: Outcome
    event_id: str | None = None
    message: str = ""


class OutboxStore(Protocol):
    """The port that the database implements; its calls block and are made from a thread."""

    def pending(self, sink: str, *, limit: int, now_s: float) -> tuple[Delivery, ...]:
        """The rows that are due: per incident only the oldest that is not settled, firing first, at most `limit`."""
        ...

    def standing(self, sink: str, *, ended_after_s: float, after: str, limit: int) -> tuple[Delivery, ...]:
        """What the sink took of incidents that fire, or took after an instant of others: by event id, after `after`."""
        ...

    def settle(self, attempts: Sequence[Attempt], *, now_s: float) -> None:
        """Record all outcomes in one transaction."""
        ...


def _nobody_listens(_report: Report) -> None:
    pass


class Outbox:
    """Drains the store's pending rows to the sinks until it is cancelled."""

    def __init__(
        self,
        store: OutboxStore,
        sinks: Sequence[Sink],
        clock: Clock,
        *,
        jitter: random.Random | None = None,
        report: Callable[[Report], None] = _nobody_listens,
    ) -> None:
        jitter = jitter or random.Random()  # noqa: S311 - jitter is no secret
        self._lanes = tuple(_Lane(sink, store, clock, jitter, report) for sink in sinks)

    def notify(self) -> None:
        """Say that rows were committed; call it from the event loop. Without it they are found within `IDLE_POLL_S`."""
        for lane in self._lanes:
            lane.wake.set()

    async def run(self) -> None:
        """Deliver for ever, one task a sink; cancelling it is the way to stop, and loses nothing."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run(), name=f"outbox-{lane.sink.name}")
                if isinstance(lane.sink, RepeatingSink):
                    tasks.create_task(lane.sink.repeat(lane.standing, lane.not_repeated))

    async def flush(self) -> bool:
        """Send all that is due now; True if every sink took all of it. Bound it with a time-out of your own."""
        return all(await asyncio.gather(*(lane.flush() for lane in self._lanes)))

    async def close(self) -> None:
        """Close every sink."""
        await asyncio.gather(*(lane.sink.close() for lane in self._lanes))


@dataclass(frozen=True, slots=True)
class _Rest:
    """`until_news` ends early when rows are announced: one event that no server likes must not hold up the next one.

    A receiver that asked for patience gets all of it.
    """

    duration_s: float
    until_news: bool = True


_IDLE = _Rest(IDLE_POLL_S)


class _Lane:
    """One sink with its queue, its patience and nothing shared with the other lanes."""

    def __init__(
        self, sink: Sink, store: OutboxStore, clock: Clock, jitter: random.Random, report: Callable[[Report], None]
    ) -> None:
        self.sink = sink
        self.wake = asyncio.Event()
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._report = report
        self._failures = 0  # rounds in a row in which the sink took nothing
        self._one_round_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        while True:
            self.wake.clear()
            rest = await self.round()
            if rest is not None:
                await self._rest(rest)

    async def standing(self) -> AsyncIterator[list[dict[str, Any]]]:
        ended_after_s, after = self._clock.now_s() - REPEAT_ENDED_S, ""
        while rows := await asyncio.to_thread(
            self._store.standing, self.sink.name, ended_after_s=ended_after_s, after=after, limit=REPEAT_PIECE
        ):
            yield [row.event for row in rows]
            after = rows[-1].event_id

    def not_repeated(self, why: str) -> None:
        self._report(Report(self.sink.name, Outcome.NOT_REPEATED, None, why))

    async def flush(self) -> bool:
        while (rest := await self.round()) is None:
            pass
        return rest is _IDLE

    async def round(self) -> _Rest | None:
        """Send one batch of what is due; how long to rest afterwards, or None where there may be more to send."""
        async with self._one_round_at_a_time:
            limit = 1 if self._failures else BATCH_ROWS  # one probe for a sink that was down
            try:
                rows = await asyncio.to_thread(
                    self._store.pending, self.sink.name, limit=limit, now_s=self._clock.now_s()
                )
                attempts = await asyncio.gather(*(self._attempt(row) for row in rows))
                if attempts:
                    await asyncio.to_thread(self._store.settle, attempts, now_s=self._clock.now_s())
            except ForeshockError as error:  # the store: locked, full or damaged; the rows stay, and go out again
                self._report(Report(self.sink.name, Outcome.STORE_UNAVAILABLE, None, str(error)))
                self._failures += 1
                return _Rest(self._back_off_s(self._failures, 0.0), until_news=False)
        for attempt in attempts:
            self._report(Report(self.sink.name, attempt.outcome, attempt.delivery.event_id, attempt.message))
        return self._rest_after(attempts)

    def _rest_after(self, attempts: Sequence[Attempt]) -> _Rest | None:
        """Rest where nothing is due, or where the sink took nothing; one bad row among good ones waits alone."""
        if not attempts:
            return _IDLE
        if not all(attempt.outcome in {Outcome.POSTPONED, Outcome.GIVEN_UP} for attempt in attempts):
            self._failures = 0
            return None
        self._failures += 1
        asked_s = max(attempt.retry_after_s for attempt in attempts)
        return _Rest(self._back_off_s(self._failures, asked_s), until_news=not asked_s)

    async def _attempt(self, row: Delivery) -> Attempt:
        try:
            await self.sink.send(row.event, event_id=row.event_id)
        except SinkRejected as error:
            return Attempt(row, Outcome.REJECTED, str(error))
        except SinkUnavailable as error:
            return self._not_taken(row, str(error), error.retry_after_s or 0.0)
        except Exception as error:  # noqa: BLE001 - a fault in one sink must not stop the others; it is reported
            return self._not_taken(row, f"Sink {self.sink.name!r} failed with {type(error).__name__}; report it.", 0.0)
        return Attempt(row, Outcome.DELIVERED)

    def _not_taken(self, row: Delivery, message: str, retry_after_s: float) -> Attempt:
        now_s = self._clock.now_s()
        if now_s - row.created_s >= GIVE_UP_AFTER_S:
            return Attempt(row, Outcome.GIVEN_UP, f"{message} Given up after 7 days.", retry_after_s=retry_after_s)
        wait_s = self._back_off_s(row.attempts + 1, retry_after_s)
        return Attempt(row, Outcome.POSTPONED, message, now_s + wait_s, retry_after_s)

    def _back_off_s(self, failures: int, retry_after_s: float) -> float:
        """Full jitter up to 1, 2, 4, ... 60 s, and never sooner than the receiver asked for."""
        cap_s = min(BACK_OFF_CAP_S, BACK_OFF_BASE_S * 2.0 ** min(failures - 1, 10))
        return max(self._jitter.uniform(0.0, cap_s), min(retry_after_s, MAX_RETRY_AFTER_S), 0.01)

    async def _rest(self, rest: _Rest) -> None:
        if not rest.until_news:
            await self._clock.sleep(rest.duration_s)
            return
        waiting = [asyncio.ensure_future(self.wake.wait()), asyncio.ensure_future(self._clock.sleep(rest.duration_s))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
