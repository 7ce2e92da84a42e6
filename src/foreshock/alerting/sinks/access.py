"""How sinks log in: TLS and mounted secrets, read anew whenever they are used, because they are rotated."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from foreshock.core.errors import SinkUnavailable

MAX_SECRET_BYTES = 4_096


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(_Part):
    """Whom to trust (the system's authorities where `ca_file` is absent), and our own certificate."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("set cert_file and key_file together")
        return self

    def context(self, sink: str) -> ssl.SSLContext:
        """Read the files.

        Raises:
            SinkUnavailable: one of them cannot be read, or is not what its key says.

        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # ssl.SSLError is one
            raise SinkUnavailable(f"Sink {sink!r} cannot use the files of its tls: {error.strerror}.") from error
        return context


class Login(_Part):
    """A user name with its password, given here or in a mounted file."""

    username: str = Field(min_length=1, max_length=256)
    password: SecretStr | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("set exactly one of password and password_file")
        return self

    def read(self, sink: str) -> str:
        """The password of now.

        Raises:
            SinkUnavailable: its file cannot be read.

        """
        if self.password is not None:
            return self.password.get_secret_value()
        assert self.password_file is not None
        return read_secret(sink, "password_file", self.password_file).decode(errors="replace")


def read_secret(sink: str, key: str, file: Path) -> bytes:
    """The content of a mounted secret without the white space around it.

    Raises:
        SinkUnavailable: the file cannot be read, is empty, or holds more than a secret.

    """
    try:
        with file.open("rb") as opened:
            secret = opened.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise SinkUnavailable(f"Sink {sink!r} cannot read its {key} {file}: {error.strerror}.") from error
    if not secret or len(secret) > MAX_SECRET_BYTES:
        raise SinkUnavailable(f"Sink {sink!r} needs a secret of 1 to {MAX_SECRET_BYTES} bytes in {file}.")
    return secret
