"""The webhook against a real server on loopback: signature, identity, redirects, rebinding, rotated secrets."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from tests.alerting.sinks.receiver import Receiver
from tests.alerting.sinks.test_addresses import ScriptedResolver

from foreshock.alerting.sinks.http import MAX_RETRY_AFTER_S, _retry_after_s
from foreshock.alerting.sinks.webhook import WebhookSettings, WebhookSink
from foreshock.core.errors import SinkRejected, SinkUnavailable

EVENT = {"id": "abc/firing/1", "data": {"service": "zürich ☃"}}


def settings(receiver: Receiver, **more: object) -> WebhookSettings:
    return WebhookSettings.model_validate(
        {"name": "hook", "url": receiver.url, "allow_private": True, "timeout_s": 5.0} | more
    )


async def test_the_receiver_can_verify_what_it_gets() -> None:
    """The body is the event, its identity a header, and the signature that of the bytes on the wire."""
    async with Receiver().listening() as receiver:
        sink = WebhookSink(settings(receiver, secret=SecretStr("s3cret")))
        await sink.send(EVENT, event_id="abc/firing/1")
        await sink.close()
        await sink.close()
    (request,) = receiver.requests
    assert json.loads(request.body) == EVENT
    assert request.headers["Content-Type"].startswith("application/cloudevents+json")
    assert request.headers["Idempotency-Key"] == "abc/firing/1"
    expected = hmac.new(b"s3cret", request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Foreshock-Signature"] == f"sha256={expected}"


async def test_without_a_secret_nothing_pretends_to_be_a_signature() -> None:
    """An unsigned event has no signature header."""
    async with Receiver().listening() as receiver:
        sink = WebhookSink(settings(receiver))
        await sink.send(EVENT, event_id="x")
        await sink.close()
    assert "X-Foreshock-Signature" not in receiver.requests[0].headers


async def test_a_rotated_secret_is_used_at_once(tmp_path: Path) -> None:
    """The mounted file is read for every event; a missing or empty one keeps the event for later."""
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    async with Receiver().listening() as receiver:
        sink = WebhookSink(settings(receiver, secret_file=str(secret)))
        await sink.send(EVENT, event_id="x")
        secret.write_text("two\n")
        await sink.send(EVENT, event_id="x")
        for breakage, words in (("", "is empty"), ("x" * 70_000, "is longer than 65536 bytes")):
            secret.write_text(breakage)
            with pytest.raises(SinkUnavailable, match=f"has no secret_file: .*{words}"):
                await sink.send(EVENT, event_id="x")
        secret.unlink()
        with pytest.raises(SinkUnavailable, match=r"has no secret_file: .* cannot be read"):
            await sink.send(EVENT, event_id="x")
        await sink.close()
    signatures = [request.headers["X-Foreshock-Signature"] for request in receiver.requests]
    assert signatures == [
        f"sha256={hmac.new(key, request.body, hashlib.sha256).hexdigest()}"
        for key, request in zip((b"one", b"two"), receiver.requests, strict=True)
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_error_and_not_followed(status: int) -> None:
    """The place a redirect points to is never asked."""
    async with Receiver().listening() as inside, Receiver(status=status).listening() as receiver:
        receiver.headers = {"Location": inside.url}
        sink = WebhookSink(settings(receiver))
        with pytest.raises(SinkRejected, match="redirect"):
            await sink.send(EVENT, event_id="x")
        await sink.close()
        assert len(receiver.requests) == 1
        assert inside.requests == []


async def test_a_name_that_flips_to_metadata_is_not_followed() -> None:
    """DNS rebinding: the address that was checked is the one connected to, and the next answer is checked again."""
    async with Receiver(headers={"Connection": "close"}).listening() as receiver:
        dns = ScriptedResolver("127.0.0.1", "169.254.169.254")
        url = receiver.url.replace("127.0.0.1", "hook.example")
        sink = WebhookSink(settings(receiver, url=url), resolver=dns)
        await sink.send(EVENT, event_id="x")
        assert dns.asked == 1
        with pytest.raises(SinkUnavailable, match=r"hook\.example leads to 169\.254\.169\.254, a link-local"):
            await sink.send(EVENT, event_id="x")
        await sink.close()
        assert len(receiver.requests) == 1


async def test_a_name_that_leads_inside_is_refused_unless_allowed() -> None:
    """Without `allow_private` a name on a loopback address is not connected to, and the message says what to do."""
    async with Receiver().listening() as receiver:
        url = receiver.url.replace("127.0.0.1", "hook.example")
        sink = WebhookSink(settings(receiver, url=url, allow_private=False), resolver=ScriptedResolver("127.0.0.1"))
        with pytest.raises(SinkUnavailable, match="allow_private may allow it"):
            await sink.send(EVENT, event_id="x")
        await sink.close()
        assert receiver.requests == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"url": "ftp://example.org/x"}, "absolute http or https URL"),
        ({"url": "example.org/x"}, "absolute http or https URL"),
        ({"url": "http:///x"}, "absolute http or https URL"),
        ({"url": "http://example.org:99999/x"}, "absolute http or https URL"),
        ({"url": "https://user:pass@example.org/x"}, "must not carry user:password@"),
        ({"url": "http://127.0.0.1/x"}, "set allow_private: true"),
        ({"url": "http://[::1]/x"}, "set allow_private: true"),
        ({"url": "http://169.254.169.254/x", "allow_private": True}, "use another address"),
        ({"secret": "a", "secret_file": "/run/secrets/hook"}, "not both"),
        ({"name": "Not A Name"}, "String should match pattern"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"surprise": 1}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_have_a_sentence_that_repeats_no_value(change: dict[str, object], sentence: str) -> None:
    """Each problem says what to do, and none quotes what was written, which may be a secret."""
    with pytest.raises(ValidationError, match=sentence) as caught:
        WebhookSettings.model_validate({"name": "hook", "url": "https://example.org/x"} | change)
    assert "user:pass@" not in str(caught.value)


@pytest.mark.parametrize(
    ("retry_after", "date", "expected"),
    [
        ("7", None, 7.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("999999999999", None, MAX_RETRY_AFTER_S),
        ("Wed, 21 Oct 2026 07:28:30 GMT", None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("²", None, None),
        ("Wed, 21 Oct 2026 07:28:30", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, None, None),
    ],
)
def test_retry_after(retry_after: str | None, date: str | None, expected: float | None) -> None:
    """Seconds, or a date as seen from the receiver's own clock; anything else is no answer."""
    assert _retry_after_s(retry_after, date) == expected
