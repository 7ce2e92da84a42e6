"""A merged query answers each of its members exactly as a query of its own would: proved on a real Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from tests.servers.prometheus import HISTORY_END_S, HISTORY_START_S, JOBS

from foreshock.core.errors import QueryRejected
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.merging import PLACEHOLDER, merge
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.templates import Member, plan_queries

# JOB stands for the matcher on the label in which the members differ.
MERGEABLE = [
    "pool_wait{JOB}",
    "sum(rate(requests_total{JOB}[5m]))",
    'sum(rate(requests_total{JOB,code=~"5\\\\d\\\\d"}[5m])) / sum(rate(requests_total{JOB}[5m]))',
    "sum by (instance) (increase(requests_total{JOB}[5m]))",
    "sum by (job) (pool_wait{JOB})",
    "sum by (job, code) (requests_total{JOB})",
    "avg(pool_wait{JOB} offset 10m)",
    "min by (instance) (min(pool_wait{JOB}) by (instance, job))",
    "max(pool_wait{JOB}) - min(pool_wait{JOB})",
    "count(pool_wait{JOB})",
    "group by (instance) (pool_wait{JOB})",
    "stddev(pool_wait{JOB}) + stdvar(pool_wait{JOB})",
    "histogram_quantile(0.9, sum by (le) (rate(latency_bucket{JOB}[10m])))",
    "histogram_quantile(0.5, rate(latency_bucket{JOB}[10m]))",
    "pool_wait{JOB} / pool_size{JOB}",
    "pool_wait{JOB} / ignoring (code) pool_size{JOB}",
    "pool_wait{JOB} / on (instance) pool_size{JOB}",
    "pool_wait{JOB} / on (job, instance) pool_size{JOB}",
    "pool_wait{JOB} - on (instance) sum by (instance) (pool_size{JOB})",
    "sum(pool_wait{JOB}) / on () sum(pool_size{JOB})",
    "sum(pool_wait{JOB}) > bool sum(pool_size{JOB})",
    "100 * (1 - avg(pool_wait{JOB}) / (2 + 3) ^ 2)",
    "-pool_wait{JOB} ^ 2 % 7",
    "time() - max(timestamp_of_nothing{JOB})",
    "sum(pool_wait{JOB}) >= bool 50",
    "max_over_time(sum(rate(requests_total{JOB}[2m]))[10m:1m] offset 5m)",
    "avg_over_time(pool_wait{JOB}[10m:30s])",
    "quantile_over_time(0.9, pool_wait{JOB}[10m]) atan2 stddev_over_time(pool_wait{JOB}[10m])",
    "deriv(pool_wait{JOB}[10m])",
    "delta(pool_wait{JOB}[10m]) + idelta(pool_wait{JOB}[10m])",
    "predict_linear(pool_wait{JOB}[10m], 600)",
    "resets(requests_total{JOB}[30m]) + changes(requests_total{JOB}[30m])",
    "clamp(round(pool_wait{JOB}, 0.5), 10, 60)",
    "log2(clamp_min(pool_wait{JOB}, 1)) + ln(exp(sqrt(abs(sgn(pool_wait{JOB})))))",
    "last_over_time(pool_wait{JOB}[5m]) + present_over_time(pool_wait{JOB}[5m])",
    '{__name__="pool_wait", JOB}',
    "sum(pool_wait{JOB}) # for (each",
]
SEPARATE = [
    "absent(pool_wait{JOB})",
    "absent_over_time(pool_wait{JOB}[5m])",
    "scalar(sum(pool_wait{JOB}))",
    "vector(1) + sum(pool_wait{JOB})",
    "topk(1, pool_wait{JOB})",
    "quantile(0.9, pool_wait{JOB})",
    'count_values("value", pool_wait{JOB})',
    "sum without (instance) (pool_wait{JOB})",
    'label_replace(pool_wait{JOB}, "job", "x", "", "")',
    "sort(pool_wait{JOB})",
    "pool_wait{JOB} or pool_size{JOB}",
    "pool_wait{JOB} and pool_size{JOB}",
    "pool_wait{JOB} unless pool_size{JOB}",
    "sum(pool_wait{JOB}) / sum(nodes)",
    "pool_wait{JOB} > 50",
    "pool_wait{JOB} > pool_size{JOB}",
    "requests_total{JOB} / on (instance) group_left () pool_size{JOB}",
    "pool_wait{JOB} / ignoring (job) pool_size{JOB}",
    "sum by (job, instance) (pool_wait{JOB}) / sum by (instance) (pool_size{JOB})",
    "sum by (job) (pool_wait{JOB}) / on (job) sum(pool_size{JOB})",
    "pool_wait{JOB} @ 1760000400",
    "sum_over_time(pool_wait{JOB}[5m:1m] @ end())",
    'pool_wait{JOB, job!="x"}',
    'pool_wait{JOB, job=~".+"}',
    "time()",
    "timestamp(pool_wait{JOB})",
]


class Datasources:
    """Asks the shared Prometheus, from tests that hypothesis calls many times in one event loop."""

    def __init__(self, runner: asyncio.Runner, client: PrometheusClient) -> None:
        self._runner, self._client = runner, client

    def ask(self, query: str) -> Matrix:
        return self._runner.run(self._client.range(RangeQuery(query, HISTORY_START_S + 1800, HISTORY_END_S, 300)))


@pytest.fixture(scope="module")
def source(prometheus: LocalPrometheus) -> Iterator[Datasources]:
    """One client in one loop for all examples."""
    with asyncio.Runner() as runner:
        client = PrometheusClient(Datasource(url=prometheus.url))
        runner.run(client.__aenter__())
        yield Datasources(runner, client)
        runner.run(client.__aexit__(None, None, None))


def for_job(template: str, job: str) -> str:
    return template.replace("JOB", f"job='{job}'")


def by_labels(matrix: Matrix) -> dict[tuple[tuple[str, str], ...], list[float]]:
    return {tuple(sorted(matrix.labels(i).items())): matrix.values[i].tolist() for i in range(matrix.n_series)}


def of_member(matrix: Matrix, member: Member) -> dict[tuple[tuple[str, str], ...], list[float]]:
    found = {}
    for labels, values in by_labels(matrix).items():
        kept = dict(labels)
        if kept[member.label or ""] == member.value:
            if member.strip_label:
                del kept[member.label or ""]
            found[tuple(sorted(kept.items()))] = values
    return found


def assert_members_get_their_own(source: Datasources, template: str) -> int:
    """Ask merged and one by one, compare bit for bit as float32, and return how many series there were."""
    queries = [for_job(template, job) for job in JOBS]
    n_series = 0
    for shared in plan_queries(queries):
        if not shared.is_merged:
            continue
        try:
            merged = source.ask(shared.query)
        except QueryRejected:
            # The one permitted difference: a member that fails takes the others along, and they are then asked alone
            rejected = 0
            for member in shared.members:
                try:
                    source.ask(queries[member.index])
                except QueryRejected:
                    rejected += 1
            assert rejected, f"only the merged query is refused: {shared.query}"
            continue
        for member in shared.members:
            alone = by_labels(source.ask(queries[member.index]))
            np.testing.assert_equal(of_member(merged, member), alone, err_msg=shared.query)
            n_series += len(alone)
        assert sum(len(of_member(merged, member)) for member in shared.members) == merged.n_series
    return n_series


@pytest.mark.parametrize("template", MERGEABLE)
def test_members_get_what_they_would_get_alone(source: Datasources, template: str) -> None:
    """All values of one label are asked for in one query, and each member's series are its own, bit for bit."""
    queries = [for_job(template, job) for job in JOBS]
    assert [len(shared.members) for shared in plan_queries(queries)] == [len(JOBS)]
    n_series = assert_members_get_their_own(source, template)
    assert n_series >= 3 or "of_nothing" in template


@pytest.mark.parametrize("template", SEPARATE)
def test_what_is_not_proved_stays_as_it_is(template: str) -> None:
    """A query without a proof is asked by itself, to the letter."""
    queries = list(dict.fromkeys(for_job(template, job) for job in JOBS))
    planned = plan_queries(queries)
    assert [shared.query for shared in planned] == queries
    assert not any(shared.is_merged for shared in planned)


selectors = st.sampled_from(["pool_wait{JOB}", "pool_size{JOB}", 'requests_total{JOB,code="200"}', "nodes"])
labels = st.sampled_from(["", "by ()", "by (instance)", "by (job)", "by (instance, job)", "without (instance)"])
expressions = st.recursive(
    selectors | selectors.map(lambda s: f"rate({s}[3m])") | st.sampled_from(["2", "0.1", "time()"]),
    lambda inner: st.one_of(
        st.builds(
            lambda f, by, e: f"{f} {by} ({e})", st.sampled_from(["sum", "max", "avg", "count", "stddev"]), labels, inner
        ),
        st.builds(lambda f, e: f"{f}({e})", st.sampled_from(["abs", "-", "sqrt", "absent", "sort"]), inner),
        st.builds(lambda f, e: f"{f}(({e})[4m:1m])", st.sampled_from(["avg_over_time", "max_over_time"]), inner),
        st.builds(
            lambda a, o, m, b: f"({a}) {o} {m} ({b})",
            inner,
            st.sampled_from(["+", "-", "/", "> bool", "<", "or", "and"]),
            st.sampled_from(["", "on ()", "on (job)", "on (instance)", "ignoring (code)", "ignoring (job)"]),
            inner,
        ),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(template=expressions)
@example(template="(sum by (job) (pool_wait{JOB})) + on (instance) (sum(pool_size{JOB}))")
@example(template="(sum(pool_wait{JOB})) + on (job) (sum(pool_size{JOB}))")
@example(template="(pool_wait{JOB}) + on () (sum(pool_size{JOB}))")
def test_whatever_is_merged_is_equal(source: Datasources, template: str) -> None:
    """Of random expressions, those that the proof lets through are equal on the real server."""
    event("has series" if assert_members_get_their_own(source, template) else "not merged, or no series")


def test_the_metrics_name_is_never_merged() -> None:
    """Functions drop the name, and rows of different metrics would meet."""
    assert merge(f'{{__name__="{PLACEHOLDER}"}}', "__name__") is None


def test_buckets_are_not_told_apart_by_their_bound() -> None:
    """`le` inside histogram_quantile makes one histogram of what were several."""
    assert merge(f'histogram_quantile(0.9, x{{le="{PLACEHOLDER}"}})', "le") is None
    assert merge(f'sum(x{{le="{PLACEHOLDER}"}})', "le") is not None
