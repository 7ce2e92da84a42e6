"""What an administrator writes about the extractor: where the engine finds it, and what one process of it may hold."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from foreshock.prometheus.settings import Seconds


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("write the address of the extractor as http://host:port")
    if "@" in parts.netloc:
        raise ValueError("take user and password out of the url: urls end up in logs")
    if parts.query or parts.fragment:
        raise ValueError("end the url before '?' and '#': /v1/vectors is added to it")
    _ = parts.port  # a port that is no number is a ValueError with a sentence
    return url.rstrip("/")


class ExtractorSettings(BaseModel):
    """`url` and `timeout` are the engine's, the other fields those of `foreshock extractor`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    url: Annotated[str, Field(max_length=2048), AfterValidator(_plain_url)] | None = Field(
        default=None, description="One address for all replicas; without it the engine extracts by itself."
    )
    timeout_s: Seconds = Field(
        default=20,
        ge=1,
        le=300,
        alias="timeout",
        description="How long an answer may take, at most half an interval; then the engine extracts by itself.",
    )
    requests: int = Field(
        default=8, ge=1, le=64, description="Requests that one process works on at a time; one more is told to wait."
    )
    model_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1024 * 1024, le=2**40, description="Models that one process keeps in memory."
    )
