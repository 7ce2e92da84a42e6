"""The PostgreSQL of the tests does what the tests of the store rely on."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import make_url
from tests.servers.postgresql import NewPostgreSQL, PostgreSQL
from tests.servers.processes import family


def test_every_test_has_an_empty_database_of_its_own(postgresql: PostgreSQL, postgresql_url: str) -> None:
    """The URL names a database without a table, and another one has another name."""
    name = make_url(postgresql_url).database
    assert name is not None
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgresql.execute(tables, name) == [(0,)]
    other = postgresql.new_database()
    assert other != name


def test_a_killed_server_comes_back_on_the_same_port_with_what_was_committed(new_postgresql: NewPostgreSQL) -> None:
    """SIGKILL reaches the backends as well, so that an open connection is dead at once."""
    server = new_postgresql(fsync=True)
    name, port = server.new_database(), server.port
    server.execute("CREATE TABLE t AS SELECT 7 AS n", name)
    with psycopg.connect(host="127.0.0.1", port=port, user="foreshock", dbname=name) as connection:
        before = family(server.server.pid)
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.restart()
    assert not set(before) & set(family(server.server.pid))
    assert server.port == port
    assert server.execute("SELECT n FROM t", name) == [(7,)]


def test_a_paused_server_accepts_and_does_not_answer(new_postgresql: NewPostgreSQL) -> None:
    """A new connection gets no answer, and the one that was open works again afterwards."""
    server = new_postgresql()
    url = f"host=127.0.0.1 port={server.port} user=foreshock dbname=postgres connect_timeout=2"
    with psycopg.connect(url, autocommit=True) as connection:
        with server.paused(), pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(url)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    assert server.execute("SELECT 2") == [(2,)]
