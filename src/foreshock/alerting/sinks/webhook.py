"""The `webhook` sink: POSTs each CloudEvent to one URL, signed where a secret is set, and follows no redirect."""

from __future__ import annotations

import hashlib
import hmac
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import Field, SecretStr, field_validator, model_validator
from yarl import URL

from foreshock.alerting.sinks.addresses import AddressRefused, CheckedResolver, refusal
from foreshock.alerting.sinks.base import BaseSinkSettings, one_line
from foreshock.core.errors import SinkRejected, SinkUnavailable

MAX_SECRET_BYTES = 4_096
MAX_RETRY_AFTER_S = 3_600.0  # a receiver may ask for patience, not for a week
_RETRYABLE_4XX = frozenset({408, 425, 429})


class WebhookSettings(BaseSinkSettings):
    """`{name: hook, type: webhook, url: ..., secret_file: /run/secrets/hook}`; the URL is kept out of every message."""

    type: Literal["webhook"] = "webhook"
    url: str = Field(max_length=2_048, repr=False, description="http or https; its path may be a secret.")
    secret: SecretStr | None = Field(None, description="Key of the signature; `secret_file` is better.")
    secret_file: Path | None = Field(None, description="A mounted secret, read again for every event.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="For the whole request, in seconds.")
    allow_private: bool = Field(
        default=False,
        description="Allow private and loopback addresses; link-local and metadata addresses are refused always.",
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, text: str) -> str:
        try:
            url = URL(text)
            complete = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        except ValueError:
            complete = False
        if not complete:
            raise ValueError("must be an absolute http or https URL such as https://example.org/hook")
        if url.raw_user or url.raw_password:
            raise ValueError("must not carry user:password@; sign with secret_file instead")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("set secret or secret_file, not both")
        host = URL(self.url).host or ""
        try:
            ip_address(host)
        except ValueError:
            return self  # a name: checked each time it is resolved
        why = refusal(host, allow_private=self.allow_private)
        if why is not None:
            remedy = "set allow_private: true" if refusal(host, allow_private=True) is None else "use another address"
            raise ValueError(f"url leads to {why}; {remedy}")
        return self


class WebhookSink:
    """Delivered means 2xx. A redirect is an error, and so is a name that leads to an address that is not allowed."""

    def __init__(self, settings: WebhookSettings, *, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._url = URL(settings.url)
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"WebhookSink(name={self.name!r}, origin={self._origin!r})"

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """POST one event; 408, 425, 429, 5xx, a time-out or a lost connection may be tried again, other answers not.

        Raises:
            SinkUnavailable: try again, after `retry_after_s` where the receiver said so.
            SinkRejected: the receiver refuses it (3xx, other 4xx).

        """
        body = one_line(event, ascii_only=False).encode()
        headers = {"Content-Type": "application/cloudevents+json; charset=utf-8", "Idempotency-Key": event_id}
        key = self._key()
        if key is not None:
            headers["X-Foreshock-Signature"] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        try:
            async with self._open_session().post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, answer = response.status, response.headers.copy()
        except TimeoutError as error:
            raise SinkUnavailable(f"{self._label} did not answer within {self._settings.timeout_s:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise SinkUnavailable(f"{self._label} could not be reached: {_cause(error)}.") from error
        self._judge(status, _retry_after_s(answer.get("Retry-After"), answer.get("Date")))

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def _origin(self) -> str:
        return str(self._url.origin())

    @property
    def _label(self) -> str:
        return f"Sink {self.name!r} at {self._origin}"

    def _judge(self, status: int, retry_after_s: float | None) -> None:
        if 200 <= status < 300:
            return
        if status >= 500 or status in _RETRYABLE_4XX:
            raise SinkUnavailable(f"{self._label} answered {status}.", retry_after_s=retry_after_s)
        if 300 <= status < 400:
            raise SinkRejected(f"{self._label} answered {status}, a redirect, and none is followed: set its final URL.")
        raise SinkRejected(f"{self._label} refuses this event with {status}: check its URL and what it accepts.")

    def _key(self) -> bytes | None:
        """The signing key, read anew each time, because mounted secrets are rotated."""
        settings = self._settings
        if settings.secret is not None:
            return settings.secret.get_secret_value().encode()
        if settings.secret_file is None:
            return None
        try:
            with settings.secret_file.open("rb") as file:
                key = file.read(MAX_SECRET_BYTES + 1).strip()
        except OSError as error:
            raise SinkUnavailable(
                f"Sink {self.name!r} cannot read its secret_file {settings.secret_file}: {error.strerror}."
            ) from error
        if not key or len(key) > MAX_SECRET_BYTES:
            raise SinkUnavailable(
                f"Sink {self.name!r} needs a secret of 1 to {MAX_SECRET_BYTES} bytes in {settings.secret_file}."
            )
        return key

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # not in __init__: aiohttp binds a session to the loop that runs
            inner = self._resolver or aiohttp.ThreadedResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=CheckedResolver(inner, allow_private=self._settings.allow_private), use_dns_cache=False
                ),
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
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
