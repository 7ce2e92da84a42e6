"""PostgreSQL through psycopg: no call waits for ever, and what each failure means to a person."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event

from foreshock.core.access import read_secret
from foreshock.core.errors import Damaged, ForeshockError, StoreUnavailable

_POOL_SIZE = 5
_MOST_CONNECTIONS = 10
_SPARE_S = 2.0  # the server ends a statement by itself before we leave it

_Result = TypeVar("_Result")

# SQLSTATE, or its class of two letters, to what a person does about it
_REMEDIES = {
    "25006": "is read-only; check that it is the primary and that default_transaction_read_only is off",
    "53": "has no room left (disk, memory or connections); see its log",
    "53100": "cannot grow because its disk is full; free some space",
    "53300": "has no connection left; raise max_connections or lower the number of its clients",
    "28": "refuses the login; check user and password",
    "3D000": "does not exist on that server; create it",
    "42501": "may not be used by this user; grant it CREATE on the schema, or own the tables",
    "40": "had a conflict with another transaction; it will be tried again",
    "55P03": "is locked by another transaction; it will be tried again",
    "57014": "did not answer in time; it will be tried again",
    "57P": "is starting, stopping or was restarted; it will be tried again",
}
_DAMAGED = {"XX001", "XX002"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long PostgreSQL may take, in seconds: to take a connection, to get a lock, and for one statement."""

    connect_s: float = 5.0
    lock_s: float = 5.0
    statement_s: float = 10.0


PATIENCE = Patience()


class _BoundedConnection(psycopg.Connection[Any]):
    """Ends a wait for the server at the deadline, also when the server's own time-outs stand still with it.

    A stopped process keeps its sockets open and its kernel acknowledges every packet, so that neither
    `statement_timeout` nor TCP ever notices.
    """

    longest_wait_s = 60.0

    def wait(self, gen: Generator[Any, Any, _Result], *args: Any, **kwargs: Any) -> _Result:
        """As the driver's, but no longer than `longest_wait_s`; the connection is closed then."""
        try:
            return super().wait(_until(gen, time.monotonic() + self.longest_wait_s), *args, **kwargs)
        except _WaitedTooLong as error:
            self.pgconn.finish()  # no goodbye: it would wait as well
            raise psycopg.errors.QueryCanceled("the server did not answer in time") from error


class _WaitedTooLong(Exception):
    pass


def _until(gen: Generator[Any, Any, _Result], ends_at_s: float) -> Generator[Any, Any, _Result]:
    """The same generator; the driver resumes it every tenth of a second, with nothing where nothing arrived."""
    try:
        state = next(gen)
        while True:
            ready = yield state
            if not ready and time.monotonic() > ends_at_s:
                gen.close()
                raise _WaitedTooLong
            state = gen.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return] # a generator's value is untyped in its StopIteration


def open_engine(url: URL, *, patience: Patience, password_file: Path | None, options: dict[str, Any]) -> Engine:
    """An engine of bounded connections; the password file is read for each new one, so that it may be rotated."""
    engine = create_engine(
        url,
        connect_args={"connect_timeout": max(2, round(patience.connect_s)), "application_name": "foreshock"},
        pool_pre_ping=True,
        pool_size=_POOL_SIZE,
        max_overflow=_MOST_CONNECTIONS - _POOL_SIZE,
        pool_timeout=patience.connect_s,
        **options,
    )

    def connect(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> psycopg.Connection:
        if password_file is not None:
            named = {**named, "password": _password(password_file)}
        connection = _BoundedConnection.connect(*arguments, **named)
        connection.longest_wait_s = patience.statement_s + _SPARE_S
        return connection

    event.listen(engine, "do_connect", connect)

    def configure(connection: psycopg.Connection[Any], _record: object) -> None:
        try:
            _configure(connection, patience)
        except BaseException:
            connection.close()  # the pool does not know it yet, and nobody else would
            raise

    event.listen(engine, "connect", configure)
    return engine


def _configure(connection: psycopg.Connection[Any], patience: Patience) -> None:
    """Time-outs of the server, and commits that are on the disk when they are acknowledged."""
    connection.execute(
        """
        SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),
               set_config('idle_in_transaction_session_timeout', %s, false),
               set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                          WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
        """,
        [
            f"{round(seconds * 1_000)}ms"
            for seconds in (patience.statement_s, patience.lock_s, 6 * patience.statement_s)
        ],
    )
    connection.commit()


def meaning(error: psycopg.Error, label: str) -> ForeshockError:
    """Damaged where the server found its files to be, else unavailable, with a sentence that says what to do."""
    state = error.sqlstate or ""
    if state in _DAMAGED:
        return Damaged(f"{label} is damaged ({error}): restore a backup, or start anew.")
    for known in (state, state[:3], state[:2]):
        if known in _REMEDIES:
            return StoreUnavailable(f"{label} {_REMEDIES[known]}.")
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return StoreUnavailable(f"{label} did not answer in time; it will be tried again.")
    return StoreUnavailable(f"{label} does not answer as it should: {_first_line(error)}; check that it runs.")


def _first_line(error: psycopg.Error) -> str:
    """What the server or the driver says, without the statement; neither knows the password or a parameter."""
    said = (error.diag.message_primary or str(error)).strip().splitlines()
    return said[0][:200].rstrip(".;") if said else type(error).__name__


def _password(file: Path) -> str:
    try:
        return read_secret(file).decode(errors="replace")
    except ValueError as error:
        raise StoreUnavailable(f"database_password_file: {error}.") from error


def lock_for_migration(connection: Connection) -> None:
    """One process at a time creates or migrates the tables; the lock goes with the transaction."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(8390446221)")  # any number that nobody else uses
