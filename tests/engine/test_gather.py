"""A hostile query meets the server's limits, and the detectors beside it are judged all the same (row 24)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.servers.prometheus import HISTORY_END_S, serving, shared_history

from foreshock.app.changes import Cohorts, watch_of
from foreshock.core.errors import QueryTimedOut
from foreshock.core.verdicts import Ignorance
from foreshock.engine.gather import FIRST_REST_S, REST_S, Gathered, Gatherer
from foreshock.engine.watch import Watch
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource

AT_S = HISTORY_END_S // 60 * 60 - 600
HONEST = "sum(pool_wait)"
HOSTILE = (
    'max_over_time({__name__=~".+"}[1y:1s])',  # ten years hold a busy machine for a minute, whatever the time-out
    'count({__name__=~"(a|b|c|.)*.+(x+x+)+y"}) + count_over_time({__name__=~".+"}[1w:1s])',
    "sum_over_time(sum(pool_wait)[30d:1s])",
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A server with the limits that an administrator sets."""
    limits = ("--query.max-samples=20000", "--query.timeout=5s")
    with serving(tmp_path_factory.mktemp("strict"), shared_history(), arguments=limits) as server:
        yield server


class Counting:
    """The real client, with a count of what it was asked, and time-outs for the queries of `slow`."""

    def __init__(self, client: PrometheusClient) -> None:
        self.client, self.asked, self.slow = client, Counter[str](), set[str]()
        self.limits: dict[str, int] = {}

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        self.asked[query.query] += 1
        self.limits[query.query] = query.limit
        if query.query in self.slow:
            raise QueryTimedOut("Prometheus is not available: it did not answer in time")
        return await self.client.range(query, deadline_s=deadline_s)


class World:
    """Detectors on one datasource, gathered together minute by minute."""

    def __init__(self, source: Counting, datasource: Datasource) -> None:
        self.source, self.datasource = source, datasource
        self.gatherer, self.cohorts, self.number = Gatherer(source), Cohorts(), 0

    def watch(self, query: str, namespace: str = "a", **spec: Any) -> Watch:
        self.number += 1
        manifest = {
            "apiVersion": "devopsroles.com/v1",
            "kind": "AnomalyDetector",
            "metadata": {"name": f"d{self.number}", "namespace": namespace},
            "spec": {"target_service": "s", "prometheus_query": query, "detection_window": "10m", **spec},
        }
        return watch_of(AnomalyDetector.model_validate(manifest), self.datasource, self.cohorts, ())

    async def gather(self, *watches: Watch, at_s: int = AT_S) -> Gathered:
        return await self.gatherer.gather([(watch, at_s) for watch in watches])


@asynccontextmanager
async def world(server: LocalPrometheus, **settings: Any) -> AsyncIterator[World]:
    datasource = Datasource.model_validate({"url": server.url, **settings})
    async with PrometheusClient(datasource) as client:
        yield World(Counting(client), datasource)


@pytest.mark.parametrize("query", HOSTILE)
async def test_a_hostile_query_is_refused_and_its_neighbour_is_filled(strict: LocalPrometheus, query: str) -> None:
    """Too many samples is `QueryRejected`, in the server's own words; the honest detector beside it has its data."""
    async with world(strict) as each:
        hostile, honest = each.watch(query), each.watch(HONEST)
        gathered = await each.gather(hostile, honest)
        assert set(gathered.failures) == {hostile}
        assert gathered.failures[hostile].reason is Ignorance.QUERY_REJECTED
        assert "too many samples" in gathered.failures[hostile].message
        assert honest.filled_to_s == AT_S


async def test_a_refused_query_rests_for_ten_minutes(strict: LocalPrometheus) -> None:
    """It stays refused meanwhile, with the same sentence; the server is not asked for its dearest work each minute."""
    async with world(strict) as each:
        hostile, honest = each.watch(HOSTILE[1]), each.watch(HONEST)
        first = await each.gather(hostile, honest, at_s=AT_S - REST_S)
        for minute in range(1, REST_S // 60):
            again = await each.gather(hostile, honest, at_s=AT_S - REST_S + 60 * minute)
            assert again.failures[hostile] == first.failures[hostile]
        assert each.source.asked == {HOSTILE[1]: 1, HONEST: REST_S // 60}
        await each.gather(hostile, honest, at_s=AT_S)
        assert each.source.asked[HOSTILE[1]] == 2


async def test_a_slow_query_rests_longer_each_time_and_only_while_others_are_answered(strict: LocalPrometheus) -> None:
    """A server that answers others is well, so the query is at fault; when nobody is answered, all ask again."""
    async with world(strict) as each:
        slow, honest = each.watch("sum(pool_size)"), each.watch(HONEST)
        each.source.slow = {"sum(pool_size)", HONEST}
        for minute in range(3):
            await each.gather(slow, honest, at_s=AT_S - 3600 + 60 * minute)
        assert each.source.asked == {"sum(pool_size)": 3, HONEST: 3}
        each.source.slow = {"sum(pool_size)"}
        for minute in range(3, 60):
            gathered = await each.gather(slow, honest, at_s=AT_S - 3600 + 60 * minute)
            assert gathered.failures[slow].reason is Ignorance.DATASOURCE_UNAVAILABLE
        # after 1, 2, 4, 8, then every 10 minutes
        assert FIRST_REST_S == 60
        assert each.source.asked == {"sum(pool_size)": 3 + 9, HONEST: 60}
        each.source.slow = set()
        assert not (await each.gather(slow, honest, at_s=AT_S + REST_S)).failures


async def test_a_namespace_without_query_time_is_inconclusive_and_others_are_filled(strict: LocalPrometheus) -> None:
    """Its detectors say `QueryBudgetSpent` with one sentence; the same query of another namespace is answered."""
    async with world(strict, namespace_label="job") as each:
        spender, other = each.watch(HONEST, namespace="api"), each.watch(HONEST, namespace="web")
        asker = each.source.client._places.asker(spender.metrics[0].query, 1)
        assert asker is not None
        asker.account.settle("something dear", 0.0, 10_000.0)
        gathered = await each.gather(spender, other)
        assert set(gathered.failures) == {spender}
        assert gathered.failures[spender].reason is Ignorance.QUERY_BUDGET_SPENT
        assert "the namespace api has used the query time of 60 s a minute" in gathered.failures[spender].message
        assert other.filled_to_s == AT_S


async def test_one_member_of_a_shared_query_cannot_cut_the_others_short(strict: LocalPrometheus) -> None:
    """Where the shared answer may have been cut at its limit, each is asked alone; only who has too many is refused."""
    async with world(strict) as each:
        greedy, honest = each.watch('pool_wait{job="api"}'), each.watch('pool_size{job="api", instance="0"}')
        other = each.watch('pool_wait{job="checkout (eu)"}')
        gathered = await each.gather(greedy, other, honest)
        assert set(gathered.failures) == {greedy, other}
        assert {failure.reason for failure in gathered.failures.values()} == {Ignorance.TOO_MANY_SERIES}
        assert honest.filled_to_s == AT_S
        shared = next(query for query in each.source.asked if "=~" in query)
        assert each.source.limits[shared] == 4
        assert each.source.limits['pool_wait{job="api"}'] == 2


async def test_a_confined_detector_reads_only_its_own(strict: LocalPrometheus) -> None:
    """Row 25: what the engine asks is the confined query; the job stands in for the namespace in this history."""
    async with world(strict, namespace_label="job") as each:
        own, all_of_it = (
            each.watch('pool_wait{instance="0"}', "api"),
            each.watch('count({__name__="pool_wait"})', "api"),
        )
        gathered = await each.gather(own, all_of_it)
        assert not gathered.failures
        assert each.source.asked == {
            'pool_wait{instance="0",job="api"}': 1,
            'count({__name__="pool_wait",job="api"})': 1,
        }
        row = int(all_of_it.rows[0])
        newest = all_of_it.cohort.ring[row][-1, 0]
        assert newest == 2.0  # instances of this job; of everyone there are sixteen
