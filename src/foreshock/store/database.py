"""Opens the database and maps every error of it to ours; whole transactions or nothing, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from foreshock.core.errors import Damaged, ForeshockError, StoreUnavailable, UserError
from foreshock.store import on_postgresql, on_sqlite
from foreshock.store.migrate import MIGRATIONS, prepare
from foreshock.store.on_postgresql import PATIENCE, Patience

BUSY_TIMEOUT_S = 5.0
_A_GOOD_URL = "write sqlite:///folder/foreshock.db or postgresql+psycopg://user:password@host/name"


class Database:
    """A connection pool whose every failure is one of ours: `StoreUnavailable` or `Damaged`.

    Reads run side by side. On SQLite writes are serialised by a lock in the process and by `BEGIN IMMEDIATE` between
    processes, so that no transaction fails half-way for a lock that it could not get; PostgreSQL does that by itself.
    """

    def __init__(
        self,
        url: str,
        *,
        migrations: Path = MIGRATIONS,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        patience: Patience = PATIENCE,
        password_file: Path | None = None,
    ) -> None:
        self._engine = _engine(url, busy_timeout_s, patience, password_file)
        self._closed = False
        self._is_memory = isinstance(self._engine.pool, StaticPool)
        self.dialect = self._engine.dialect.name
        self._label = _label(self._engine)
        self._one_writer: contextlib.AbstractContextManager[Any] = (
            contextlib.nullcontext() if self.is_postgresql else threading.RLock()
        )
        try:
            with self.writing() as connection:
                if self.is_postgresql:
                    on_postgresql.lock_for_migration(connection)
                prepare(connection, migrations)
        except ForeshockError:
            self.close()
            raise

    @property
    def is_postgresql(self) -> bool:
        return self.dialect == "postgresql"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed as a whole when the block ends, or not at all.

        Raises:
            StoreUnavailable: nothing was written, or nobody can say; the same call may be made again.
            Damaged: the file is not a database any more.

        """
        with self._one_writer, self._mapped(), self._connected() as connection:
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
        with self._mapped(), self._connected() as connection:
            if self.is_postgresql:  # its default shows each statement a newer state
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every connection, those in use when they are given back; calling it twice is harmless."""
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        pool = self._engine.pool  # closing gives the engine another one, and leaves what is in use to this one
        try:
            with self._engine.connect() as connection:
                yield connection
        finally:
            if self._closed:
                pool.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:  # ours to mend, not to try again
            raise ValueError(f"the changes do not fit together: {_first_line(error.orig)}") from error
        except sqlite3.Error as error:
            raise on_sqlite.meaning(error, self._label) from error
        except psycopg.Error as error:
            raise on_postgresql.meaning(error, self._label) from error
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            if isinstance(original, sqlite3.Error):
                raise on_sqlite.meaning(original, self._label) from error
            if isinstance(original, psycopg.Error):
                raise on_postgresql.meaning(original, self._label) from error
            raise StoreUnavailable(
                f"{self._label} does not answer as it should ({type(original or error).__name__}); check that it runs."
            ) from error
        except json.JSONDecodeError as error:
            raise Damaged(f"{self._label} holds a value that is no JSON: restore a backup.") from error


def _engine(url: str, busy_timeout_s: float, patience: Patience, password_file: Path | None) -> Engine:
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, allow_nan=False, separators=(",", ":")),
        "hide_parameters": True,  # an error must not carry the evidence of an incident into a log
    }
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            return on_postgresql.open_engine(parsed, patience=patience, password_file=password_file, options=options)
        return on_sqlite.open_engine(parsed, busy_timeout_s=busy_timeout_s, options=options)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise UserError(f"database is no URL that can be opened: {_A_GOOD_URL} ({type(error).__name__}).") from error


def _first_line(error: BaseException | None) -> str:
    """What the database says; the lines after the first quote the row, which may be somebody's secret."""
    return str(error).strip().partition("\n")[0]


def _label(engine: Engine) -> str:
    """The database in a sentence: its file, or its address with the password as stars."""
    if engine.dialect.name == "sqlite":
        return f"The database {engine.url.database or ':memory:'}"
    return f"The database {engine.url.set(query={}).render_as_string(hide_password=True)}"
