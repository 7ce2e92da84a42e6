"""The administrator's description of a datasource: what is accepted, what is refused, and that secrets stay hidden."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from foreshock.prometheus.settings import Datasource

URL = "http://127.0.0.1:9090"


def test_only_the_url_is_needed() -> None:
    """Everything but the url has a default, and the concurrency stays below the server's twenty."""
    source = Datasource.model_validate({"url": URL + "/"})
    assert (source.name, source.url, source.concurrency) == ("default", URL, 4)
    assert (source.timeout_s, source.query_offset_s, source.max_body_bytes) == (30, 30, 64 * 1024 * 1024)


def test_durations_are_written_as_in_prometheus() -> None:
    """`timeout: 1m30s` is ninety seconds."""
    source = Datasource.model_validate({"url": URL, "timeout": "1m30s", "query_offset": "0s"})
    assert (source.timeout_s, source.query_offset_s) == (90, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://me:canary@host:9090"}, "basic_auth"),
        ({"url": "ftp://host"}, "http://host:port"),
        ({"url": "prometheus:9090"}, "http://host:port"),
        ({"url": "http://host:nine"}, "Port"),
        ({"url": URL + "/?query=canary"}, "'?'"),
        ({"url": URL, "bearer": "canary"}, "bearer"),
        ({"url": URL, "concurrency": 20}, "less than or equal to 19"),
        ({"url": URL, "timeout": "canary"}, "not a duration"),
        ({"url": URL, "bearer_token": "canary", "basic_auth": {"username": "u", "password": "canary"}}, "one of"),
        ({"url": URL, "basic_auth": {"username": "u"}}, "exactly one of password"),
        ({"url": "https://host", "tls": {"cert_file": "/c"}}, "cert_file and key_file together"),
        ({"url": URL, "tls": {"ca_file": "/c"}}, "https://"),
        ({"url": URL, "tenant": {"value": "a\r\nEvil: canary"}}, "pattern"),
        ({"url": URL, "name": "No Spaces"}, "pattern"),
        ({"url": URL, "namespace_query_time": "30s"}, "namespace_query_time needs namespace_label"),
    ],
)
def test_what_is_wrong_is_said_without_what_was_typed(settings: dict[str, Any], words: str) -> None:
    """Each mistake has words of its own, and no error shows a value that may be a secret."""
    with pytest.raises(ValidationError) as caught:
        Datasource.model_validate(settings)
    assert words in str(caught.value)
    assert words == "not a duration" or "canary" not in str(caught.value)


def test_secrets_print_as_stars() -> None:
    """Neither the representation nor the JSON of the settings holds a secret."""
    source = Datasource.model_validate({"url": URL, "bearer_token": "canary"})
    other = Datasource.model_validate({"url": URL, "basic_auth": {"username": "u", "password": "canary"}})
    assert "canary" not in f"{source!r} {source.model_dump_json()} {other!r} {other.model_dump_json()}"


@pytest.mark.parametrize(
    ("url", "is_local"),
    [(URL, True), ("http://localhost", True), ("http://[::1]:9090", True), ("http://prometheus.example", False)],
)
def test_local_means_this_machine(url: str, is_local: bool) -> None:
    """Loopback names and addresses are local, all else is not."""
    assert Datasource.model_validate({"url": url}).is_local is is_local
