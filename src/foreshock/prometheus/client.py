"""Asks one datasource, within its limits: how many requests, how long, how large, how often again."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

from foreshock.core.errors import (
    ForeshockError,
    PrometheusUnavailable,
    QueryBudgetSpent,
    QueryTimedOut,
    TooManySeries,
)
from foreshock.prometheus.credentials import Credentials
from foreshock.prometheus.places import Asker, Places
from foreshock.prometheus.requests import InstantQuery, RangeQuery, now_form, split
from foreshock.prometheus.responses import Matrix, join, read_error, read_matrix, read_scalar, read_vector, warm_up
from foreshock.prometheus.settings import Datasource

PATIENCE_S = 600.0
"""How long a query without a deadline, as trainings ask it, waits for its namespace's query time."""

ATTEMPTS = 3
FIRST_PAUSE_S = 0.5  # doubled with each attempt, and drawn from zero to it: full jitter
MAX_PAUSE_S = 10.0
MAX_ERROR_BYTES = 64 * 1024
IN_THREAD_BYTES = 256 * 1024  # reading more than this would hold up the event loop for a millisecond or two

# What went wrong, for every error of aiohttp; the nearest class up the tree speaks for one that is not here yet.
WORDS: Mapping[type[BaseException], str] = {
    aiohttp.ClientError: "the request failed",
    aiohttp.ClientResponseError: "it does not speak HTTP as expected",
    aiohttp.ContentTypeError: "its answer has an unexpected type",
    aiohttp.WSServerHandshakeError: "it does not speak HTTP as expected",
    aiohttp.ClientHttpProxyError: "the proxy before it refuses the request",
    aiohttp.TooManyRedirects: "it redirects again and again",
    aiohttp.ClientConnectionError: "the connection failed",
    aiohttp.ClientConnectionResetError: "it broke the connection off",
    aiohttp.ClientOSError: "the connection failed",
    aiohttp.ClientConnectorError: "it takes no connection",
    aiohttp.ClientConnectorDNSError: "its name does not resolve",
    aiohttp.ClientProxyConnectionError: "the proxy before it takes no connection",
    aiohttp.client_exceptions.UnixClientConnectorError: "it takes no connection",
    aiohttp.ClientSSLError: "TLS failed",
    aiohttp.ClientConnectorSSLError: "TLS failed",
    aiohttp.ClientConnectorCertificateError: "its certificate is not trusted, check tls.ca_file and tls.server_name",
    aiohttp.ServerConnectionError: "it broke the connection off",
    aiohttp.ServerDisconnectedError: "it broke the connection off",
    aiohttp.ServerTimeoutError: "it did not answer in time",
    aiohttp.ConnectionTimeoutError: "it took no connection in time",
    aiohttp.SocketTimeoutError: "it did not answer in time",
    aiohttp.ServerFingerprintMismatch: "its certificate is another one",
    aiohttp.ClientPayloadError: "its answer broke off",
    aiohttp.UploadAbortedError: "it broke the connection off",
    aiohttp.InvalidURL: "its url is not valid",
    aiohttp.InvalidUrlClientError: "its url is not valid",
    aiohttp.RedirectClientError: "it redirects, and redirects are not followed",
    aiohttp.InvalidUrlRedirectClientError: "it redirects, and redirects are not followed",
    aiohttp.NonHttpUrlClientError: "its url is not valid",
    aiohttp.NonHttpUrlRedirectClientError: "it redirects, and redirects are not followed",
    TimeoutError: "it did not answer in time",
    OSError: "the connection failed",
}

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after_s: float | None

    @property
    def is_transient(self) -> bool:
        return self.status == 429 or self.status >= 500


class _BodyTooLargeError(Exception):
    """The answer exceeds `max_body_bytes`, compressed or not."""


class PrometheusClient:
    """At most `concurrency` requests in flight, none without a limit in time and size; use it as a context manager.

    Where `namespace_label` tells namespaces apart, each has two of these at most, and `namespace_query_time` a minute;
    `charged` hears of what a namespace's requests took. `sleep`, `jitter` (0 to 1) and `monotonic_s` are the clock and
    the chance of the retries, for tests to own.
    """

    def __init__(
        self,
        datasource: Datasource,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        monotonic_s: Callable[[], float] = time.monotonic,
        charged: Callable[[str, float], None] = lambda _namespace, _took_s: None,
    ) -> None:
        self.datasource = datasource
        self._credentials = Credentials(datasource)
        self._places = Places(datasource, monotonic_s, charged)
        self._sleep, self._jitter, self._monotonic_s = sleep, jitter, monotonic_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.datasource.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # ours stops at the cap
        )
        await asyncio.to_thread(warm_up)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        """All instants of `query`, in as many requests as its length and the size of the answers need.

        Pieces are asked for one after another, so that one long history leaves room for the others. `deadline_s` is the
        time for all of it, retries and waiting for a place included; by default each piece has its three time-outs, and
        waits up to `PATIENCE_S` for its namespace's query time.

        Raises:
            PrometheusUnavailable: it is away, slow, overloaded, or answers with something else.
            QueryBudgetSpent: the namespace has used its query time: nothing was sent.
            QueryRejected: the query is wrong, in Prometheus' own words; or it is not restricted to one namespace,
                although `namespace_label` asks for that: then nothing was sent.
            TooManySeries: the answer at a single instant is larger than `max_body_bytes`.
        """
        ends_at_s = self._ends_at_s(deadline_s)
        waiting = list(reversed(split(query)))
        pieces = []
        while waiting:
            piece = waiting.pop()
            asker = self._places.asker(piece.query, piece.n_times)
            try:
                answer = await self._ask("query_range", piece.form, ends_at_s, asker)
            except _BodyTooLargeError:
                if piece.n_times == 1:
                    raise self._too_large() from None
                waiting += reversed(split(piece, -(-piece.n_times // 2)))
                continue
            pieces.append(await self._read(partial(read_matrix, query=piece), answer))
        return await asyncio.to_thread(join, pieces) if len(pieces) > 1 else pieces[0]

    async def instant(self, query: InstantQuery, *, deadline_s: float | None = None) -> Matrix:
        """The answer at one instant, as a matrix of one column.

        Raises:
            PrometheusUnavailable, QueryBudgetSpent, QueryRejected, TooManySeries: as `range`.
        """
        asker = self._places.asker(query.query, 1)
        try:
            answer = await self._ask("query", query.form, self._ends_at_s(deadline_s), asker)
        except _BodyTooLargeError:
            raise self._too_large() from None
        return await self._read(partial(read_vector, query=query), answer)

    async def now_s(self, *, deadline_s: float | None = None) -> float:
        """The datasource's own time in UTC seconds: what is newest there does not depend on our clock.

        Raises:
            PrometheusUnavailable: as `range`.
        """
        try:
            answer = await self._ask("query", now_form, self._ends_at_s(deadline_s))
        except _BodyTooLargeError:
            raise self._too_large() from None
        return await self._read(read_scalar, answer)

    async def ready(self, *, deadline_s: float | None = None) -> None:
        """Return once the query API answers, whatever serves it.

        Raises:
            PrometheusUnavailable: as `range`.
        """
        await self.now_s(deadline_s=deadline_s)

    def _ends_at_s(self, deadline_s: float | None) -> float | None:
        return None if deadline_s is None else self._monotonic_s() + deadline_s

    async def _ask(
        self,
        path: str,
        form: Callable[[float], dict[str, str]],
        ends_at_s: float | None,
        asker: Asker | None = None,
    ) -> bytes:
        """The body of the first 200; without a deadline, once the query can be paid for."""
        if ends_at_s is not None:
            return await self._ask_until(path, form, ends_at_s, asker)
        gives_up_at_s = self._monotonic_s() + PATIENCE_S
        while True:
            try:
                ends_at_s = self._monotonic_s() + ATTEMPTS * self.datasource.timeout_s
                return await self._ask_until(path, form, ends_at_s, asker)
            except QueryBudgetSpent as error:
                pause_s = error.retry_after_s or 0.0
                if self._monotonic_s() + pause_s > gives_up_at_s:
                    raise
                await self._sleep(max(1.0, pause_s))

    async def _ask_until(
        self, path: str, form: Callable[[float], dict[str, str]], ends_at_s: float, asker: Asker | None
    ) -> bytes:
        """The body of the first 200; everything else is an error, after three attempts where that may help."""
        for attempt in range(1, ATTEMPTS + 1):
            answer: _Answer | None = None
            try:
                answer = await self._attempt(path, form, ends_at_s, asker)
                if answer.status == 200:
                    return answer.body
                failure = read_error(answer.status, answer.body, retry_after_s=answer.retry_after_s)
            except PrometheusUnavailable as error:
                failure = error
            if attempt == ATTEMPTS or (answer is not None and not answer.is_transient):
                break
            pause_s = self._jitter() * min(FIRST_PAUSE_S * 2 ** (attempt - 1), MAX_PAUSE_S)
            if answer is not None and answer.retry_after_s is not None:
                pause_s += answer.retry_after_s
            if self._monotonic_s() + pause_s >= ends_at_s:
                break
            await self._sleep(pause_s)
        raise self._named(failure) from failure.__cause__

    async def _attempt(
        self, path: str, form: Callable[[float], dict[str, str]], ends_at_s: float, asker: Asker | None
    ) -> _Answer:
        """One request in one of the places; the time spent waiting for the place counts."""
        if self._session is None:
            raise RuntimeError("use the client in `async with`")
        failure: Exception
        try:
            async with asyncio.timeout(max(0.0, ends_at_s - self._monotonic_s())), self._places.taken(asker):
                timeout_s = min(float(self.datasource.timeout_s), ends_at_s - self._monotonic_s())
                async with asyncio.timeout(timeout_s):
                    return await self._post(path, form(timeout_s), timeout_s)
        except (aiohttp.ClientError, OSError) as error:
            failure = error
        words = next(WORDS[kind] for kind in type(failure).__mro__ if kind in WORDS)
        # Errors about a response hold the headers of its request, and with them the secret: never chained
        cause = None if isinstance(failure, aiohttp.ClientResponseError) else failure
        kind = QueryTimedOut if isinstance(failure, TimeoutError) else PrometheusUnavailable
        raise kind(f"Prometheus is not available: {words}") from cause

    async def _post(self, path: str, form: dict[str, str], timeout_s: float) -> _Answer:
        assert self._session is not None
        tls = self.datasource.tls
        encoding = "identity" if self.datasource.is_local else "gzip"
        async with self._session.post(
            f"{self.datasource.url}/api/v1/{path}",
            data=form,
            headers={"Accept-Encoding": encoding, **self._credentials.headers()},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            ssl=self._credentials.tls(),
            server_hostname=tls.server_name if tls else None,
        ) as response:
            if response.status < 500:
                self._places.answered()
            limit = self.datasource.max_body_bytes if response.status == 200 else MAX_ERROR_BYTES
            try:
                body = await _read_body(response, limit)
            except _BodyTooLargeError:
                if response.status == 200:
                    raise
                body = b""  # an error page of that size says nothing that its status does not
            return _Answer(response.status, body, _retry_after_s(response.headers))

    async def _read(self, reader: Callable[[bytes], _Result], body: bytes) -> _Result:
        try:
            return await asyncio.to_thread(reader, body) if len(body) > IN_THREAD_BYTES else reader(body)
        except ForeshockError as error:
            failure = error
        raise self._named(failure) from failure.__cause__

    def _named(self, failure: ForeshockError) -> ForeshockError:
        """The failure with the datasource's name, and without any secret that the server may have echoed."""
        message = f"datasource {self.datasource.name}: {self._credentials.redact(str(failure))}"
        if isinstance(failure, PrometheusUnavailable):
            return type(failure)(message, retry_after_s=failure.retry_after_s)
        return type(failure)(message)  # QueryRejected or TooManySeries, which are their message

    def _too_large(self) -> TooManySeries:
        return TooManySeries(
            f"datasource {self.datasource.name}: the answer at one instant is larger than max_body_bytes "
            f"({self.datasource.max_body_bytes}); narrow the query or aggregate it"
        )


async def _read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, never holding more than `limit` bytes of it, compressed or not."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise aiohttp.ContentTypeError(response.request_info, response.history, message="unasked encoding")
    if (response.content_length or 0) > limit:
        raise _BodyTooLargeError
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    body, received = bytearray(), 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        try:
            body += inflate.decompress(chunk, limit + 1 - len(body)) if inflate else chunk
        except zlib.error as error:
            raise aiohttp.ClientPayloadError("no gzip after all") from error
        if max(received, len(body)) > limit:
            raise _BodyTooLargeError
    if inflate is not None and not inflate.eof:
        raise aiohttp.ClientPayloadError("the gzip stream broke off")
    return bytes(body)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds, of which there are two spellings; a date counts from the server's own `Date`."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError):  # absent, unreadable, or one of them without a time zone
        return None
    return max(0.0, wait.total_seconds())
