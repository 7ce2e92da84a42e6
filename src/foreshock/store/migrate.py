"""Brings a database to the tables of this Foreshock: Alembic's revisions, in the transaction of the caller."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, update

from foreshock.core.errors import Damaged, DatabaseTooNew
from foreshock.store.schema import meta, metadata

MIGRATIONS: Final = Path(__file__).parent / "migrations"
# What the Foreshocks before Alembic wrote into `meta` as `schema_version`, and the revision that this is.
_BEFORE_ALEMBIC = {"1": "0001", "2": "0002"}
_one_at_a_time = threading.Lock()  # Alembic hands its context to the revisions through a global


def prepare(connection: Connection, migrations: Path = MIGRATIONS) -> None:
    """Create what is missing or migrate what is older; a database that nobody may write now is found here.

    The caller holds a lock that lets one process do this at a time.

    Raises:
        DatabaseTooNew: a newer Foreshock wrote it.
        Damaged: there are tables, and nothing that says what they are.

    """
    head, known = _revisions(migrations)
    found = MigrationContext.configure(connection).get_current_revision()
    adopted = None if found else _before_alembic(connection)
    if found is not None and found not in known:
        raise DatabaseTooNew(
            f"The database has schema revision {found} and this Foreshock knows {head}: "
            "start the newer Foreshock again, or restore the backup made before the upgrade."
        )
    if found != head:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations).replace("%", "%%"))
        with _one_at_a_time:
            if adopted:
                command.stamp(config, adopted)
            command.upgrade(config, "head")
    assert_writable(connection)


def head() -> str:
    """The revision of the tables of this Foreshock."""
    return str(_revisions(MIGRATIONS)[0])


def assert_writable(connection: Connection) -> None:
    """Change a row to what it is already; the database raises where nothing can be written now."""
    connection.execute(update(meta).where(meta.c.key == "schema_version").values(key="schema_version"))


@cache
def _revisions(migrations: Path) -> tuple[str | None, frozenset[str]]:
    scripts = ScriptDirectory(str(migrations))
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


def _before_alembic(connection: Connection) -> str | None:
    """The revision that a database from before Alembic has; None where there are no tables of ours yet."""
    present = set(inspect(connection).get_table_names())
    if not present & set(metadata.tables):
        return None
    said = None
    if meta.name in present:
        said = connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    if said not in _BEFORE_ALEMBIC:
        raise Damaged(
            "The database holds tables and nothing that says of which schema: "
            "restore a backup, or name an empty database."
        )
    return _BEFORE_ALEMBIC[said]
