"""What only the embedded database has: its file, its lock, its disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from tests.store.records_for_tests import cycle, everything

from foreshock.core.errors import Damaged, StoreUnavailable
from foreshock.store.history import History


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/foreshock.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "foreshock.db"


@pytest.fixture
def history(url: str) -> Iterator[History]:
    history = History(url, busy_timeout_s=0.2)
    yield history
    history.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 200, b"SQLite format 3\0" + b"\xff" * 8_000]
)
def test_a_file_that_is_no_database_is_damaged(url: str, path: Path, content: bytes) -> None:
    """Garbage is `Damaged`, with a sentence, and stays as it is."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Damaged, match="move it away and restore a backup"):
        History(url)
    assert path.read_bytes() == content


def test_damage_inside_the_file_is_found_when_it_is_read(history: History, url: str, path: Path) -> None:
    """A database whose pages were overwritten raises `Damaged`, never an empty answer."""
    for n in range(200):
        history.commit_cycle(cycle(n))
    history.close()
    content = bytearray(path.read_bytes())
    content[4_096:-4_096] = b"\xa5" * (len(content) - 8_192)
    path.write_bytes(content)

    def read() -> None:
        reopened = History(url)
        try:
            reopened.load_alert_states()
        finally:
            reopened.close()

    with pytest.raises(Damaged, match="is damaged"):
        read()


def test_a_value_that_is_no_json_is_damaged(history: History, path: Path) -> None:
    """A column edited by hand is `Damaged`, not an exception that nobody mapped."""
    history.commit_cycle(cycle(1))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alert_states SET state = '{'")
    connection.close()
    with pytest.raises(Damaged, match="no JSON"):
        history.load_alert_states()


def test_a_foreign_lock_makes_it_unavailable_and_nothing_is_lost(history: History, path: Path) -> None:
    """While another process holds the write lock, a commit fails with a sentence and reads go on; later it succeeds."""
    history.commit_cycle(cycle(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        history.commit_cycle(cycle(2))
    with pytest.raises(StoreUnavailable):
        history.check_writable()
    assert len(history.incidents()) == 1
    other.execute("ROLLBACK")
    other.close()
    history.check_writable()
    history.commit_cycle(cycle(2))
    assert len(history.incidents()) == 2


def test_a_read_only_database_is_unavailable(history: History, path: Path) -> None:
    """A volume that became read-only is named in the sentence."""
    history.commit_cycle(cycle(1))
    history.close()
    with pytest.raises(StoreUnavailable, match=r"is read-only; give the process write access"):
        History(f"sqlite:///file:{path}?mode=ro&uri=true")


def test_a_full_disk_loses_nothing_that_was_committed(history: History) -> None:
    """SQLITE_FULL is `StoreUnavailable`; the cycle that did not fit is absent as a whole, the others are whole."""
    history.commit_cycle(cycle(1))

    @event.listens_for(history._database._engine, "engine_connect")
    def no_more_pages(connection: Connection) -> None:
        connection.connection.dbapi_connection.execute("PRAGMA max_page_count = 1")  # type: ignore[union-attr]

    before = everything(history)
    for n in range(2, 500):
        try:
            history.commit_cycle(cycle(n))
        except StoreUnavailable as error:
            assert "disk is full" in str(error)  # noqa: PT017 - which commit no longer fits is SQLite's affair
            break
        before = everything(history)
    else:
        pytest.fail("the disk never filled")
    assert everything(history) == before


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A file where the folder should be is a sentence, not a traceback."""
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        History(f"sqlite:///{tmp_path}/state/foreshock.db")


def test_it_is_durable_by_its_settings(history: History) -> None:
    """WAL, synchronous=FULL and foreign keys hold on every connection that reads or writes."""
    for opened in (history._database.writing, history._database.reading):
        with opened() as connection:
            answers = [
                connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert answers == ["wal", 2, 1, 200]
