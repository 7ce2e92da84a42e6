"""What an administrator writes about one Prometheus: where it is, how to log in, and how much it may be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from foreshock.core.access import Login
from foreshock.core.durations import parse_duration

# Prometheus runs 20 queries at a time by default (`--query.max-concurrency`): one place is left to the people on call.
MAX_CONCURRENCY = 19


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Seconds = Annotated[int, BeforeValidator(_seconds)]
Namespace = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
LabelName = Annotated[str, Field(max_length=100, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
HeaderText = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]([ -~]*[!-~])?$")]


class _Model(BaseModel):
    """Frozen, strict about keys, and silent about what was typed: an input may be a secret in the wrong place."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(_Model):
    """How to trust the server and how to prove who we are; the files are read again when they change."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = Field(default=None, min_length=1, max_length=253)
    insecure_skip_verify: bool = False

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("set cert_file and key_file together")
        return self


class Tenant(_Model):
    """The header by which Mimir, Cortex, Loki's family and many proxies tell tenants apart."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Scope-OrgID"
    value: HeaderText


class Datasource(_Model):
    """One Prometheus, or anything that speaks its HTTP API; nothing in it is ever taken from a manifest."""

    name: str = Field(default="default", max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    url: str = Field(max_length=2048)
    external_url: str | None = Field(default=None, max_length=1024)
    """Where people open it in a browser, for the links in events; `url` where it is absent."""
    basic_auth: Login | None = None
    bearer_token: SecretStr | None = None
    bearer_token_file: Path | None = None
    tls: Tls | None = None
    tenant: Tenant | None = None
    namespace_label: LabelName | None = None
    """Confines each manifest to its namespace: every selector of its queries gets `<this label>="<its namespace>"`."""
    namespace_query_time_s: Seconds = Field(default=60, ge=1, le=86_400, alias="namespace_query_time")
    """Query time that each namespace may take in a minute: 60 s is one request in flight on the whole."""
    namespaces: Annotated[tuple[Namespace, ...], Field(min_length=1, max_length=1000)] | None = None
    """Who may name this datasource at all, for one with a login or a tenant of its own; absent means everyone."""
    concurrency: int = Field(default=4, ge=1, le=MAX_CONCURRENCY)
    """Requests in flight; batching by template makes four plenty, and a manifest cannot raise it."""
    timeout_s: Seconds = Field(default=30, ge=1, le=600, alias="timeout")
    """How long one request may take; the server is told the same, so that it stops working when we stop waiting."""
    query_offset_s: Seconds = Field(default=30, ge=0, le=86_400, alias="query_offset")
    """How late samples arrive: every query is evaluated this long ago, or the newest rows would be half empty."""
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**3)
    """The largest answer that is read, before and after decompression."""

    @field_validator("url", "external_url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("write the address of Prometheus as http://host:port or https://host:port")
        if "@" in parts.netloc:
            raise ValueError("take user and password out of the url and set basic_auth instead: urls end up in logs")
        if parts.query or parts.fragment:
            raise ValueError("end the url before '?' and '#': /api/v1/query is added to it")
        _ = parts.port  # a port that is no number is a ValueError with a sentence
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if sum(login is not None for login in (self.basic_auth, self.bearer_token, self.bearer_token_file)) > 1:
            raise ValueError("set one of basic_auth, bearer_token and bearer_token_file")
        if self.tls is not None and not self.url.startswith("https://"):
            raise ValueError("tls needs a url that begins with https://")
        return self

    @model_validator(mode="after")
    def _label_that_tells_apart(self) -> Self:
        if self.namespace_label == "__name__":
            raise ValueError("namespace_label is the label that holds the namespace, such as namespace, not __name__")
        if self.namespace_label is None and "namespace_query_time_s" in self.model_fields_set:
            raise ValueError("namespace_query_time needs namespace_label, which says whose query it is")
        return self

    def serves(self, namespace: str) -> bool:
        """Whether manifests of a namespace may name this datasource."""
        return self.namespaces is None or namespace in self.namespaces

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, where compressing costs more than it saves."""
        host = urlsplit(self.url).hostname or ""
        return host in {"localhost", "::1"} or host.startswith("127.")
