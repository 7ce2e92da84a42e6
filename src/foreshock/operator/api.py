"""Requests to the API server: plain JSON over lightkube's connection, every failure one of ours, nothing unbounded.

lightkube reads the kubeconfig (`connection.py`); its typed objects are left out, since ten thousand of them are what an
operator's memory is made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, Self

import httpx2
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError

from foreshock.core.errors import KubernetesRefused, KubernetesUnavailable
from foreshock.operator.connection import MAX_REQUESTS, Connection

MERGE_PATCH = "application/merge-patch+json"
MAX_BODY_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 10.0
SILENCE_S = 90.0  # of a watch: bookmarks come every minute, so that longer silence is a dead connection
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_WORDS = 512  # of a refusal that are quoted


class ApiServer:
    """At most 32 requests at a time, none without a limit in time and size; use it as a context manager."""

    def __init__(self, config: SingleConfig, *, timeout_s: float = TIMEOUT_S, silence_s: float = SILENCE_S) -> None:
        self._connection = Connection(config)
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self.namespace = config.namespace
        self._timeout = httpx2.Timeout(timeout_s)
        self._silence = httpx2.Timeout(timeout_s, read=silence_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float | None = None,
        accept: str = "",
    ) -> dict[str, Any]:
        """One request, JSON in and JSON out; a PATCH is a merge patch. `accept` asks for another form of the answer.

        Raises:
            KubernetesUnavailable: it may be well again later, and not before `retry_after_s` where that is set.
            KubernetesRefused: the answer was another 4xx.

        """
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": MERGE_PATCH if method == "PATCH" else "application/json"} if content else {}
        headers |= {"Accept": accept} if accept else {}
        timeout = self._timeout if timeout_s is None else httpx2.Timeout(timeout_s)

        async def exchange() -> tuple[httpx2.Response, bytes]:
            async with self._requests, self._connection.use() as (client, url):
                request = client.build_request(
                    method, url + path, content=content, headers=headers, params=dict(params or {}), timeout=timeout
                )
                with _mapped():
                    response = await client.send(request, stream=True)
                    try:
                        return response, await _bounded(response)
                    finally:
                        await response.aclose()

        response, data = await exchange()
        if response.status_code == 401 and await self._connection.renew(refused=True):
            response, data = await exchange()
        _raise_for_status(response, data)
        return _decoded(data)

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, params: Mapping[str, str | int], *, accept: str = ""
    ) -> AsyncGenerator[AsyncIterator[str]]:
        """The lines of an answer that does not end; ninety seconds without one are an error.

        Raises:
            KubernetesUnavailable, KubernetesRefused: as `request`.

        """
        async with self._connection.use() as (client, url):
            request = client.build_request(
                "GET", url + path, params=dict(params), timeout=self._silence,
                headers={"Accept": accept} if accept else {},
            )  # fmt: skip
            with _mapped():
                response = await client.send(request, stream=True)
                try:
                    if response.status_code >= 400:
                        _raise_for_status(response, await _bounded(response))
                    yield response.aiter_lines()
                finally:
                    await response.aclose()


async def _bounded(response: httpx2.Response) -> bytes:
    chunks, size_bytes = [], 0
    async for chunk in response.aiter_bytes():
        size_bytes += len(chunk)
        if size_bytes > MAX_BODY_BYTES:
            raise KubernetesUnavailable(f"The API server's answer is larger than {MAX_BODY_BYTES} bytes; not read.")
        chunks.append(chunk)
    return b"".join(chunks)


def _raise_for_status(response: httpx2.Response, data: bytes) -> None:
    status = response.status_code
    if status < 400:
        return
    words = _message_of(data) or response.reason_phrase
    said = f"The API server answered {status} to {response.request.method} {response.request.url.path}: {words}"
    if status in _TRANSIENT or status == 401:  # 401: the token may have been rotated a moment ago
        raise KubernetesUnavailable(said, retry_after_s=_retry_after_s(response))
    raise KubernetesRefused(said, status=status)


def _message_of(data: bytes) -> str:
    with contextlib.suppress(ValueError):
        document = json.loads(data)
        if isinstance(document, dict):
            return str(document.get("message", ""))[:_WORDS]
    return data[:_WORDS].decode(errors="replace")


def _retry_after_s(response: httpx2.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise KubernetesUnavailable("The API server's answer is no JSON; is there a proxy in between?") from error
    if not isinstance(document, dict):
        raise KubernetesUnavailable("The API server's answer is no object; is there a proxy in between?")
    return document


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise KubernetesUnavailable("The API server did not answer in time.") from error
    except ConfigError as error:  # the command of the kubeconfig that gets a token
        raise KubernetesUnavailable(f"The kubeconfig gives no login ({error}); try its command by hand.") from error
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
        raise KubernetesUnavailable(f"The API server cannot be reached ({type(error).__name__}).") from error
