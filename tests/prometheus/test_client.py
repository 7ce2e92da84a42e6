"""The client against a real Prometheus, and through a proxy that lets the connection fail in every way it can."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from tests.servers import fault_proxy as faults
from tests.servers.fault_proxy import Fault, FaultProxy, answering
from tests.servers.processes import paused
from tests.servers.prometheus import HISTORY_END_S, HISTORY_START_S, NewPrometheus

from foreshock.core.errors import ForeshockError, PrometheusUnavailable, QueryRejected, TooManySeries
from foreshock.prometheus.client import WORDS, PrometheusClient
from foreshock.prometheus.local_server import LocalPrometheus
from foreshock.prometheus.requests import InstantQuery, RangeQuery
from foreshock.prometheus.settings import Datasource

AT = InstantQuery("sum(pool_wait)", HISTORY_END_S)
EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
TIMED_OUT = b'{"status":"error","errorType":"timeout","error":"query timed out"}'


class Waits:
    """A sleep that takes no time and is written down."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def __call__(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)


@asynccontextmanager
async def connected(url: str, waits: Waits | None = None, **settings: Any) -> AsyncIterator[PrometheusClient]:
    source = Datasource.model_validate({"url": url, **settings})
    async with PrometheusClient(source, sleep=waits or Waits(), jitter=lambda: 0.5) as client:
        yield client


# What a healthy server answers


async def test_a_range_is_read_from_the_real_server(prometheus: LocalPrometheus) -> None:
    """A range query returns each series on the grid that was asked for, with its labels."""
    query = RangeQuery('pool_wait{job="api"}', HISTORY_START_S + 600, HISTORY_END_S, 60)
    async with connected(prometheus.url) as client:
        matrix = await client.range(query)
    assert (matrix.n_series, matrix.n_times, matrix.start_s) == (2, query.n_times, query.start_s)
    assert matrix.labels(0) == {"__name__": "pool_wait", "job": "api", "instance": "0"}
    assert np.isfinite(matrix.values).mean() > 0.9


async def test_instant_and_range_queries_agree(prometheus: LocalPrometheus) -> None:
    """The last column of a range query is the instant query at its end, bit for bit, and so are its hashes."""
    text = "rate(requests_total[5m])"
    async with connected(prometheus.url) as client:
        matrix = await client.range(RangeQuery(text, HISTORY_END_S - 600, HISTORY_END_S, 60))
        vector = await client.instant(InstantQuery(text, HISTORY_END_S))
    row_of = {int(digest): row for row, digest in enumerate(matrix.hashes)}
    rows = [row_of[int(digest)] for digest in vector.hashes]
    assert len(rows) == matrix.n_series
    np.testing.assert_array_equal(matrix.values[rows, -1], vector.values[:, 0])


async def test_three_days_at_ten_seconds_are_one_answer(new_prometheus: NewPrometheus) -> None:
    """25,921 points, more than twice what the server gives at once, join to what the series holds."""
    end_s = HISTORY_START_S + 3 * 86_400
    samples = [(time_s, float(time_s % 86_413)) for time_s in range(HISTORY_START_S, end_s + 1, 10)]
    server = new_prometheus({'x{a="1"}': samples, 'x{a="2"}': samples[:5000]})
    async with connected(server.url) as client:
        matrix = await client.range(RangeQuery("x", HISTORY_START_S, end_s, 10))
    np.testing.assert_array_equal(matrix.values[0], [value for _, value in samples])
    # The shorter one is looked back at for five minutes: Prometheus 2 includes the last instant, 3 does not
    assert np.isfinite(matrix.values[1]).sum() in {5029, 5030}


async def test_a_long_query_is_posted(prometheus: LocalPrometheus) -> None:
    """A query of 15 kB, too long for a url, is answered."""
    names = "|".join(f"service-{i}" for i in range(1200))
    async with connected(prometheus.url) as client:
        assert (await client.instant(InstantQuery(f'pool_wait{{job=~"{names}"}}', HISTORY_END_S))).n_series == 0


async def test_what_is_not_finite_is_missing(prometheus: LocalPrometheus) -> None:
    """NaN and infinite samples of the real server are missing and counted, never zero."""
    async with connected(prometheus.url) as client:
        matrix = await client.range(RangeQuery("odd", HISTORY_START_S, HISTORY_START_S + 59 * 60, 60))
    expected = np.arange(60.0)
    expected[1::3] = np.nan
    np.testing.assert_array_equal(matrix.values, [expected, expected])
    assert matrix.dropped == 40


async def test_stale_and_unknown_series_are_absent(prometheus: LocalPrometheus) -> None:
    """A series that ended an hour ago, and one that never was, are no rows."""
    async with connected(prometheus.url) as client:
        assert (await client.instant(InstantQuery("pool_wait", HISTORY_END_S + 3600))).n_series == 0
        assert (await client.range(RangeQuery("never_was", 0, 60, 60))).values.shape == (0, 2)


async def test_the_time_is_the_datasources(prometheus: LocalPrometheus) -> None:
    """The server's clock answers, here the same machine's, and being ready is being able to ask it."""
    async with connected(prometheus.url) as client:
        before_s = time.time()
        now_s = await client.now_s()
        assert before_s - 0.01 <= now_s <= time.time() + 0.01
        await client.ready()


# What the user did wrong


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(", "parse error"),
        ("pool_wait / on (job) pool_size", "many-to-many"),
        ("pool_wait * on (job) pool_wait", "many-to-many"),
    ],
)
async def test_the_users_mistakes_are_in_prometheus_words(prometheus: LocalPrometheus, query: str, words: str) -> None:
    """400 and 422 are typed as the user's, quote Prometheus, and are not tried again."""
    waits = Waits()
    async with connected(prometheus.url, waits) as client:
        with pytest.raises(QueryRejected, match=f"datasource default: Prometheus rejects the query: .*{words}"):
            await client.instant(InstantQuery(query, HISTORY_END_S))
        with pytest.raises(QueryRejected, match=words):
            await client.range(RangeQuery(query, HISTORY_START_S, HISTORY_END_S, 60))
    assert waits.pauses_s == []


async def test_the_servers_limits_are_the_users(new_prometheus: NewPrometheus) -> None:
    """A query that loads more samples than the server allows is rejected in its words."""
    samples = [(HISTORY_START_S + 15 * i, 1.0) for i in range(200)]
    server = new_prometheus({"x": samples}, arguments=["--query.max-samples=50"])
    async with connected(server.url) as client:
        with pytest.raises(QueryRejected, match="too many samples"):
            await client.range(RangeQuery("x", HISTORY_START_S, HISTORY_START_S + 3000, 15))


# What the network and the server do wrong


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faults.reset, "broke the connection off|connection failed"),
        (faults.half_close, "broke the connection off"),
        (faults.cut_after(40), "broke the connection off|connection failed"),
        (faults.cut_after(400), "broke off|connection failed|broke the connection off"),
        (faults.garbage(b"\x00\x01SSH-2.0-OpenSSH\r\n\r\n"), "does not speak HTTP"),
        (faults.garbage(b""), "broke the connection off"),
        (answering(200, b"<html>Sign in</html>"), "'<html>Sign in</html>'"),
        (answering(200, EMPTY[:-10]), "ends too early|not of its API"),
        (answering(200, EMPTY, Content_Encoding="gzip"), "broke off"),
        (answering(200, gzip.compress(EMPTY)[:-9], Content_Encoding="gzip"), "broke off"),
        (answering(200, EMPTY, Content_Encoding="br"), "unexpected type"),
        (answering(503, TIMED_OUT), "query timed out"),
        (answering(500, b"oops"), "500: 'oops'"),
        (answering(429), "429"),
        (answering(502, b"<html>" * 100_000), "502"),
        (answering(302, b"", Location="/login"), "redirects are not followed"),
        (answering(401), "credentials"),
        (answering(200, EMPTY, **{f"X-{i}": "y" * 8000 for i in range(3)}, Z="z" * 9000), "does not speak HTTP"),
    ],
)  # fmt: skip
async def test_every_failure_is_typed(fault_proxy: FaultProxy, fault: Fault, words: str) -> None:
    """Whatever a connection does, the error is PrometheusUnavailable in one sentence with the datasource's name."""
    fault_proxy.fault = fault
    async with connected(fault_proxy.url, name="main") as client:
        with pytest.raises(PrometheusUnavailable, match=f"^datasource main: .*({words})") as caught:
            await client.range(RangeQuery("requests_total", HISTORY_START_S, HISTORY_END_S, 60))
    assert "\n" not in str(caught.value)
    assert caught.value.retryable


async def test_refused_connections_and_unknown_names(fault_proxy: FaultProxy) -> None:
    """A closed port and a name that does not resolve are typed, and the client goes on when the port is open again."""
    async with connected(fault_proxy.url) as client:
        await client.ready()
        await fault_proxy.refuse()
        with pytest.raises(PrometheusUnavailable, match="takes no connection"):
            await client.ready()
        await fault_proxy.listen()
        await client.ready()
    async with connected("http://prometheus.invalid:9090") as client:
        with pytest.raises(PrometheusUnavailable, match=r"does not resolve|takes no connection"):
            await client.ready()


@pytest.mark.parametrize("fault", [faults.black_hole, faults.delayed(60), faults.throttled(50)])
async def test_a_deadline_is_kept(fault_proxy: FaultProxy, fault: Fault) -> None:
    """A server that accepts and does not answer, or too slowly, costs no more than the deadline."""
    fault_proxy.fault = fault
    async with connected(fault_proxy.url) as client:
        with pytest.raises(PrometheusUnavailable, match="did not answer in time"):
            await asyncio.wait_for(client.instant(AT, deadline_s=0.2), timeout=10)


async def test_a_hung_server_is_survived(new_prometheus: NewPrometheus) -> None:
    """Under SIGSTOP the port still accepts; the client gives up in time and finds the server well after SIGCONT."""
    server = new_prometheus()
    async with connected(server.url) as client:
        await client.ready()
        with paused(server), pytest.raises(PrometheusUnavailable, match="did not answer in time"):
            await client.ready(deadline_s=0.2)
        await client.ready()


async def test_a_restarted_server_is_found_again(fault_proxy: FaultProxy) -> None:
    """A kept connection that the server has closed costs a retry, not an error."""
    async with connected(fault_proxy.url) as client:
        await client.instant(AT)
        await fault_proxy.drop_connections()
        await client.instant(AT)
    assert fault_proxy.connections == 2


# Trying again


async def test_overload_is_tried_again_after_a_pause(fault_proxy: FaultProxy) -> None:
    """429, 503 and a reset are tried again; the pause is drawn below a bound that doubles."""
    waits = Waits()
    fault_proxy.faults.extend([answering(503), faults.reset])
    async with connected(fault_proxy.url, waits) as client:
        assert (await client.instant(AT)).n_series == 1
    assert waits.pauses_s == [0.25, 0.5]


async def test_retry_after_is_honoured(fault_proxy: FaultProxy) -> None:
    """`Retry-After` in seconds, or as a date of the server's clock, is waited for before the jitter."""
    waits = Waits()
    date, later = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:05 GMT"
    fault_proxy.faults.extend([answering(429, Retry_After="7"), answering(503, Retry_After=later, Date=date)])
    async with connected(fault_proxy.url, waits) as client:
        await client.instant(AT)
    assert waits.pauses_s == [7.25, 5.5]


async def test_three_attempts_are_enough(fault_proxy: FaultProxy) -> None:
    """The third failure is reported, with how long the server asks to wait."""
    waits = Waits()
    fault_proxy.fault = answering(503, TIMED_OUT, Retry_After="9")
    async with connected(fault_proxy.url, waits) as client:
        with pytest.raises(PrometheusUnavailable, match="query timed out") as caught:
            await client.instant(AT)
    assert (fault_proxy.connections, len(waits.pauses_s), caught.value.retry_after_s) == (3, 2, 9.0)


async def test_a_pause_beyond_the_deadline_is_not_begun(fault_proxy: FaultProxy) -> None:
    """Asked to wait longer than there is time, the client gives up at once and says how long it was told."""
    waits = Waits()
    fault_proxy.fault = answering(503, Retry_After="3600")
    async with connected(fault_proxy.url, waits) as client:
        with pytest.raises(PrometheusUnavailable) as caught:
            await client.instant(AT, deadline_s=60)
    assert (fault_proxy.connections, waits.pauses_s, caught.value.retry_after_s) == (1, [], 3600.0)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
async def test_what_cannot_improve_is_not_tried_again(fault_proxy: FaultProxy, status: int) -> None:
    """A refusal is asked for once."""
    fault_proxy.fault = answering(status, b'{"status":"error","error":"no"}')
    async with connected(fault_proxy.url) as client:
        with pytest.raises((PrometheusUnavailable, QueryRejected)):
            await client.instant(AT)
    assert fault_proxy.connections == 1


# Limits


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_more_requests_than_allowed_are_in_flight(fault_proxy: FaultProxy, concurrency: int) -> None:
    """Thirty queries at once reach the server over as many connections as `concurrency` says."""
    fault_proxy.fault = faults.delayed(0.02)
    async with connected(fault_proxy.url, concurrency=concurrency) as client:
        await asyncio.gather(*(client.instant(InstantQuery("sum(pool_wait)", HISTORY_END_S - i)) for i in range(30)))
    assert fault_proxy.peak_connections == concurrency


async def test_a_body_beyond_the_cap_is_not_read(fault_proxy: FaultProxy) -> None:
    """An answer larger than the cap is refused before it has all been received, whatever length it declares."""
    fault_proxy.fault = answering(200, EMPTY + b" " * 10_000_000)
    async with connected(fault_proxy.url, max_body_bytes=100_000) as client:
        with pytest.raises(TooManySeries, match=r"larger than max_body_bytes \(100000\)"):
            await client.instant(AT)
    assert fault_proxy.connections == 1


async def test_a_gzip_bomb_is_not_unpacked(fault_proxy: FaultProxy) -> None:
    """Ten kilobytes that unpack to ten megabytes stop at the cap."""
    fault_proxy.fault = answering(200, gzip.compress(EMPTY + b" " * 10_000_000), Content_Encoding="gzip")
    async with connected(fault_proxy.url, max_body_bytes=100_000) as client:
        with pytest.raises(TooManySeries, match="max_body_bytes"):
            await client.instant(AT)


async def test_gzip_is_read(fault_proxy: FaultProxy) -> None:
    """A compressed answer is unpacked, though a local server is never asked for one."""
    fault_proxy.fault = answering(200, gzip.compress(EMPTY), Content_Encoding="gzip")
    async with connected(fault_proxy.url) as client:
        assert (await client.instant(AT)).n_series == 0
    assert b"Accept-Encoding: identity" in fault_proxy.requests[0]


async def test_a_long_range_is_asked_in_smaller_pieces(prometheus: LocalPrometheus) -> None:
    """Where the answer to a range exceeds the cap it is halved until it fits, and is the same."""
    query = RangeQuery("requests_total", HISTORY_START_S, HISTORY_END_S, 15)
    wide = f'label_replace(requests_total, "wide", "{"z" * 9000}", "", "")'
    async with connected(prometheus.url) as whole, connected(prometheus.url, max_body_bytes=100_000) as small:
        expected, matrix = await whole.range(query), await small.range(query)
        np.testing.assert_array_equal(matrix.values, expected.values)
        assert matrix.label_bytes == expected.label_bytes
        with pytest.raises(TooManySeries):
            await small.range(RangeQuery(wide, HISTORY_END_S, HISTORY_END_S, 15))


async def test_warnings_of_the_server_arrive(fault_proxy: FaultProxy) -> None:
    """A partial answer, as Thanos gives it, says so."""
    fault_proxy.fault = faults.rewriting_body(lambda body: body.rstrip()[:-1] + b',"warnings":["store is away"]}')
    async with connected(fault_proxy.url) as client:
        matrix = await client.instant(AT)
    assert (matrix.n_series, matrix.warnings) == (1, ("store is away",))


async def test_a_wrong_date_header_changes_nothing(fault_proxy: FaultProxy) -> None:
    """The time is the query engine's: a proxy whose clock is ten minutes wrong has no say."""
    fault_proxy.fault = faults.rewriting(
        lambda answer: faults.Answer(answer.status, answer.body, {"Date": "Wed, 21 Oct 2015 07:28:00 GMT"})
    )
    async with connected(fault_proxy.url) as client:
        assert abs(await client.now_s() - time.time()) < 60


# Secrets


async def test_a_rotated_token_is_sent_at_once(fault_proxy: FaultProxy, tmp_path: Path) -> None:
    """The next request carries the new token, and its tenant."""
    token = tmp_path / "token"
    fault_proxy.fault = answering(200, EMPTY)
    settings = {"bearer_token_file": token, "tenant": {"value": "team-a"}}
    async with connected(fault_proxy.url, **settings) as client:
        for text in ("first", "second"):
            token.write_text(text)
            await client.instant(AT)
    assert [f"Authorization: Bearer {text}".encode() in request for text, request in
            zip(("first", "second"), fault_proxy.requests, strict=True)] == [True, True]  # fmt: skip
    assert b"X-Scope-OrgID: team-a" in fault_proxy.requests[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("fault", [
    *(answering(status, b"you sent Bearer canary") for status in (200, 400, 401, 500)),
    answering(422, b'{"status":"error","error":"you sent canary"}'),
    answering(200, EMPTY, Content_Encoding="br"),
    faults.garbage(b"garbage\r\n\r\n"),
    faults.reset,
])  # fmt: skip
async def test_no_error_holds_a_secret(fault_proxy: FaultProxy, fault: Fault) -> None:
    """Even where the server echoes the token, neither the error nor anything it was raised from shows it."""
    fault_proxy.fault = fault
    async with connected(fault_proxy.url, bearer_token="canary") as client:
        with pytest.raises(ForeshockError) as caught:
            await client.instant(AT)
    assert not [error for error in _chain(caught.value) if "canary" in f"{error} {error!r} {vars(error)}"]


# The library below


def _subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_subclasses(below) for below in kind.__subclasses__()))


def test_every_error_of_aiohttp_has_words() -> None:
    """A new exception of aiohttp fails here until somebody has said what it means."""
    assert _subclasses(aiohttp.ClientError) - set(WORDS) == set()


async def test_the_client_is_used_in_its_context() -> None:
    """Forgetting `async with` is said, not met as an attribute error."""
    client = PrometheusClient(Datasource(url="http://127.0.0.1:1"))
    with pytest.raises(RuntimeError, match="async with"):
        await client.ready()
