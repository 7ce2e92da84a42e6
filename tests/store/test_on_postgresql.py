"""What only PostgreSQL has: a server that is away, hangs, is read-only or full, passwords, and several replicas."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.servers.postgresql import NewPostgreSQL, PostgreSQL
from tests.store.crash_driver import whole_cycles
from tests.store.records_for_tests import cycle, everything, subject

from foreshock.core.errors import StoreUnavailable
from foreshock.store.database import Database
from foreshock.store.history import History
from foreshock.store.on_postgresql import Patience

HASTY = Patience(connect_s=2, lock_s=1, statement_s=1)


def test_a_killed_server_is_unavailable_and_nothing_is_lost(new_postgresql: NewPostgreSQL) -> None:
    """While it is away every call fails with a sentence; when it is back the same object goes on by itself."""
    server = new_postgresql(fsync=True)
    history = History(server.url(server.new_database()), patience=HASTY)
    history.commit_cycle(cycle(1))
    before = everything(history)
    server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            history.commit_cycle(cycle(2))
        assert caught.value.retryable
    with pytest.raises(StoreUnavailable):
        history.check_writable()
    server.restart()
    assert everything(history) == before
    history.commit_cycle(cycle(2))
    assert set(history.load_alert_states()) == {subject(1), subject(2)}
    history.close()


def test_what_was_acknowledged_survives_every_crash_of_the_server(new_postgresql: NewPostgreSQL) -> None:
    """P3: SIGKILL of the server and all its backends while cycles are committed; each time only whole cycles are there.

    FORESHOCK_TEST_SEED gives a seed back.
    """
    seed = int(os.environ.get("FORESHOCK_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed={seed}")
    chance, server = random.Random(seed), new_postgresql(fsync=True)
    url = server.url(server.new_database())
    acknowledged = 0

    def commit_until_it_is_away(first: int) -> int:
        n = first
        try:
            with closing(History(url, patience=HASTY)) as history:  # the first one makes the tables, or dies of it
                while True:
                    history.commit_cycle(cycle(n))
                    n += 1
        except StoreUnavailable:
            return n

    with ThreadPoolExecutor(1) as threads:
        for crash in range(50):
            if crash >= 5 and acknowledged > 5:
                break
            committing = threads.submit(commit_until_it_is_away, acknowledged)
            time.sleep(chance.uniform(0.2, 0.6))  # the crash falls anywhere
            server.kill()
            told = committing.result(timeout=30)
            server.restart()
            acknowledged = whole_cycles(url)
            assert told <= acknowledged <= told + 1  # the last one may be durable and not acknowledged
    assert acknowledged > 5


def test_a_connection_that_is_in_use_is_closed_when_it_is_given_back_to_a_closed_store(
    new_postgresql: NewPostgreSQL,
) -> None:
    """A thread may still read when the operator ends: the server is told goodbye, whoever comes last."""
    server = new_postgresql()
    database = Database(server.url(server.new_database()))
    with database.reading() as connection:
        raw: Any = connection.connection.dbapi_connection
        database.close()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        assert not raw.closed
    assert raw.closed


def test_a_hung_server_is_unavailable_within_the_deadline(new_postgresql: NewPostgreSQL) -> None:
    """Under SIGSTOP the server's own time-outs stand still: ours do not, for open connections and for new ones."""
    server = new_postgresql()
    history = History(server.url(server.new_database()), patience=HASTY)
    history.commit_cycle(cycle(1))
    with server.paused():
        began_s = time.monotonic()
        for _ in range(2):  # the first on the open connection, the second on a new one
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                history.commit_cycle(cycle(2))
        assert time.monotonic() - began_s < 15
    history.check_writable()
    history.commit_cycle(cycle(2))
    assert set(history.load_alert_states()) == {subject(1), subject(2)}
    history.close()


def test_a_server_that_hangs_in_the_middle_of_a_transaction_is_left(new_postgresql: NewPostgreSQL) -> None:
    """A statement that gets no answer ends at the deadline, and its transaction leaves nothing."""
    server = new_postgresql()
    history = History(server.url(server.new_database()), patience=HASTY)
    history.commit_cycle(cycle(1))
    before = everything(history)

    def write_and_hang() -> None:
        with history._database.writing() as connection:
            history._upsert_incidents(connection, cycle(2).incidents)
            with server.paused():
                connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        write_and_hang()
    assert everything(history) == before
    history.close()


def test_a_slow_statement_is_ended_by_the_server(postgresql_url: str) -> None:
    """The statement time-out of the server comes before ours, so that the connection can be used again."""
    history = History(postgresql_url, patience=HASTY)
    with (
        pytest.raises(StoreUnavailable, match="did not answer in time"),
        history._database.writing() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(30)"))
    history.commit_cycle(cycle(1))
    history.close()


def test_a_read_only_server_is_unavailable(postgresql: PostgreSQL, postgresql_url: str) -> None:
    """A standby, or a database that somebody made read-only, is named in the sentence; reads go on."""
    history = History(postgresql_url)
    history.commit_cycle(cycle(1))
    history.close()
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    reopened = "is read-only; check that it is the primary"
    with pytest.raises(StoreUnavailable, match=reopened):
        History(postgresql_url)
    postgresql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    history = History(postgresql_url)
    assert set(history.load_alert_states()) == {subject(1)}
    history.close()


def test_a_server_without_free_connections_is_unavailable(new_postgresql: NewPostgreSQL) -> None:
    """Too many clients is a sentence with the setting that helps."""
    server = new_postgresql(settings=["max_connections=1", "superuser_reserved_connections=0", "max_wal_senders=0"])
    name = "postgres"
    first = History(server.url(name))
    with first._database.reading(), pytest.raises(StoreUnavailable, match="too many clients"):
        History(server.url(name))
    first.close()


def test_nobody_there_and_no_such_database_are_told_apart(postgresql: PostgreSQL) -> None:
    """Each says what is wrong, and the address has stars in place of the password."""
    secret = "canary-7f3a9c"
    url = postgresql.url("nowhere", password=secret)
    with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist') as caught:
        History(url)
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value.__cause__)
    assert "foreshock:***@127.0.0.1" in str(caught.value)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        History("postgresql+psycopg://foreshock@127.0.0.1:1/postgres", patience=HASTY)


def test_the_password_file_is_read_for_each_connection(new_postgresql: NewPostgreSQL, tmp_path: Path) -> None:
    """A rotated password is taken from the file without a restart; a wrong one is a sentence without it."""
    server = new_postgresql()
    server.execute("CREATE ROLE app LOGIN PASSWORD 'first' SUPERUSER")
    hba = server.folder / "data/pg_hba.conf"
    hba.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    server.restart()
    file = tmp_path / "password"
    file.write_text("first\n")
    history = History(server.url(server.new_database(), user="app"), password_file=file)
    history.commit_cycle(cycle(1))
    server.execute("ALTER ROLE app PASSWORD 'second-canary'")
    server.restart()
    with pytest.raises(StoreUnavailable, match="password authentication failed"):
        history.commit_cycle(cycle(2))
    file.write_text("second-canary\n")
    history.commit_cycle(cycle(2))
    file.unlink()
    server.restart()
    with pytest.raises(StoreUnavailable, match=r"database_password_file: .* cannot be read"):
        history.commit_cycle(cycle(3))
    history.close()


def test_replicas_that_start_at_once_make_the_tables_once(postgresql_url: str) -> None:
    """Eight processes' worth of first starts on an empty database all succeed."""
    with ThreadPoolExecutor(8) as threads:
        histories = list(threads.map(lambda _: History(postgresql_url), range(8)))
    for n, history in enumerate(histories):
        history.commit_cycle(cycle(n))
    assert len(histories[0].load_alert_states()) == 8
    for history in histories:
        history.close()


def test_a_lock_that_another_holds_is_waited_for_and_no_longer(postgresql_url: str) -> None:
    """Another transaction's lock ends in a sentence, and the cycle is written when it is gone."""
    history, other = History(postgresql_url, patience=HASTY), History(postgresql_url)
    with other._database.writing() as connection:
        connection.execute(text("LOCK TABLE incidents IN EXCLUSIVE MODE"))
        with pytest.raises(StoreUnavailable, match=r"is locked by another transaction|did not answer in time"):
            history.commit_cycle(cycle(1))
    history.commit_cycle(cycle(1))
    assert set(other.load_alert_states()) == {subject(1)}
    history.close()
    other.close()


@pytest.mark.parametrize(("configured", "held"), [("off", "on"), ("local", "local"), ("on", "on")])
def test_a_commit_is_on_the_disk(postgresql: PostgreSQL, postgresql_url: str, configured: str, held: str) -> None:
    """P3 holds also where somebody made commits asynchronous for the whole database."""
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET synchronous_commit = {configured}")
    history = History(postgresql_url)
    with history._database.writing() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == held
    history.close()
