"""How sinks log in: TLS and mounted secrets, read anew whenever they are used, because they are rotated."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from foreshock.core import access
from foreshock.core.access import Login
from foreshock.core.errors import SinkUnavailable


class Tls(BaseModel):
    """Whom to trust (the system's authorities where `ca_file` is absent), and our own certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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


def read_password(sink: str, login: Login) -> str:
    """The password of now.

    Raises:
        SinkUnavailable: its file cannot be read.

    """
    if login.password is not None:
        return login.password.get_secret_value()
    assert login.password_file is not None
    return read_secret(sink, "password_file", login.password_file).decode(errors="replace")


def read_secret(sink: str, key: str, file: Path) -> bytes:
    """The content of a mounted secret without the white space around it.

    Raises:
        SinkUnavailable: the file cannot be read, is empty, or holds more than a secret.

    """
    try:
        return access.read_secret(file).strip()
    except ValueError as error:
        raise SinkUnavailable(f"Sink {sink!r} has no {key}: {error}.") from error
