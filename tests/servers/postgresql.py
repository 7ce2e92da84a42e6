"""A real PostgreSQL on a free loopback port: one for the whole run, a database for each test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from tests.servers.binaries import require
from tests.servers.processes import STARTS, Server, ServerError, free_port, launch, paused, until

READY_WITHIN_S = 60.0
USER = "foreshock"
_PORT_TAKEN = "Address already in use"
_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(slots=True)
class PostgreSQL:
    """A running server: `url(database)` is what SQLAlchemy opens."""

    folder: Path
    port: int
    server: Server
    _command: tuple[str, ...]
    _user: str | None

    def url(self, database: str = "postgres", *, user: str = USER, password: str = "") -> str:
        """The address of a database; every password is right, since the server trusts its loopback."""
        secret = f":{password}" if password else ""
        return f"postgresql+psycopg://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database with a random name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """One statement of the superuser."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """SIGKILL to the server and all its backends; `restart` brings it back."""
        with paused(self.server):  # or it would start a backend while they are counted
            self.server.kill()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Server and backends under SIGSTOP: the port accepts and nothing answers."""
        return paused(self.server)

    def restart(self) -> None:
        """Start it again on the same port; call it in the main thread, with which the server ends."""
        self.stop()
        ends_s = time.monotonic() + READY_WITHIN_S
        while True:
            self.server = launch(self._command, self.folder / "postgresql.log", user=self._user)
            try:
                return self.wait_until_ready()
            except ServerError as error:  # a backend that was killed may hold the shared memory a moment longer
                if "shared memory block" not in str(error) or time.monotonic() > ends_s:
                    raise
            time.sleep(0.1)

    def wait_until_ready(self) -> None:
        """Until it answers a statement."""
        until(self._answers, within_s=READY_WITHIN_S, what="PostgreSQL answers", server=self.server)

    def stop(self) -> None:
        """End it without waiting for its clients; twice is allowed."""
        self.server.stop(signal.SIGINT)

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False


@contextlib.contextmanager
def serving(*, fsync: bool = False, settings: Sequence[str] = ()) -> Iterator[PostgreSQL]:
    """A fresh server; `settings` are lines such as `statement_timeout=1s`.

    PostgreSQL refuses root: there it runs as the package's user `postgres`, in a folder that this user owns, which is
    why the folder is not one of pytest's.
    """
    found = _binaries()
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="foreshock-postgresql-"))
    try:
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        server = _start(found, folder, user, [f"fsync={'on' if fsync else 'off'}", *settings])
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(found: Path, folder: Path, user: str | None, settings: Sequence[str]) -> PostgreSQL:
    data = folder / "data"
    made = launch(
        [str(found / "initdb"), "-D", str(data), "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"],
        folder / "initdb.log",
        user=user,
    )
    if made.process.wait(READY_WITHIN_S):
        raise ServerError(f"initdb failed: {made.last_words()}")
    for _ in range(STARTS):
        port = free_port()
        command = [str(found / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
        for setting in ("listen_addresses=127.0.0.1", *settings):
            command += ["-c", setting]
        server = launch(command, folder / "postgresql.log", user=user)
        database = PostgreSQL(folder, port, server, tuple(command), user)
        try:
            database.wait_until_ready()
        except BaseException as error:
            database.stop()
            if isinstance(error, ServerError) and _PORT_TAKEN in str(error):
                continue
            raise
        return database
    raise ServerError(f"every one of {STARTS} free ports was taken before PostgreSQL listened on it")


def _binaries() -> Path:
    """The newest version that Debian installed, else the one of PATH; both of initdb and postgres lie there."""
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    require("initdb", "postgres", package="postgresql")
    path = shutil.which("postgres")
    assert path is not None
    return Path(path).resolve().parent


class NewPostgreSQL(Protocol):
    """Start one more server, to be killed, paused and restarted; it is removed after the test."""

    def __call__(self, *, fsync: bool = False, settings: Sequence[str] = ()) -> PostgreSQL: ...


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the whole run; stop nothing of it."""
    with serving() as server:
        yield server


@pytest.fixture
def new_postgresql() -> Iterator[NewPostgreSQL]:
    """A function that starts servers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(*, fsync: bool = False, settings: Sequence[str] = ()) -> PostgreSQL:
            return stack.enter_context(serving(fsync=fsync, settings=settings))

        yield start


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """The URL of an empty database of the test's own; it is dropped after the test, whoever is still connected."""
    name = postgresql.new_database()
    yield postgresql.url(name)
    postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")
