"""A real S3 server, versitygw over a folder, on a free loopback port: one for the whole run, a bucket for each test."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from tests.servers.binaries import built
from tests.servers.certificates import Authority
from tests.servers.processes import STARTS, Breakable, Server, ServerError, free_port, launch, until

READY_WITHIN_S = 30.0
KEY_ID, SECRET = "foreshock-tests", "canary-5d1f0c7e9a"
_PORT_TAKEN = "address already in use"


@dataclass(slots=True)
class S3(Breakable):
    """A running server: `url` is the endpoint; `folder` holds a folder for each bucket, with a file for each object."""

    folder: Path
    port: int
    server: Server
    authority: Path | None
    _command: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{'http' if self.authority is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, object]:
        """What an administrator writes under `s3`."""
        trust = {} if self.authority is None else {"ca_file": str(self.authority)}
        return {"endpoint": self.url, "access_key_id": KEY_ID, "secret_access_key": SECRET, "timeout": 5, **trust}

    def new_bucket(self) -> str:
        """Make an empty bucket with a random name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        (self.folder / name).mkdir()
        return name

    def restart(self) -> None:
        """Start it again on the same port; call it in the main thread, with which the server ends."""
        self.server.stop()
        self.server = launch(self._command, self.server.log, environment=_ROOT)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until somebody listens; versitygw answers as soon as it does."""
        until(self._listens, within_s=READY_WITHIN_S, what="the S3 server listens", server=self.server)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


_ROOT = {"ROOT_ACCESS_KEY": KEY_ID, "ROOT_SECRET_KEY": SECRET}


@contextlib.contextmanager
def serving(folder: Path, *, tls: bool = False) -> Iterator[S3]:
    """A fresh server over `folder`."""
    found = built("versitygw")
    buckets, attributes = folder / "buckets", folder / "attributes"
    for each in (buckets, attributes):
        each.mkdir(parents=True)
    authority = Authority(folder, "s3-ca") if tls else None
    options: list[str] = []
    if authority is not None:
        pair = authority.server("s3")
        options = ["--cert", str(pair.certificate), "--key", str(pair.key)]
    for _ in range(STARTS):
        port = free_port()
        # Its attributes lie in files beside the buckets, so that any file system will do
        command = (
            str(found / "versitygw"), "--port", f"127.0.0.1:{port}", "--quiet", *options,
            "posix", "--sidecar", str(attributes), str(buckets),
        )  # fmt: skip
        server = launch(command, folder / "s3.log", environment=_ROOT)
        s3 = S3(buckets, port, server, authority.certificate if authority else None, command)
        try:
            s3.wait_until_ready()
        except ServerError as error:
            server.stop()
            if _PORT_TAKEN in str(error):
                continue
            raise
        try:
            yield s3
        finally:
            s3.server.stop()
        return
    raise ServerError(f"every one of {STARTS} free ports was taken before the S3 server listened on it")


class NewS3(Protocol):
    """Start one more server, to be killed and paused, or with TLS; it is removed after the test."""

    def __call__(self, *, tls: bool = False) -> S3: ...


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for the whole run; stop nothing of it."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def new_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewS3]:
    """A function that starts servers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(*, tls: bool = False) -> S3:
            return stack.enter_context(serving(tmp_path_factory.mktemp("s3"), tls=tls))

        yield start
