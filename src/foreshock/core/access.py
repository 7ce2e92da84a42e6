"""How adapters log in: a user name with its password, and mounted secrets, read anew because they are rotated."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

MAX_SECRET_BYTES = 64 * 1024  # a token is some kilobytes; anything larger is the wrong file


class Login(BaseModel):
    """A user name with its password, given here or in a mounted file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    username: str = Field(min_length=1, max_length=256)
    password: SecretStr | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("set exactly one of password and password_file")
        return self


def read_secret(file: Path, *, most_bytes: int = MAX_SECRET_BYTES) -> bytes:
    """The content of a mounted secret, without the line break at its end.

    Raises:
        ValueError: it cannot be read, is empty, or is too long for a secret; a sentence that names the file.

    """
    try:
        with file.open("rb") as opened:
            content = opened.read(most_bytes + 1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); mount it or correct the path") from error
    if len(content) > most_bytes:
        raise ValueError(f"{file} is longer than {most_bytes} bytes; name the file of the secret alone")
    if not content.strip():
        raise ValueError(f"{file} is empty; write the secret into it")
    return content.rstrip(b"\r\n")
