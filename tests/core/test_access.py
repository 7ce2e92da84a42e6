"""Logins and mounted secrets, as every adapter reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from foreshock.core.access import MAX_SECRET_BYTES, Login, read_secret


def test_a_secret_is_its_file_without_the_line_break(tmp_path: Path) -> None:
    """Spaces may belong to a password, and the line break of an editor does not."""
    file = tmp_path / "secret"
    file.write_bytes(b" open sesame \r\n")
    assert read_secret(file) == b" open sesame "


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b" \n", "is empty"),
        (b"x" * (MAX_SECRET_BYTES + 1), f"is longer than {MAX_SECRET_BYTES} bytes"),
    ],
)
def test_a_file_that_is_no_secret_is_one_sentence_that_names_it(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """Missing, empty or the wrong file: the sentence says which, and nothing of what is in it."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file} {words}"):
        read_secret(file)


def test_a_login_has_exactly_one_password() -> None:
    """In the settings or in a file; it prints as stars."""
    assert "canary" not in repr(Login.model_validate({"username": "me", "password": "canary"}))
    for given in ({}, {"password": "canary", "password_file": "/run/secret"}):
        with pytest.raises(ValidationError, match="set exactly one of password and password_file") as caught:
            Login.model_validate({"username": "me", **given})
        assert "canary" not in str(caught.value)
