"""Requests to the API server: plain JSON over lightkube's connection, every failure one of ours, nothing unbounded.

lightkube reads the kubeconfig, the certificates and the in-cluster folder; its typed objects are left out, since ten
thousand of them are what an operator's memory is made of.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from foreshock.core.errors import InvalidSettings, KubernetesRefused, KubernetesUnavailable, Problem

MERGE_PATCH = "application/merge-patch+json"
MAX_CONNECTIONS = 32
MAX_BODY_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 10.0
SILENCE_S = 90.0  # of a watch: bookmarks come every minute, so that longer silence is a dead connection
READ_TOKEN_EVERY_S = 60.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_WORDS = 512  # of a refusal that are quoted


def load_kubeconfig(path: Path | None) -> SingleConfig:
    """The administrator's kubeconfig where one is named; else the pod's own account, KUBECONFIG, or ~/.kube/config.

    Raises:
        InvalidSettings: there is none, or it cannot be read.

    """
    try:
        config = KubeConfig.from_env() if path is None else KubeConfig.from_file(path)
        single = config.get()
    except OSError as error:
        raise _no_kubeconfig(path, error.strerror or str(error)) from error
    # lightkube checks nothing of what it reads: whatever is not a kubeconfig fails in its own way
    except (ConfigError, yaml.YAMLError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _no_kubeconfig(path, " ".join(str(error).split())[:200]) from error
    if single is None:
        raise _no_kubeconfig(path, "it names no context")
    return single


def _no_kubeconfig(path: Path | None, why: str) -> InvalidSettings:
    message = f"There is no usable kubeconfig ({why}); pass --kubeconfig FILE, or run in a pod with a service account."
    return InvalidSettings((Problem(str(path or ""), "--kubeconfig", message),))


class TokenFile(httpx2.Auth):
    """A bearer token that is read again when its file changed, once a minute, and when the server refused it."""

    def __init__(self, path: Path, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic_s = path, monotonic_s
        self._token, self._stamp, self._read_at_s = "", (0, 0), float("-inf")

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._fresh()}"
        response = yield request
        if response.status_code == 401:
            self._read_at_s = float("-inf")
            request.headers["Authorization"] = f"Bearer {self._fresh()}"
            yield request

    def _fresh(self) -> str:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            now_s = self._monotonic_s()
            if stamp != self._stamp or now_s - self._read_at_s >= READ_TOKEN_EVERY_S:
                self._token, self._stamp, self._read_at_s = self._path.read_text().strip(), stamp, now_s
        except OSError as error:
            raise KubernetesUnavailable(
                f"The token file {self._path} cannot be read ({error.strerror}); mount the service account's token."
            ) from error
        return self._token


class ApiServer:
    """At most 32 connections, none without a limit in time and size; use it as a context manager."""

    def __init__(self, config: SingleConfig, *, timeout_s: float = TIMEOUT_S, silence_s: float = SILENCE_S) -> None:
        user = config.user or User()
        try:
            tls = verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
            auth = TokenFile(Path(user.token_file)) if user.token_file else user_auth(user)
        except (OSError, ssl.SSLError, ConfigError) as error:
            raise _no_kubeconfig(config.fname, str(error)) from error
        self._url = config.cluster.server.rstrip("/")
        self.namespace = config.namespace
        self._timeout = httpx2.Timeout(timeout_s)
        self._silence = httpx2.Timeout(timeout_s, read=silence_s)
        self._client = httpx2.AsyncClient(
            auth=auth,
            timeout=self._timeout,
            trust_env=False,
            follow_redirects=False,
            headers={"User-Agent": "foreshock"},
            transport=httpx2.AsyncHTTPTransport(
                verify=tls, trust_env=False, limits=httpx2.Limits(max_connections=MAX_CONNECTIONS)
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """One request, JSON in and JSON out; a PATCH is a merge patch.

        Raises:
            KubernetesUnavailable: it may be well again later, and not before `retry_after_s` where that is set.
            KubernetesRefused: the answer was another 4xx.

        """
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": MERGE_PATCH if method == "PATCH" else "application/json"} if content else {}
        timeout = self._timeout if timeout_s is None else httpx2.Timeout(timeout_s)
        request = self._client.build_request(
            method, self._url + path, content=content, headers=headers, params=dict(params or {}), timeout=timeout
        )
        with _mapped():
            response = await self._client.send(request, stream=True)
            try:
                data = await _bounded(response)
            finally:
                await response.aclose()
        _raise_for_status(response, data)
        return _decoded(data)

    @contextlib.asynccontextmanager
    async def lines(self, path: str, params: Mapping[str, str | int]) -> AsyncGenerator[AsyncIterator[str]]:
        """The lines of an answer that does not end; ninety seconds without one are an error.

        Raises:
            KubernetesUnavailable, KubernetesRefused: as `request`.

        """
        request = self._client.build_request("GET", self._url + path, params=dict(params), timeout=self._silence)
        with _mapped():
            response = await self._client.send(request, stream=True)
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
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
        raise KubernetesUnavailable(f"The API server cannot be reached ({type(error).__name__}).") from error
