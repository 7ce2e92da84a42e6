"""The connection to the API server: what a kubeconfig says, read again when one of its files says something else.

Tokens, client certificates and authorities rotate, in a pod every hour. An open connection shows the certificate of its
beginning, so new files mean new connections; what is under way on the old ones ends there.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from foreshock.core.errors import InvalidSettings, KubernetesUnavailable, Problem

MAX_REQUESTS = 32  # at a time; watches are beside them, and no work for the server until something changes
MAX_WATCHES = 160
READ_AGAIN_EVERY_S = 60.0  # where a file system shows no change of a mounted secret
_Stamp = tuple[int, int]
_NO_FILE: _Stamp = (0, 0)


def load_kubeconfig(path: Path | None) -> SingleConfig:
    """The administrator's kubeconfig where one is named; else the pod's own account, KUBECONFIG, or ~/.kube/config.

    Raises:
        InvalidSettings: there is none, or it cannot be read.

    """
    try:
        config = KubeConfig.from_env() if path is None else KubeConfig.from_file(path)
        single = config.get()
    except OSError as error:
        raise _no_kubeconfig(path, error.strerror or str(error)) from error
    # lightkube checks nothing of what it reads: whatever is not a kubeconfig fails in its own way
    except (ConfigError, yaml.YAMLError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _no_kubeconfig(path, " ".join(str(error).split())[:200]) from error
    if single is None:
        raise _no_kubeconfig(path, "it names no context")
    return single


def _no_kubeconfig(path: Path | None, why: str) -> InvalidSettings:
    message = f"There is no usable kubeconfig ({why}); pass --kubeconfig FILE, or run in a pod with a service account."
    return InvalidSettings((Problem(str(path or ""), "--kubeconfig", message),))


class TokenFile(httpx2.Auth):
    """A bearer token that is read again when its file changed, once a minute, and when the server refused it."""

    def __init__(self, path: Path, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic_s = path, monotonic_s
        self._token, self._stamp, self._read_at_s = "", _NO_FILE, float("-inf")

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._fresh()}"
        response = yield request
        if response.status_code == 401:
            self._read_at_s = float("-inf")
            request.headers["Authorization"] = f"Bearer {self._fresh()}"
            yield request

    def _fresh(self) -> str:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            now_s = self._monotonic_s()
            if stamp != self._stamp or now_s - self._read_at_s >= READ_AGAIN_EVERY_S:
                self._token, self._stamp, self._read_at_s = self._path.read_text().strip(), stamp, now_s
        except OSError as error:
            raise KubernetesUnavailable(
                f"The token file {self._path} cannot be read ({error.strerror}); mount the service account's token."
            ) from error
        return self._token


@dataclass(slots=True)
class _Opened:
    client: httpx2.AsyncClient
    url: str
    in_use: int = 0


class Connection:
    """At most 32 connections at once; close it when it is done with."""

    def __init__(self, config: SingleConfig, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._config, self._monotonic_s = config, monotonic_s
        self._stamps, self._read_at_s = self._stamped(), monotonic_s()
        self._said = self._digest()
        try:
            self._opened = _open(config)
        except (OSError, ssl.SSLError, ConfigError) as error:
            raise _no_kubeconfig(config.fname, str(error)) from error

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncGenerator[tuple[httpx2.AsyncClient, str]]:
        """The client, and the address before every path; what is begun here ends on the same client."""
        await self.renew()
        opened = self._opened
        opened.in_use += 1
        try:
            yield opened.client, opened.url
        finally:
            opened.in_use -= 1
            await self._let_go(opened)

    async def renew(self, *, refused: bool = False) -> bool:
        """Open anew where a file of the kubeconfig says something else; files that do not fit together yet wait.

        `refused`: the server did not take these credentials, so read the files whatever they show of themselves.
        """
        stamps, now_s = self._stamped(), self._monotonic_s()
        if not refused and stamps == self._stamps and now_s - self._read_at_s < READ_AGAIN_EVERY_S:
            return False
        self._stamps, self._read_at_s = stamps, now_s
        said = self._digest()
        if said == self._said:
            return False
        try:
            config = self._config if self._config.fname is None else load_kubeconfig(self._config.fname)
            opened = _open(config)
        except (OSError, ssl.SSLError, ConfigError, InvalidSettings):  # half-written: what was read before goes on
            self._stamps = ()
            return False
        before, self._opened, self._config, self._said = self._opened, opened, config, said
        self._stamps = self._stamped()
        await self._let_go(before)
        return True

    async def close(self) -> None:
        """Close the newest; older ones were closed when their last request ended."""
        await self._opened.client.aclose()

    async def _let_go(self, opened: _Opened) -> None:
        if opened is not self._opened and not opened.in_use:
            await opened.client.aclose()

    def _files(self) -> list[Path]:
        """Those that decide who we are and whom we trust; a token file is looked after by its own class."""
        config, user = self._config, self._config.user or User()
        named = (config.cluster.certificate_auth, user.client_cert, user.client_key)
        files = [Path(config.abs_file(each)) for each in named if each]
        return files if config.fname is None else [config.fname, *files]

    def _stamped(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(file) for file in self._files())

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for file in self._files():
            with contextlib.suppress(OSError):  # one that is missing right now is an outage and no change
                digest.update(file.read_bytes())
            digest.update(b"\0")
        return digest.digest()


def _stamp(file: Path) -> _Stamp:
    try:
        stat = file.stat()
    except OSError:
        return _NO_FILE
    return stat.st_mtime_ns, stat.st_ino


def _open(config: SingleConfig) -> _Opened:
    user = config.user or User()
    tls = verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
    auth = TokenFile(Path(config.abs_file(user.token_file))) if user.token_file else user_auth(user)
    client = httpx2.AsyncClient(
        auth=auth,
        trust_env=False,
        follow_redirects=False,
        headers={"User-Agent": "foreshock"},
        transport=httpx2.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx2.Limits(max_connections=MAX_REQUESTS + MAX_WATCHES)
        ),
    )
    return _Opened(client, config.cluster.server.rstrip("/"))
