"""The embedded database: durable (WAL, synchronous=FULL), and what each of its failures means to a person."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from foreshock.core.errors import Damaged, ForeshockError, StoreUnavailable

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "is locked by another process; stop the second Foreshock or the tool that holds it",
    sqlite3.SQLITE_LOCKED: "is locked by another connection; it will be tried again",
    sqlite3.SQLITE_READONLY: "is read-only; give the process write access to the file and its folder",
    sqlite3.SQLITE_FULL: "cannot grow because the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "had a disk I/O error; check the disk and its quota",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and may be written",
    sqlite3.SQLITE_PERM: "may not be opened; give the process access to the file",
}


def open_engine(url: URL, *, busy_timeout_s: float, options: dict[str, Any]) -> Engine:
    """An engine whose write transactions begin with the write lock, so that none fails half-way for it."""
    if url.database in {None, "", ":memory:"}:
        options = {**options, "poolclass": StaticPool}
    elif not url.query:  # `?uri=true` names a file in SQLite's own way
        _make_folder(Path(str(url.database)).parent)
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s, "check_same_thread": False}, **options)
    event.listen(engine, "connect", partial(_configure, busy_timeout_s=busy_timeout_s))
    event.listen(engine, "begin", _begin)
    return engine


def meaning(error: sqlite3.Error, label: str) -> ForeshockError:
    """Damaged where the file is, else unavailable, with a sentence that says what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code without its extension
    if code in _DAMAGED:
        return Damaged(f"{label} is damaged ({error}): move it away and restore a backup, or start anew.")
    return StoreUnavailable(f"{label} {_REMEDIES.get(code, f'cannot be used ({error})')}.")


def _configure(connection: sqlite3.Connection, _record: object, *, busy_timeout_s: float) -> None:
    connection.isolation_level = None  # transactions are begun by _begin; the driver's own begin too late
    for pragma in (
        f"busy_timeout={int(busy_timeout_s * 1_000)}",
        "journal_mode=WAL",
        "synchronous=FULL",  # NORMAL may lose the last commits of a WAL when the power fails
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("foreshock_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"The folder {folder} of the database cannot be made: {error.strerror}.") from error
