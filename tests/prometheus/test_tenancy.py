"""A confined query never returns the series of another namespace, on a real Prometheus; else it is refused."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterator
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.prometheus.promql_strategies import vectors
from tests.servers.processes import paused
from tests.servers.prometheus import serving

from foreshock.core.errors import QueryRejected
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.places import PER_NAMESPACE
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.tenancy import confine, namespace_of

END_S = 1_760_007_600
TIMES_S = range(END_S - 3600, END_S + 1, 60)


def _history(namespaces: str) -> dict[str, list[tuple[float, float]]]:
    """Every namespace has the same metrics; nobody but `b` has a secret."""
    chance = random.Random(11)
    series: dict[str, list[tuple[float, float]]] = {}
    for metric in ("requests_total", "pool_wait", "latency_bucket", "secret"):
        for namespace in "ab":
            for job in ("api", "web"):
                for instance in "01":
                    value = chance.uniform(1, 100)
                    samples = [(float(t), value := value + chance.uniform(0, 5)) for t in TIMES_S]
                    le = ',le="1"' if metric == "latency_bucket" else ""
                    key = f'{metric}{{namespace="{namespace}",job="{job}",instance="{instance}"{le}}}'
                    if namespace in namespaces and (metric != "secret" or namespace == "b"):
                        series[key] = samples
    return series


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A server with the series of the namespaces a and b."""
    with serving(tmp_path_factory.mktemp("everyone"), _history("ab")) as server:
        yield server


@pytest.fixture(scope="module")
def only_a(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrometheus]:
    """A server that has never heard of b."""
    with serving(tmp_path_factory.mktemp("only-a"), _history("a")) as server:
        yield server


def _answer(server: LocalPrometheus, query: str) -> dict[str, float] | str:
    """Value by labels, or the kind of the error."""
    form = urlencode({"query": query, "time": END_S}).encode()
    try:
        with urlopen(f"{server.url}/api/v1/query", form, timeout=20) as response:
            data = json.load(response)["data"]
    except HTTPError as error:
        return str(json.load(error)["errorType"])
    found = data["result"] if data["resultType"] == "vector" else [{"metric": {}, "value": data["result"]}]
    return {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in found}


def _same(one: dict[str, float] | str, other: dict[str, float] | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], rel_tol=1e-9) or (math.isnan(one[key]) and math.isnan(other[key]))
        for key in one
    )


@hypothesis_settings(max_examples=200)
@given(vectors)
@example('secret or label_replace(secret, "namespace", "a", "", "")')
@example('sum by (namespace) ({__name__=~".+"})')
@example("pool_wait or on () secret")
@example("max_over_time((secret)[30m:1m] offset 5m) @ end()")
@example("quantile(scalar(secret{job='api',instance='0'}), pool_wait)")
@example('pool_wait{namespace=~"a|b"} or secret{namespace!~"a"}')
@example("pool_wait # {namespace='a'}\n or secret")
@example('pool_wait{job=`"} or secret{namespace="b`}')
def test_a_confined_query_answers_as_if_the_others_did_not_exist(
    everyone: LocalPrometheus, only_a: LocalPrometheus, query: str
) -> None:
    """Whatever a user writes, on a server with everyone's series it returns what it would on one with only theirs."""
    try:
        sent = confine(query, "namespace", "a")
    except QueryRejected:
        assume(False)
        return
    assert namespace_of(sent, "namespace") in {"a", None}
    assert _same(_answer(everyone, sent), _answer(only_a, query)), sent


def test_without_confinement_the_others_are_read(everyone: LocalPrometheus, only_a: LocalPrometheus) -> None:
    """The property above is not empty: these servers do differ for a query that is sent as it was written."""
    assert not _same(_answer(everyone, "secret"), _answer(only_a, "secret"))


@given(st.text(min_size=1, max_size=40), st.sampled_from(("namespace", "tenant_id")))
def test_any_value_becomes_exactly_that_value(value: str, label: str) -> None:
    """Quotes, backslashes, braces and line breaks in a value stay in the value; confining again changes nothing."""
    assume("\x00" not in value)
    sent = confine('sum(rate(requests_total{job="api"}[5m])) / pool_wait', label, value)
    assert namespace_of(sent, label) == value
    assert confine(sent, label, value) == sent


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('pool_wait{namespace="b"}', 'the query asks for namespace="b", and detectors of the namespace a read only'),
        ('pool_wait{namespace!="a"}', 'asks for namespace!="a"'),
        ('pool_wait{namespace=""}', 'asks for namespace=""'),
        ('pool_wait and secret{namespace="b"}', 'asks for namespace="b"'),
        ("info(pool_wait)", "info() reads series that no selector names"),
        ('pool_wait{namespace="a" or namespace="b"}', "`or` inside braces"),
        ('{"x\\",namespace=\\"b\\"} or {\\"y"="1"}', "names a label with quotes"),
    ],
)
def test_what_asks_for_others_gets_one_sentence(query: str, words: str) -> None:
    """A query that names another namespace, or that nobody can confine, is refused before anything is sent."""
    with pytest.raises(QueryRejected) as caught:
        confine(query, "namespace", "a")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_query_that_grows_too_long_is_refused() -> None:
    """The matchers count: a query within the limit may be beyond it once each selector has one."""
    with pytest.raises(QueryRejected, match="characters; 16384 are allowed"):
        confine("+".join(["x"] * 240), "namespace", "a" * 63)


@pytest.mark.parametrize(
    "query",
    [
        "pool_wait",
        'pool_wait{namespace=~"a"}',
        'pool_wait{namespace="a"} + secret',
        'pool_wait{namespace="a"} + secret{namespace="b"}',
        'topk(scalar(secret), pool_wait{namespace="a"})',
        'pool_wait{namespace="a"} # comment',
        'info(pool_wait{namespace="a"})',
    ],
)
async def test_the_client_sends_nothing_that_reads_more_than_one_namespace(
    everyone: LocalPrometheus, query: str
) -> None:
    """Whoever forgets to confine a query is refused at the door: the check reads what is about to be sent."""
    datasource = Datasource(url=everyone.url, namespace_label="namespace")
    async with PrometheusClient(datasource) as client:
        with pytest.raises(QueryRejected, match="is not restricted to one namespace; it is not sent"):
            await client.range(RangeQuery(query, END_S - 60, END_S, 60))
        matrix = await client.range(RangeQuery(confine("pool_wait", "namespace", "a"), END_S - 60, END_S, 60))
    assert {matrix.labels(i)["namespace"] for i in range(matrix.n_series)} == {"a"}


async def test_one_namespace_has_at_most_two_requests_in_flight(everyone: LocalPrometheus) -> None:
    """Ten hanging queries of one namespace hold two places; another namespace is asked for at once."""
    datasource = {"url": everyone.url, "namespace_label": "namespace", "concurrency": 4, "timeout": "60s"}
    async with PrometheusClient(Datasource.model_validate(datasource)) as client:

        def ask(namespace: str, number: int) -> asyncio.Task[object]:
            query = confine(f"pool_wait + {number}", "namespace", namespace)
            return asyncio.create_task(client.range(RangeQuery(query, END_S - 60, END_S, 60)))

        with paused(everyone):
            greedy = [ask("b", number) for number in range(10)]
            await _until(lambda: client._places.free._value == 4 - PER_NAMESPACE)
            patient = ask("a", 1)
            await _until(lambda: client._places.free._value == 4 - PER_NAMESPACE - 1)
        await asyncio.gather(*greedy, patient)
        del greedy, patient
        await _until(lambda: not client._places.turns)  # nothing is kept of those who no longer ask


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110 - what is waited for is a count, no event
            await asyncio.sleep(0.01)
