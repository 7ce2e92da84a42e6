"""Opens the database and maps every error of it; durable on SQLite (WAL, synchronous=FULL), one writer at a time."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from foreshock.core.errors import Damaged, ForeshockError, StoreUnavailable, UserError
from foreshock.store.schema import MIGRATIONS, Migration, prepare

BUSY_TIMEOUT_S = 5.0
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: "is locked by another process; stop the second Foreshock or the tool that holds it",
    sqlite3.SQLITE_LOCKED: "is locked by another connection; it will be tried again",
    sqlite3.SQLITE_READONLY: "is read-only; give the process write access to the file and its folder",
    sqlite3.SQLITE_FULL: "cannot grow because the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "had a disk I/O error; check the disk and its quota",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and may be written",
    sqlite3.SQLITE_PERM: "may not be opened; give the process access to the file",
}


class Database:
    """A connection pool whose every failure is one of ours: `StoreUnavailable` or `Damaged`.

    Reads run side by side; writes are serialised by a lock in the process and by `BEGIN IMMEDIATE` between processes,
    so that no transaction fails half-way for a lock that it could not get.
    """

    def __init__(
        self, url: str, *, migrations: tuple[Migration, ...] = MIGRATIONS, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        self._engine = _engine(url, busy_timeout_s)
        self._is_memory = isinstance(self._engine.pool, StaticPool)
        self.dialect = self._engine.dialect.name
        self._label = _label(self._engine)
        self._one_writer = threading.RLock()
        try:
            with self.writing() as connection:
                prepare(connection, migrations)
        except ForeshockError:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed as a whole when the block ends, or not at all.

        Raises:
            StoreUnavailable: nothing was written; the same call may be made again.
            Damaged: the file is not a database any more.

        """
        with self._one_writer, self._mapped(), self._engine.connect() as connection:
            connection.execution_options(foreshock_writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database; raises as `writing` does."""
        if self._is_memory:  # one connection serves all threads
            with self.writing() as connection:
                yield connection
            return
        with self._mapped(), self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close every connection; calling it twice is harmless."""
        self._engine.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:  # ours to mend, not to try again
            raise ValueError(f"the changes do not fit together: {error.orig}") from error
        except sqlite3.Error as error:
            raise self._from_sqlite(error) from error
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            if isinstance(original, sqlite3.Error):
                raise self._from_sqlite(original) from error
            raise StoreUnavailable(
                f"{self._label} does not answer as it should ({type(original or error).__name__}); check that it runs."
            ) from error
        except json.JSONDecodeError as error:
            raise Damaged(f"{self._label} holds a value that is no JSON: restore a backup.") from error

    def _from_sqlite(self, error: sqlite3.Error) -> ForeshockError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code without its extension
        if code in _SQLITE_DAMAGED:
            return Damaged(f"{self._label} is damaged ({error}): move it away and restore a backup, or start anew.")
        return StoreUnavailable(f"{self._label} {_SQLITE_REMEDIES.get(code, f'cannot be used ({error})')}.")


def _engine(url: str, busy_timeout_s: float) -> Engine:
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, allow_nan=False, separators=(",", ":")),
        "hide_parameters": True,  # an error must not carry the evidence of an incident into a log
    }
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True, **options)
        options["connect_args"] = {"timeout": busy_timeout_s, "check_same_thread": False}
        if parsed.database in {None, "", ":memory:"}:
            options["poolclass"] = StaticPool
        elif not parsed.query:  # `?uri=true` names a file in SQLite's own way
            _make_folder(Path(str(parsed.database)).parent)
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise UserError(
            "database is no URL that can be opened: write sqlite:///folder/foreshock.db or "
            f"postgresql+psycopg://host/name with its driver installed ({type(error).__name__})."
        ) from error
    event.listen(engine, "connect", partial(_configure_sqlite, busy_timeout_s=busy_timeout_s))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object, *, busy_timeout_s: float) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite; the driver's own begin too late
    for pragma in (
        f"busy_timeout={int(busy_timeout_s * 1_000)}",
        "journal_mode=WAL",
        "synchronous=FULL",  # NORMAL may lose the last commits of a WAL when the power fails
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("foreshock_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"The folder {folder} of the database cannot be made: {error.strerror}.") from error


def _label(engine: Engine) -> str:
    """The database in a sentence: its file, or its address with the password as stars."""
    if engine.dialect.name == "sqlite":
        return f"The database {engine.url.database or ':memory:'}"
    return f"The database {engine.url.render_as_string(hide_password=True)}"
