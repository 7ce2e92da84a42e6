"""Asks one extractor, or one of its replicas, for an answer: within a time, a size, and again where that may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import aiohttp
from pydantic import ValidationError

from foreshock import __version__
from foreshock.core.errors import ExtractorUnavailable
from foreshock.extractor.wire import FEATURES, MAX_BODY_BYTES, PATH, ExtractionAnswer, Refusal
from foreshock.prometheus.client import WORDS

MAX_REFUSAL_BYTES = 64 * 1024
PROBE_WITHIN_S = 2.0
_ATTEMPTS = 3
_LONGEST_PAUSE_S = 5.0
_PIECE_BYTES = 256 * 1024
_IN_THREAD_BYTES = 64 * 1024


class _AgainError(Exception):
    """Another try may find another replica, or a free place: after `pause_s`."""

    def __init__(self, why: str, pause_s: float) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class ExtractorClient:
    """Use it as a context manager.

    A request has a connection of its own: kept ones would stay with one replica behind a balancer of connections.
    """

    def __init__(
        self,
        url: str,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._sleep, self._monotonic_s = sleep, monotonic_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def probe(self) -> None:
        """Return where an extractor answers that it is ready, which takes no longer than two seconds.

        Raises:
            ExtractorUnavailable: it does not.

        """
        status, _ = await self._attempt("GET", "/readyz", b"", PROBE_WITHIN_S)
        if status != 200:
            raise self._unavailable(f"/readyz answers {status}")

    async def ask(self, body: Callable[[float], bytes], timeout_s: float) -> ExtractionAnswer:
        """The answer to `body(deadline_s)`, from an extractor of this very version.

        A refused connection or a full process is tried again, since the next one may meet another replica.

        Raises:
            ExtractorUnavailable: there is no such answer within `timeout_s`.

        """
        ends_at_s = self._monotonic_s() + timeout_s
        for attempt in range(1, _ATTEMPTS + 1):
            left_s = ends_at_s - self._monotonic_s()
            try:
                answer = await self._once(body, left_s)
            except _AgainError as error:
                failure = error
                if attempt == _ATTEMPTS or self._monotonic_s() + error.pause_s >= ends_at_s:
                    break
                await self._sleep(error.pause_s)
                continue
            return answer
        raise self._unavailable(str(failure)) from failure.__cause__

    async def _once(self, body: Callable[[float], bytes], left_s: float) -> ExtractionAnswer:
        try:
            status, said = await self._attempt("POST", PATH, body(max(0.001, left_s * 0.9)), left_s)
        except ExtractorUnavailable as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectionError):
                raise _AgainError(str(error), 0.0) from error
            raise
        if status in {429, 503}:
            raise _AgainError(_words_of(status, said), 1.0)
        if status != 200:
            raise self._unavailable(_words_of(status, said))
        return await asyncio.to_thread(self._read, said) if len(said) > _IN_THREAD_BYTES else self._read(said)

    def _read(self, body: bytes) -> ExtractionAnswer:
        try:
            answer = ExtractionAnswer.model_validate_json(body)
        except ValidationError as error:
            raise self._unavailable("its answer is not that of this version of an extractor") from error
        if (answer.foreshock, answer.features) != (__version__, FEATURES):
            raise self._unavailable(
                f"it is of version {answer.foreshock[:20]} and this is {__version__}, so that vectors might differ: "
                "run one version of both"
            )
        return answer

    async def _attempt(self, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("use the client in `async with`")
        failure: Exception
        try:
            async with (
                asyncio.timeout(max(0.0, timeout_s)),
                self._session.request(
                    method,
                    f"{self.url}{path}",
                    data=_pieces(body) if body else None,
                    headers={
                        "Content-Type": "application/json",
                        "Content-Length": str(len(body)),
                        "Accept-Encoding": "identity",
                    },
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as response,
            ):
                limit = MAX_BODY_BYTES if response.status == 200 else MAX_REFUSAL_BYTES
                return response.status, await self._body(response, limit)
        except (aiohttp.ClientError, OSError) as error:
            failure = error
        words = next(WORDS[kind] for kind in type(failure).__mro__ if kind in WORDS)
        raise self._unavailable(words) from failure

    async def _body(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise self._unavailable(f"its answer is larger than {limit} bytes")
        return bytes(body)

    def _unavailable(self, why: str) -> ExtractorUnavailable:
        text = why if why.startswith("the extractor ") else f"the extractor {self.url} is not available: {why}"
        return ExtractorUnavailable(text)


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    """The body in pieces, so that the loop can do something else while a large one is sent."""
    for start in range(0, len(body), _PIECE_BYTES):
        yield memoryview(body)[start : start + _PIECE_BYTES]


def _words_of(status: int, body: bytes) -> str:
    try:
        words = Refusal.model_validate_json(body).message
    except ValidationError:
        words = "something that is not its API"
    return f"it answers {status}: {words[:500]}"
