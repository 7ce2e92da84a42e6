"""The database: what goes in comes out, whole transactions or nothing, and every failure has a type and a sentence."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from tests.store.records_for_tests import NOW_S, SINKS, cycle, incident, model, subject

from foreshock.alerting.outbox import Attempt, Outcome
from foreshock.alerting.state import EndReason, Kind, end
from foreshock.core.errors import Damaged, DatabaseTooNew, StoreUnavailable, UserError
from foreshock.store.history import RETENTION_S, History
from foreshock.store.records import CycleChanges, Progress


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


def everything(history: History) -> tuple[object, ...]:
    """All that can be read from a history, to compare two of them."""
    return (
        history.load_alert_states(),
        history.load_progress(),
        history.incidents(limit=1_000),
        tuple(history.pending(sink, limit=1_000, now_s=2e9) for sink in SINKS),
        history.models(subject(0)),
    )


def test_what_a_cycle_writes_comes_out_after_a_restart(history: History, url: str) -> None:
    """States, progress, incidents with evidence and outbox rows are equal to what went in, in another process too."""
    changes = cycle(1)
    history.commit_cycle(changes)
    before = everything(history)
    history.close()
    again = History(url)
    assert everything(again) == before
    assert again.load_alert_states() == {subject(1): changes.states[0]}
    assert again.load_progress() == {one.subject: one for one in changes.progress}
    assert again.incidents() == changes.incidents
    assert again.incident(changes.incidents[0].incident_id) == changes.incidents[0]
    assert again.incident("f" * 32) is None
    assert tuple(row for sink in SINKS for row in again.pending(sink, limit=9, now_s=2e9)) == changes.outbox
    again.close()


def test_writing_a_cycle_again_changes_nothing(history: History) -> None:
    """A cycle that is judged again after a crash adds no row, and a delivered event stays delivered."""
    history.commit_cycle(cycle(1))
    row = history.pending("bus", limit=1, now_s=2e9)[0]
    history.mark_delivered(row, now_s=NOW_S)
    before = everything(history)
    history.commit_cycle(cycle(1))
    assert everything(history) == before


def test_a_cycle_that_does_not_fit_together_leaves_nothing(history: History) -> None:
    """An outbox row without incident is a fault of ours: nothing of its cycle is written."""
    history.commit_cycle(cycle(1))
    before = everything(history)
    with pytest.raises(ValueError, match="do not fit together"):
        history.commit_cycle(replace(cycle(2), incidents=()))
    assert everything(history) == before


def test_the_end_of_an_incident_keeps_its_evidence(history: History) -> None:
    """An update without evidence leaves that of the firing; status, end, reason and peak are the new ones."""
    changes = cycle(1)
    history.commit_cycle(changes)
    state, (resolved,) = end(changes.states[0], EndReason.ADAPTED, NOW_S + 600)
    closed = incident(resolved, status=Kind.RESOLVED, ended_at_s=NOW_S + 600, reason=EndReason.ADAPTED, evidence=None)
    history.commit_cycle(CycleChanges(NOW_S + 600, states=(state,), incidents=(replace(closed, peak_score=9.0),)))
    (stored,) = history.incidents()
    assert stored == replace(closed, peak_score=9.0, evidence=changes.incidents[0].evidence)


def test_incidents_are_found_by_detector_status_and_time(history: History) -> None:
    """Filters narrow, the newest comes first, and the limit holds."""
    for n in range(5):
        history.commit_cycle(cycle(n))
    assert [one.subject for one in history.incidents(limit=2)] == [subject(4), subject(3)]
    assert [one.subject for one in history.incidents(namespace="shop", name="detector-2")] == [subject(2)]
    assert history.incidents(namespace="other") == ()
    assert history.incidents(status=Kind.RESOLVED) == ()
    assert len(history.incidents(status=Kind.FIRING, since_s=NOW_S + 180)) == 2


def test_deleting_a_detector_keeps_its_incidents_and_what_must_still_be_sent(history: History) -> None:
    """States, progress and models go; the resolution that tells the world still leaves."""
    changes = cycle(0)
    history.commit_cycle(changes)
    history.record_model(model(1))
    history.commit_cycle(cycle(1))
    history.commit_cycle(CycleChanges(NOW_S, deleted_detectors=(("shop", "detector-0"),)))
    assert subject(0) not in history.load_alert_states()
    assert subject(0) not in history.load_progress()
    assert history.models(subject(0)) == ()
    assert subject(1) in history.load_alert_states()
    assert len(history.incidents()) == 2
    assert len(history.pending("bus", limit=9, now_s=2e9)) == 2
    history.delete_detector("shop", "detector-1")
    assert history.load_alert_states() == {}


def test_groups_of_one_detector_are_apart_and_labels_may_be_long(history: History) -> None:
    """Two groups have two rows, and labels longer than an index allows are kept whole."""
    long = replace(subject(0), group=(("path", "/x" * 5_000),))
    told = (
        Progress(subject(0), 1, {"a": [1, None, 0.1]}),
        Progress(long, 2, {}),
        Progress(replace(long, group=()), 3, {}),
    )
    history.commit_cycle(CycleChanges(NOW_S, progress=told))
    assert history.load_progress() == {one.subject: one for one in told}


def test_an_active_revision_retires_the_one_before_it(history: History) -> None:
    """There is one active revision a line; lines and subjects do not touch each other."""
    assert history.active_model(subject(0), "v2.1.0") is None
    assert history.next_revision(subject(0), "v2.1.0") == 1
    history.record_model(model(1))
    history.record_model(model(1, version="v3"))
    history.record_model(model(2, stage="Candidate"))
    assert history.active_model(subject(0), "v2.1.0") == model(1)
    history.record_model(model(2))
    assert history.active_model(subject(0), "v2.1.0") == model(2)
    assert [one.stage for one in history.models(subject(0), version="v2.1.0")] == ["Active", "Retired"]
    assert history.active_model(subject(0), "v3") == model(1, version="v3")
    assert history.next_revision(subject(0), "v2.1.0") == 3
    assert {one.name for one in history.active_models()} == {"v2.1.0-r2", "v3-r1"}
    assert history.live_digests() == {model(1).digest, model(2).digest}


def test_going_back_is_one_record(history: History) -> None:
    """Recording an old revision as active again retires the newer one."""
    history.record_model(model(1))
    history.record_model(model(2))
    history.record_model(model(1))
    assert history.active_model(subject(0), "v2.1.0") == model(1)


def test_pending_rows_are_due_in_order_and_bounded(history: History) -> None:
    """A postponed row is due at its time and not before, a failed one never; the limit holds."""
    for n in range(4):
        history.commit_cycle(cycle(n))
    first, second, *_ = history.pending("bus", limit=4, now_s=2e9)
    history.settle(
        (
            Attempt(first, Outcome.POSTPONED, "busy", next_attempt_s=NOW_S + 500.0),
            Attempt(second, Outcome.REJECTED, "never"),
        ),
        now_s=NOW_S,
    )
    assert len(history.pending("bus", limit=9, now_s=NOW_S + 499.0)) == 2
    due = history.pending("bus", limit=9, now_s=NOW_S + 500.0)
    assert (due[-1].event_id, due[-1].attempts) == (first.event_id, 1)
    assert len(history.pending("bus", limit=1, now_s=2e9)) == 1
    assert len(history.pending("oncall", limit=9, now_s=2e9)) == 4
    history.mark_failed(due[-1], "never", now_s=NOW_S)
    assert len(history.pending("bus", limit=9, now_s=2e9)) == 2


def test_the_backlog_names_every_sink_that_lags(history: History) -> None:
    """Rows and the age of the oldest, also for a sink that nobody configures any more."""
    for n in range(3):
        history.commit_cycle(cycle(n))
    history.mark_delivered(history.pending("bus", limit=1, now_s=2e9)[0], now_s=NOW_S)
    assert [(one.sink, one.rows, one.oldest_s) for one in history.backlog()] == [
        ("bus", 2, NOW_S + 60),
        ("oncall", 3, NOW_S),
    ]


def test_retention_removes_what_ended_long_ago_and_nothing_that_fires(history: History) -> None:
    """Old incidents go with their rows, old inactive states and progress too; an incident without end stays."""
    for n in range(2):
        history.commit_cycle(cycle(n))
    state, (resolved,) = end(cycle(0).states[0], EndReason.SUSPENDED, NOW_S + 60)
    closed = incident(resolved, status=Kind.RESOLVED, ended_at_s=NOW_S + 60, reason=EndReason.SUSPENDED)
    history.commit_cycle(CycleChanges(NOW_S + 60, states=(state,), incidents=(closed,)))
    history.mark_delivered(history.pending("bus", limit=1, now_s=2e9)[0], now_s=NOW_S)
    assert history.prune(now_s=NOW_S + RETENTION_S).incidents == 0
    pruned = history.prune(now_s=NOW_S + RETENTION_S + 1_000)
    assert (pruned.incidents, pruned.deliveries, pruned.unsent) == (1, 1, 1)
    assert [one.subject for one in history.incidents()] == [subject(1)]
    assert set(history.load_alert_states()) == {subject(1)}
    assert history.load_progress() == {}


def test_a_newer_database_is_refused_and_left_as_it_is(history: History, url: str, path: Path) -> None:
    """Going back to an old Foreshock does not touch what the new one wrote."""
    history.commit_cycle(cycle(1))
    history.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(DatabaseTooNew, match="schema version 99 and this Foreshock knows 1"):
        History(url)


def test_an_older_database_is_migrated_in_order(history: History, url: str) -> None:
    """Each migration runs once, in order, in the transaction that raises the version."""
    history.commit_cycle(cycle(1))
    history.close()
    ran: list[int] = []

    def step(number: int) -> Callable[[Connection], None]:
        def migrate(connection: Connection) -> None:
            ran.append(number)
            connection.execute(text(f"CREATE TABLE added_{number} (a INTEGER)"))

        return migrate

    for _ in range(2):
        migrated = History(url, migrations=(step(1), step(2)))
        assert len(migrated.incidents()) == 1
        migrated.close()
    assert ran == [1, 2]
    with pytest.raises(DatabaseTooNew):
        History(url)


def test_a_migration_that_fails_leaves_the_old_version(history: History, url: str) -> None:
    """Half a migration is never seen: the table that it added is gone with it."""
    history.close()

    def broken(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (a INTEGER)"))
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(StoreUnavailable):
        History(url, migrations=(broken,))
    history = History(url)
    with history._database.reading() as connection:
        tables = connection.execute(text("SELECT name FROM sqlite_master WHERE name = 'half'")).all()
    assert tables == []
    history.close()


def test_tables_without_a_version_are_refused(history: History, url: str, path: Path) -> None:
    """Nobody guesses what a database without its version holds."""
    history.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()
    with pytest.raises(Damaged, match="without a schema version"):
        History(url)


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


@pytest.mark.parametrize("url", ["nonsense", "mysterydb://host/name", "sqlite:///a.db?timeout=soon"])
def test_a_bad_url_is_the_users(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that names no database is a `UserError` with an example of a good one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="write sqlite:///folder/foreshock"):
        History(url)


def test_it_is_durable_by_its_settings(history: History) -> None:
    """WAL, synchronous=FULL and foreign keys hold on every connection that reads or writes."""
    for opened in (history._database.writing, history._database.reading):
        with opened() as connection:
            answers = [
                connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert answers == ["wal", 2, 1, 200]


@pytest.mark.parametrize("in_memory", [False, True])
def test_many_threads_write_and_read_at_once(url: str, *, in_memory: bool) -> None:
    """Eight threads that commit and read lose nothing, block nothing and see only whole cycles."""
    history = History("sqlite://" if in_memory else url)
    torn: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            rows = len(history.pending("bus", limit=1_000, now_s=2e9))
            if len(history.incidents(limit=1_000)) < rows:
                torn.append(rows)

    with ThreadPoolExecutor(8) as threads:
        watchers = [threads.submit(watch) for _ in range(3)]
        done = [threads.submit(history.commit_cycle, cycle(n)) for n in range(40)]
        for one in done:
            one.result()
        stop.set()
        for one in watchers:
            one.result()
    assert torn == []
    assert len(history.load_alert_states()) == len(history.incidents(limit=99)) == 40
    history.close()


def test_no_evidence_in_an_error(history: History, path: Path) -> None:
    """What is stored of a tenant does not leak through the message of a failing statement."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE incidents")
    connection.close()
    secret = replace(cycle(1).incidents[0], service="canary-7f3a9c")
    with pytest.raises(StoreUnavailable) as caught:
        history.commit_cycle(CycleChanges(NOW_S, incidents=(secret,)))
    assert "canary" not in str(caught.value)
    assert "canary" not in str(caught.value.__cause__)
