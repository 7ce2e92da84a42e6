"""The `webhook` sink: POSTs each event to one URL, signed where a secret is set, and follows no redirect."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from aiohttp.abc import AbstractResolver
from pydantic import AfterValidator, Field, SecretStr, model_validator
from yarl import URL

from foreshock.alerting.sinks.access import Tls, read_secret
from foreshock.alerting.sinks.addresses import refusal
from foreshock.alerting.sinks.base import BaseSinkSettings, one_line
from foreshock.alerting.sinks.http import Poster, checked_url
from foreshock.alerting.sinks.templates import pagerduty, slack


class WebhookSettings(BaseSinkSettings):
    """`{name: hook, type: webhook, url: ..., secret_file: /run/secrets/hook}`; the URL is kept out of every message."""

    type: Literal["webhook"] = "webhook"
    url: Annotated[str, AfterValidator(checked_url)] = Field(
        max_length=2_048, repr=False, description="http or https; its path may be a secret."
    )
    template: Literal["cloudevent", "slack", "pagerduty"] = Field(
        default="cloudevent", description="The shape of the body: the CloudEvent itself, or what a service expects."
    )
    secret: SecretStr | None = Field(None, description="Key of the signature; `secret_file` is better.")
    secret_file: Path | None = Field(None, description="A mounted secret, read again for every event.")
    tls: Tls | None = Field(None, description="Authorities and a client's certificate, where the system's do not fit.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="For the whole request, in seconds.")
    allow_private: bool = Field(
        default=False,
        description="Allow private and loopback addresses; link-local and metadata addresses are refused always.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("set secret or secret_file, not both")
        if self.template == "pagerduty" and self.secret is None and self.secret_file is None:
            raise ValueError("set secret_file: PagerDuty's routing key, which is part of every event it takes")
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
        self._poster = Poster(
            settings.name, timeout_s=settings.timeout_s, allow_private=settings.allow_private, tls=settings.tls,
            resolver=resolver,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"WebhookSink(name={self.name!r}, origin={str(self._url.origin())!r})"

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """POST one event.

        Raises:
            SinkUnavailable: try again, after `retry_after_s` where the receiver said so.
            SinkRejected: the receiver refuses it (3xx, other 4xx).

        """
        key = self._key()
        content_type, content = "application/json; charset=utf-8", event
        match self._settings.template:
            case "slack":
                content = slack(event)
            case "pagerduty":
                content, key = pagerduty(event, routing_key=(key or b"").decode(errors="replace")), None
            case "cloudevent":
                content_type = "application/cloudevents+json; charset=utf-8"
        body = one_line(content, ascii_only=False).encode()
        headers = {"Content-Type": content_type, "Idempotency-Key": event_id}
        if key is not None:
            headers["X-Foreshock-Signature"] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        await self._poster.post(self._url, body, headers)

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        await self._poster.close()

    def _key(self) -> bytes | None:
        """The signing key, read anew each time, because mounted secrets are rotated."""
        settings = self._settings
        if settings.secret is not None:
            return settings.secret.get_secret_value().encode()
        return None if settings.secret_file is None else read_secret(self.name, "secret_file", settings.secret_file)
