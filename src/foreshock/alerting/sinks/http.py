"""POST as all HTTP sinks do it: checked addresses, no redirect, one table of what may be tried again."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from foreshock.alerting.sinks.access import Tls
from foreshock.alerting.sinks.addresses import AddressRefused, CheckedResolver
from foreshock.core.errors import SinkRejected, SinkUnavailable

MAX_RETRY_AFTER_S = 3_600.0  # a receiver may ask for patience, not for a week
_RETRYABLE_4XX = frozenset({408, 425, 429})


def checked_url(text: str) -> str:
    """The text itself where it is an absolute http or https URL without a login.

    Raises:
        ValueError: it is not.

    """
    try:
        url = URL(text)
        complete = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        complete = False
    if not complete:
        raise ValueError("must be an absolute http or https URL such as https://example.org/hook")
    if url.raw_user or url.raw_password:
        raise ValueError("must not carry user:password@; use the keys of this sink that log in or sign")
    return text


class Poster:
    """The connections of one sink; they are opened at the first POST, and anew after TLS has failed."""

    def __init__(
        self,
        sink: str,
        *,
        timeout_s: float,
        allow_private: bool,
        tls: Tls | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._sink, self._timeout_s, self._allow_private, self._tls = sink, timeout_s, allow_private, tls
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> None:
        """Delivered is 2xx; 408, 425, 429, 5xx, a time-out or a lost connection may be tried again, the rest not.

        Raises:
            SinkUnavailable: try again, after `retry_after_s` where the receiver said so.
            SinkRejected: the receiver refuses it (3xx, other 4xx).

        """
        label = f"Sink {self._sink!r} at {url.origin()}"
        try:
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as response:
                status, answer = response.status, response.headers.copy()
        except TimeoutError as error:
            raise SinkUnavailable(f"{label} did not answer within {self._timeout_s:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, aiohttp.ClientSSLError):
                await self.close()  # the next one reads the certificates again
            told = None if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL) else error  # they quote
            raise SinkUnavailable(f"{label} could not be reached: {_cause(error)}.") from told  # the URL with its path
        if 200 <= status < 300:
            return
        if status >= 500 or status in _RETRYABLE_4XX:
            wait_s = _retry_after_s(answer.get("Retry-After"), answer.get("Date"))
            raise SinkUnavailable(f"{label} answered {status}.", retry_after_s=wait_s)
        if 300 <= status < 400:
            raise SinkRejected(f"{label} answered {status}, a redirect, and none is followed: set its final URL.")
        raise SinkRejected(f"{label} refuses this event with {status}: check its URL and what it accepts.")

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # not in __init__: aiohttp binds a session to the loop that runs
            inner = self._resolver or aiohttp.ThreadedResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=CheckedResolver(inner, allow_private=self._allow_private),
                    use_dns_cache=False,
                    ssl=self._tls.context(self._sink) if self._tls is not None else True,
                ),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # a proxy from the environment would resolve the name itself
                auto_decompress=False,
                headers={"User-Agent": "foreshock"},
            )
        return self._session


def _cause(error: BaseException) -> str:
    """What went wrong in words that cannot hold the URL's path: our own, or the class of the library's error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AddressRefused):
            return f"{seen}; allow_private may allow it"
        seen = seen.__cause__
    return type(error).__name__


def _retry_after_s(text: str | None, date: str | None) -> float | None:
    """Seconds of a `Retry-After`: a number, or a date seen from the receiver's own `Date`; None where it is neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(date or "")
    except (ValueError, TypeError):
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_AFTER_S)
