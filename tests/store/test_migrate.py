"""The way from every older database to this one, on both servers: whole, once, and to exactly the tables in use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from tests.store.records_for_tests import cycle, everything

from foreshock.core.errors import Damaged, DatabaseTooNew, StoreUnavailable
from foreshock.store.history import History
from foreshock.store.migrate import MIGRATIONS
from foreshock.store.schema import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path}/foreshock.db"


@pytest.fixture
def server(url: str) -> Iterator[Engine]:
    """The same database past the store, as another program sees it."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A copy of the revisions, for a test to add some."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def execute(server: Engine, statement: str) -> list[tuple[object, ...]]:
    with server.begin() as connection:
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def add_revision(more: Path, number: int, *statements: str) -> None:
    lines = [f"    op.execute({statement!r})" for statement in statements]
    (more / f"versions/r9{number:03}.py").write_text(
        "from alembic import op\n\n"
        f"revision = '9{number:03}'\ndown_revision = {_newest(more)!r}\n\n\n"
        "def upgrade():\n" + "\n".join(lines) + "\n"
    )


def _newest(migrations: Path) -> str | None:
    return ScriptDirectory(str(migrations)).get_current_head()


def make_by_hand(server: Engine, version: str) -> None:
    """The tables as the Foreshock before Alembic made them, which knew two versions."""
    with server.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, f"000{version}")
    execute(server, "DROP TABLE alembic_version")
    execute(server, f"INSERT INTO meta VALUES ('schema_version', '{version}')")


def test_the_revisions_lead_to_exactly_the_tables_in_use(url: str, server: Engine) -> None:
    """Alembic finds no difference between a migrated database and `store/schema.py`: table, column, type or index."""
    History(url).close()
    with server.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_revisions_are_one_line() -> None:
    """Two that follow the same one would be two databases; each file is named after its revision."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    names = [Path(script.path).name for script in scripts.walk_revisions()]
    assert len(scripts.get_heads()) == 1
    assert names == sorted(names, reverse=True)
    assert all(
        name.startswith(f"r{script.revision}_") for name, script in zip(names, scripts.walk_revisions(), strict=True)
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_database_from_before_alembic_is_adopted(url: str, server: Engine, version: str) -> None:
    """It keeps what it holds and gets what it lacks; the Foreshock that made it would be told to make way."""
    make_by_hand(server, version)
    execute(server, "INSERT INTO progress VALUES ('k', 'shop', 'a', '[]', 60, '{}')")
    history = History(url)
    history.begin_epoch(3)
    assert history.lease_epoch() == 3
    assert [one.judged_at_s for one in history.load_progress().values()] == [60]
    history.commit_cycle(cycle(1))
    history.close()
    assert execute(server, "SELECT value FROM meta WHERE key = 'schema_version'") == [("3",)]
    with server.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_newer_database_is_refused_and_left_as_it_is(url: str, server: Engine) -> None:
    """Going back to an old Foreshock does not touch what the new one wrote."""
    History(url).close()
    execute(server, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew, match="schema revision 9999 and this Foreshock knows"):
        History(url)
    assert execute(server, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_an_older_database_is_migrated_in_order_and_once(url: str, more: Path) -> None:
    """Each revision runs once, after the one before it, and what was stored is there afterwards."""
    history = History(url)
    history.commit_cycle(cycle(1))
    before = everything(history)
    history.close()
    add_revision(more, 1, "CREATE TABLE ran (a INTEGER)", "INSERT INTO ran VALUES (1)")
    add_revision(more, 2, "INSERT INTO ran SELECT a + 1 FROM ran")
    for _ in range(2):
        migrated = History(url, migrations=more)
        assert everything(migrated) == before
        with migrated._database.reading() as connection:
            assert connection.execute(text("SELECT a FROM ran ORDER BY a")).scalars().all() == [1, 2]
        migrated.close()
    with pytest.raises(DatabaseTooNew):
        History(url)


def test_a_revision_that_fails_leaves_the_old_database(url: str, server: Engine, more: Path) -> None:
    """All revisions of a start are one transaction: neither the first one's table nor half of the second's is seen."""
    History(url).close()
    add_revision(more, 1, "CREATE TABLE whole (a INTEGER)")
    add_revision(more, 2, "CREATE TABLE half (a INTEGER)", "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StoreUnavailable):
        History(url, migrations=more)
    for table in ("whole", "half"):
        with pytest.raises(SQLAlchemyError):
            execute(server, f"SELECT * FROM {table}")
    History(url).close()


def test_replicas_that_start_at_once_migrate_once(url: str, more: Path) -> None:
    """The fence: six starts on one older database all succeed, and each revision ran for one of them."""
    History(url).close()
    add_revision(more, 1, "CREATE TABLE ran (a INTEGER)", "INSERT INTO ran VALUES (1)")
    with ThreadPoolExecutor(6) as threads:
        histories = list(threads.map(lambda _: History(url, migrations=more), range(6)))
    for history in histories:
        history.check_writable()
    with histories[0]._database.reading() as connection:
        assert connection.execute(text("SELECT a FROM ran")).scalars().all() == [1]
    for history in histories:
        history.close()


@pytest.mark.parametrize("statement", ["DELETE FROM meta", "UPDATE meta SET value = '7'", "DROP TABLE meta"])
def test_tables_without_a_revision_are_refused(url: str, server: Engine, statement: str) -> None:
    """Nobody guesses what a database without its version holds."""
    History(url).close()
    execute(server, "DELETE FROM alembic_version")
    execute(server, statement)
    with pytest.raises(Damaged, match="nothing that says of which schema"):
        History(url)
