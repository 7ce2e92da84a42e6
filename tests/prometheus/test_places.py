"""Row 24 on a real Prometheus: the expensive queries of one namespace wait, and nobody else does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from tests.servers.processes import paused
from tests.servers.prometheus import serving

from foreshock.core.errors import PrometheusUnavailable, QueryBudgetSpent
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.tenancy import confine

END_S = 1_760_007_600
DEAR = "sum(max_over_time(pool_wait[2d:1s]))"  # a tenth of a second and more; the cheap one takes milliseconds
CHEAP = "sum(pool_wait)"


class Ask(Protocol):
    """Ask for the last half hour of a query of a namespace; the number of series."""

    async def __call__(self, namespace: str, query: str, *, deadline_s: float | None = 10_000.0) -> int: ...


class FastClock:
    """A minute a second: what takes the server a tenth of a second costs six. It can be moved on."""

    def __init__(self, times: float = 60.0) -> None:
        self.times, self.ahead_s = times, 0.0
        self.pauses_s: list[float] = []

    def __call__(self) -> float:
        return self.times * time.monotonic() + self.ahead_s

    async def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.ahead_s += pause_s


@pytest.fixture(scope="module")
def two_tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A server with one series of each of the namespaces a and b."""
    samples = [(float(at_s), float(at_s % 977)) for at_s in range(END_S - 86_400, END_S + 1, 60)]
    series = {f'pool_wait{{namespace="{namespace}"}}': samples for namespace in "ab"}
    with serving(tmp_path_factory.mktemp("tenants"), series) as server:
        yield server


def tenants(url: str) -> Datasource:
    """A datasource of which each namespace has six seconds a minute."""
    return Datasource.model_validate({"url": url, "namespace_label": "namespace", "namespace_query_time": "6s"})


@asynccontextmanager
async def asking(
    url: str, clock: FastClock, charged: Callable[[str, float], None] = lambda _namespace, _took_s: None
) -> AsyncIterator[Ask]:
    """A client of which each namespace has six seconds a minute."""
    source = tenants(url)
    async with PrometheusClient(source, sleep=clock.sleep, monotonic_s=clock, charged=charged) as client:

        async def ask(namespace: str, query: str, *, deadline_s: float | None = 10_000.0) -> int:
            confined = confine(query, "namespace", namespace)
            return (await client.range(RangeQuery(confined, END_S - 1800, END_S, 60), deadline_s=deadline_s)).n_series

        yield ask


async def _spend(ask: Ask, query: str = DEAR, namespaces: str = "b") -> QueryBudgetSpent:
    """Ask in turn for these namespaces until one is refused."""
    for number in range(100):
        try:
            assert await ask(namespaces[number % len(namespaces)], query) == 1
        except QueryBudgetSpent as error:
            assert number >= 1
            return error
    raise AssertionError("a hundred dear queries were all paid")


async def test_expensive_queries_of_one_namespace_wait_and_nobody_else_does(two_tenants: LocalPrometheus) -> None:
    """Once b has used its time its dear query is refused unsent, in one sentence; a and the cheap query of b go on."""
    clock, took = FastClock(), Counter[str]()
    async with asking(two_tenants.url, clock, lambda namespace, took_s: took.update({namespace: took_s})) as ask:
        await ask("b", CHEAP)
        refusal = await _spend(ask)
        assert str(refusal).startswith(
            "datasource default: the namespace b has used the query time of 6 s a minute, and this query took "
        )
        assert "make expensive queries cheaper" in str(refusal)
        assert await ask("a", DEAR) == 1
        clock.ahead_s += 15.0  # 1.5 s came in: enough for a cheap one, whatever was left
        assert await ask("b", CHEAP) == 1
        assert took["b"] > 15.0
        clock.ahead_s += refusal.retry_after_s + 1.0
        assert await ask("b", DEAR) == 1


async def test_a_training_waits_for_its_turn(two_tenants: LocalPrometheus) -> None:
    """Without a deadline a query sleeps for as long as the refusal says, and is then answered."""
    clock = FastClock()
    async with asking(two_tenants.url, clock) as ask:
        refusal = await _spend(ask)
        assert await ask("b", DEAR, deadline_s=None) == 1
    assert sum(clock.pauses_s) == pytest.approx(refusal.retry_after_s, rel=0.5)


async def test_queries_that_read_no_series_have_one_account(two_tenants: LocalPrometheus) -> None:
    """They name no namespace, and must not be a way around the budget."""
    async with asking(two_tenants.url, FastClock()) as ask:
        refusal = await _spend(ask, "max_over_time(vector(1)[2d:1s])", "ab")
    assert "the queries that read no series have used the query time" in str(refusal)


@pytest.mark.parametrize("others_are_answered", [False, True])
async def test_only_a_server_that_is_there_costs_anybody(
    two_tenants: LocalPrometheus, others_are_answered: bool
) -> None:
    """A time-out of hours is free at a server that hangs, and a debt where somebody else was answered meanwhile."""
    clock = FastClock(times=1.0)
    source = tenants(two_tenants.url)
    query = RangeQuery(confine(CHEAP, "namespace", "b"), END_S - 1800, END_S, 60)
    async with PrometheusClient(source, sleep=clock.sleep, monotonic_s=clock) as client:
        await client.range(query)
        with paused(two_tenants):
            hanging = asyncio.create_task(client.range(query, deadline_s=0.3))
            async with asyncio.timeout(10):
                while client._places.free._value == source.concurrency:  # noqa: ASYNC110 - a count is no event
                    await asyncio.sleep(0)
            clock.ahead_s += 7200.0
            if others_are_answered:
                client._places.answered()
            with pytest.raises(PrometheusUnavailable, match="did not answer in time"):
                await hanging
        if others_are_answered:
            with pytest.raises(QueryBudgetSpent, match=r"took 7200.[0-9] s the last time"):
                await client.range(query, deadline_s=10.0)
        else:
            assert (await client.range(query, deadline_s=10.0)).n_series == 1
