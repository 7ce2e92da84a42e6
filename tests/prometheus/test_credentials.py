"""Secrets and certificates are read again when their files change, and never leave through an error."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from foreshock.core.errors import PrometheusUnavailable
from foreshock.prometheus.credentials import Credentials
from foreshock.prometheus.settings import Datasource


def credentials(**settings: Any) -> Credentials:
    return Credentials(Datasource.model_validate({"url": "https://host", **settings}))


def test_a_rotated_token_is_used_for_the_next_request(tmp_path: Path) -> None:
    """The token is read anew after Kubernetes has swapped the link to a file of equal size."""
    for name, token in (("old", "token-1\n"), ("new", "token-2\n")):
        (tmp_path / name).write_text(token)
    link = tmp_path / "token"
    link.symlink_to("old")
    subject = credentials(bearer_token_file=link)
    assert subject.headers() == {"Authorization": "Bearer token-1"}
    (tmp_path / "swap").symlink_to("new")
    (tmp_path / "swap").replace(link)
    assert subject.headers() == {"Authorization": "Bearer token-2"}


def test_basic_and_tenant_headers(tmp_path: Path) -> None:
    """Basic authentication after RFC 7617, with the password from its file, beside the tenant's header."""
    (tmp_path / "password").write_text("open sesame")
    subject = credentials(
        basic_auth={"username": "Aladdin", "password_file": tmp_path / "password"}, tenant={"value": "team-a"}
    )
    assert subject.headers() == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "X-Scope-OrgID": "team-a"}


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"two\nlines", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty, binary, long or many-lined file is an error that names the setting and the file."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PrometheusUnavailable, match=rf"bearer_token_file: .*{file}"):
        credentials(bearer_token_file=file).headers()


def test_an_echoed_secret_is_masked() -> None:
    """A server that quotes our header gives nothing away: neither the password nor its base64."""
    subject = credentials(basic_auth={"username": "Aladdin", "password": "open sesame"})
    said = subject.redact("you sent QWxhZGRpbjpvcGVuIHNlc2FtZQ==, that is open sesame")
    assert said == "you sent ***, that is ***"


def test_tls_without_files_is_the_systems_trust() -> None:
    """Without tls settings the system's trust store decides; only `insecure_skip_verify` turns it off."""
    assert credentials().tls() is True
    context = credentials(tls={"insecure_skip_verify": True}).tls()
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_NONE
    checked = credentials(tls={"server_name": "prometheus"}).tls()
    assert isinstance(checked, ssl.SSLContext)
    assert checked.verify_mode is ssl.CERT_REQUIRED


def test_a_broken_certificate_is_named(tmp_path: Path) -> None:
    """A CA file that is none is an error that names it."""
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(PrometheusUnavailable, match=r"tls: .*ca\.crt"):
        credentials(tls={"ca_file": tmp_path / "ca.crt"}).tls()
