"""Who we are to one datasource: headers and TLS, read again whenever one of the files behind them changes."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path

from foreshock.core.access import read_secret
from foreshock.core.errors import PrometheusUnavailable
from foreshock.prometheus.settings import Datasource

_MASK = "***"

_Stamp = tuple[int, int, int]  # Kubernetes swaps a symbolic link: the inode changes even where the time does not


@dataclass(slots=True)
class _SecretFile:
    path: Path
    field: str
    stamp: _Stamp | None = None
    text: str = ""

    def read(self) -> str:
        stamp = _stamp(self.path, self.field)
        if stamp != self.stamp:
            try:
                text = read_secret(self.path).decode().strip()
            except UnicodeDecodeError as error:
                raise _unreadable(self.path, self.field, error) from error
            except ValueError as error:
                raise PrometheusUnavailable(f"{self.field}: {error}") from error
            if not text.isprintable():
                raise PrometheusUnavailable(f"{self.field}: {self.path} must hold one line of text, the secret alone")
            self.text, self.stamp = text, stamp
        return self.text


class Credentials:
    """The headers and the TLS context of the next request; a rotated secret or certificate is used at once."""

    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource
        self._secret = _secret_file(datasource)
        self._context: ssl.SSLContext | None = None
        self._context_stamps: tuple[_Stamp, ...] | None = None

    def headers(self) -> dict[str, str]:
        """`Authorization` and the tenant's header, as far as they are configured.

        Raises:
            PrometheusUnavailable: a secret's file cannot be read right now.
        """
        headers = {}
        if (authorization := self._authorization()) is not None:
            headers["Authorization"] = authorization
        if (tenant := self._datasource.tenant) is not None:
            headers[tenant.name] = tenant.value
        return headers

    def tls(self) -> ssl.SSLContext | bool:
        """What aiohttp takes as `ssl`: the context of the current files, or True for the system's own trust.

        Raises:
            PrometheusUnavailable: a certificate's file cannot be read or is none.
        """
        if (tls := self._datasource.tls) is None:
            return True
        named = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
        files = {name: path for name, path in named.items() if path is not None}
        stamps = tuple(_stamp(path, f"tls.{name}") for name, path in files.items())
        if self._context is None or stamps != self._context_stamps:
            try:
                context = ssl.create_default_context(cafile=files.get("ca_file"))
                if tls.cert_file is not None and tls.key_file is not None:
                    context.load_cert_chain(tls.cert_file, tls.key_file)
            except (OSError, ssl.SSLError) as error:
                raise PrometheusUnavailable(
                    f"tls: {', '.join(map(str, files.values()))} are no valid certificates or keys ({error})"
                ) from error
            if tls.insecure_skip_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._context, self._context_stamps = context, stamps
        return self._context

    def redact(self, text: str) -> str:
        """The text with every secret of this datasource masked: servers and proxies do echo what they were sent."""
        for secret in self._secrets():
            text = text.replace(secret, _MASK)
        return text

    def _authorization(self) -> str | None:
        source = self._datasource
        if source.basic_auth is not None:
            password = source.basic_auth.password
            secret = self._secret.read() if self._secret else password.get_secret_value() if password else ""
            return f"Basic {_basic(source.basic_auth.username, secret)}"
        if self._secret is not None:
            return f"Bearer {self._secret.read()}"
        if source.bearer_token is not None:
            return f"Bearer {source.bearer_token.get_secret_value()}"
        return None

    def _secrets(self) -> list[str]:
        source, known = self._datasource, []
        if self._secret is not None:
            known.append(self._secret.text)
        if source.bearer_token is not None:
            known.append(source.bearer_token.get_secret_value())
        if source.basic_auth is not None:
            if source.basic_auth.password is not None:
                known.append(source.basic_auth.password.get_secret_value())
            known += [_basic(source.basic_auth.username, secret) for secret in known]
        return sorted(filter(None, known), key=len, reverse=True)


def _secret_file(datasource: Datasource) -> _SecretFile | None:
    if datasource.basic_auth is not None and datasource.basic_auth.password_file is not None:
        return _SecretFile(datasource.basic_auth.password_file, "basic_auth.password_file")
    if datasource.bearer_token_file is not None:
        return _SecretFile(datasource.bearer_token_file, "bearer_token_file")
    return None


def _stamp(path: Path, field: str) -> _Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, field, error) from error
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _unreadable(path: Path, field: str, error: Exception) -> PrometheusUnavailable:
    return PrometheusUnavailable(f"{field}: cannot read {path} ({type(error).__name__})")


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()
