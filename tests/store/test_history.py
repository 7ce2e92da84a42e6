"""The database: what goes in comes out, whole transactions or nothing, and every failure has a type and a sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tests.store.records_for_tests import NOW_S, SINKS, cycle, everything, incident, model, record, subject

from foreshock.alerting.outbox import Attempt, Outcome
from foreshock.alerting.state import EndReason, Kind, end
from foreshock.core.errors import LeaseLost, StoreUnavailable, UserError
from foreshock.store.history import RETENTION_S, History
from foreshock.store.records import CycleChanges, ModelRecord, Progress


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path}/state/foreshock.db"


@pytest.fixture
def history(url: str) -> Iterator[History]:
    history = History(url)
    yield history
    history.close()


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """One statement past the store, as another program would."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


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
    record(history, model(1))
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


def test_a_change_of_a_line_is_of_that_line_alone(history: History) -> None:
    """What `change` returns is stored, newest first; what it leaves out, other lines and other subjects stay."""
    other = replace(model(1, version="v3"), subject=subject(1))
    record(history, model(1), model(1, version="v3"), other, model(2, stage="Candidate"))

    def retire_the_first(known: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
        assert known == (model(2, stage="Candidate"), model(1))
        return (replace(known[1], stage="Retired"), model(3))

    after = history.change_models(subject(0), "v2.1.0", retire_the_first)
    assert after == (model(3), model(2, stage="Candidate"), model(1, stage="Retired"))
    assert history.models(subject(0), version="v2.1.0") == after
    assert history.models(subject(0), version="v3") == (model(1, version="v3"),)
    assert history.models(subject(1)) == (other,)
    assert history.live_digests() == {model(n).digest for n in (1, 2, 3)}


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


@pytest.mark.parametrize("url", ["nonsense", "mysterydb://host/name", "sqlite:///a.db?timeout=soon"])
def test_a_bad_url_is_the_users(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that names no database is a `UserError` with an example of a good one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="write sqlite:///folder/foreshock"):
        History(url)


def test_many_threads_write_and_read_at_once(url: str) -> None:
    """Eight threads that commit and read lose nothing, block nothing and see only whole cycles."""
    in_threads(History(url))


def test_many_threads_share_a_database_in_memory() -> None:
    """One connection serves all threads, with the same promise."""
    in_threads(History("sqlite://"))


def in_threads(history: History) -> None:
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


def test_no_evidence_in_an_error(history: History, url: str) -> None:
    """What is stored of a tenant does not leak through the message of a failing statement."""
    execute(url, "ALTER TABLE incidents RENAME TO elsewhere")
    secret = replace(cycle(1).incidents[0], service="canary-7f3a9c")
    with pytest.raises(StoreUnavailable) as caught:
        history.commit_cycle(CycleChanges(NOW_S, incidents=(secret,)))
    assert "canary" not in str(caught.value)
    assert "canary" not in str(caught.value.__cause__)


def test_a_leader_that_was_replaced_writes_nothing_any_more(history: History, url: str) -> None:
    """Every kind of write of the older epoch is `LeaseLost` and leaves no trace; the newer leader goes on."""
    history.begin_epoch(4)
    history.commit_cycle(cycle(1))
    record(history, model(1))
    (row,) = history.pending("bus", limit=9, now_s=2e9)
    newer = History(url)
    assert newer.lease_epoch() == 4
    newer.begin_epoch(5)
    before = everything(newer)
    for write in (
        lambda: history.commit_cycle(cycle(2)),
        lambda: history.commit_cycle(CycleChanges(NOW_S)),
        lambda: record(history, model(2)),
        lambda: history.delete_detector("shop", "detector-1"),
        lambda: history.mark_delivered(row, now_s=NOW_S),
        lambda: history.prune(now_s=4e9),
        lambda: history.begin_epoch(4),
    ):
        with pytest.raises(LeaseLost, match="its epoch is 5, this one's is 4"):
            write()
    assert everything(newer) == before
    newer.commit_cycle(cycle(2))
    assert set(newer.load_alert_states()) == {subject(1), subject(2)}
    history.begin_epoch(6)  # it was elected again
    history.commit_cycle(cycle(3))
    with pytest.raises(LeaseLost):
        newer.commit_cycle(cycle(4), epoch=5)
    newer.close()


def test_an_epoch_may_be_given_with_each_write(history: History) -> None:
    """A write with a newer epoch begins it; one without any, where nobody elects a leader, is not fenced."""
    history.commit_cycle(cycle(1))
    assert history.lease_epoch() == 0
    history.commit_cycle(cycle(2), epoch=2)
    record(history, model(1), epoch=3)
    assert history.lease_epoch() == 3
    with pytest.raises(LeaseLost):
        record(history, model(2), epoch=2)
    assert history.models(subject(0)) == (model(1),)


def test_a_new_leader_waits_for_the_write_that_the_old_one_began(history: History, url: str) -> None:
    """What an old leader's transaction holds is settled before the new epoch begins: nothing lands after it."""
    history.begin_epoch(1)
    newer = History(url)
    began = threading.Event()

    def take_over() -> int:
        began.set()
        newer.begin_epoch(2)
        return len(newer.incidents())

    with ThreadPoolExecutor(1) as threads:
        with history._fenced(None) as connection:
            taken = threads.submit(take_over)
            assert began.wait(10)
            history._upsert_incidents(connection, cycle(1).incidents)
            assert not taken.done()
        assert taken.result(timeout=30) == 1
    newer.close()
