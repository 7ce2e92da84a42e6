"""Other sinks in the configuration while an incident goes on: who left, who came, who came back, who hears the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.servers.postgresql import PostgreSQL
from tests.store.records_for_tests import NOW_S, POLICY, cycle, incident, subject

from foreshock.alerting.outbox import deliveries
from foreshock.alerting.state import Transition, advance
from foreshock.core.verdicts import Judgement, Normal
from foreshock.store.history import History
from foreshock.store.records import CycleChanges


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'state.db'}"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = server.url(server.new_database())
    found = History(url)
    yield found
    found.close()


def _fires(history: History, n: int = 1) -> str:
    """Commit an incident that bus and oncall are told of; its identity."""
    changes = cycle(n)
    (one,) = changes.incidents
    event = changes.outbox[0].event
    history.commit_cycle(replace(changes, incidents=(replace(one, evidence=event),)))
    return one.incident_id


def _end(history: History, n: int = 1) -> Transition:
    state = history.load_alert_states()[subject(n)]
    _, (ended,) = advance(state, Judgement(subject(n), NOW_S + 60 * n + 900, Normal(0.1)), POLICY, cluster="c")
    return ended


def _waiting(history: History, *sinks: str) -> list[tuple[str, str]]:
    return [(sink, row.event_id) for sink in sinks for row in history.pending(sink, limit=10, now_s=2e9)]


def test_what_waits_for_a_removed_sink_ends_and_is_counted(history: History) -> None:
    """Two events waited for the bus: counted once, gone from the backlog, and the other sink's are untouched."""
    for n in (1, 2):
        _fires(history, n)
    assert history.end_removed(["oncall", "log"], now_s=NOW_S) == {"bus": 2}
    assert history.end_removed(["oncall", "log"], now_s=NOW_S) == {}
    assert [each.sink for each in history.backlog()] == ["oncall"]


def test_an_added_sink_hears_of_what_fires_once(history: History) -> None:
    """The chat was named after it began: it gets the firing event under its own identity; who was told is not again."""
    identity = _fires(history)
    assert history.tell_standing([identity], ["bus", "chat"], now_s=NOW_S) == 1
    assert _waiting(history, "chat") == [("chat", f"{identity}/firing/1")]
    assert history.tell_standing([identity], ["bus", "chat"], now_s=NOW_S) == 0


def test_a_sink_that_comes_back_hears_of_it_again(history: History) -> None:
    """Removed with what it had taken and what it had not, and named again: both stand, and are told."""
    first, second = _fires(history, 1), _fires(history, 2)
    (row, *_) = history.pending("bus", limit=1, now_s=2e9)
    history.mark_delivered(row, now_s=NOW_S)
    assert history.end_removed(["oncall"], now_s=NOW_S) == {"bus": 1}
    assert history.tell_standing([first, second], ["bus"], now_s=NOW_S) == 2


def test_what_is_over_is_told_to_no_new_sink(history: History) -> None:
    """An incident that ended stands no more."""
    identity, ended = _fires(history), _end(history)
    over = incident(ended, status=ended.kind, ended_at_s=ended.at_s, evidence=None)
    history.commit_cycle(CycleChanges(NOW_S + 960, incidents=(over,)))
    assert history.tell_standing([identity], ["chat"], now_s=NOW_S) == 0


def test_who_heard_of_the_beginning_hears_of_the_end(history: History) -> None:
    """The detector names the chat alone by now: bus and oncall were told and are told; a removed one is not."""
    _fires(history)
    history.end_removed(["bus", "chat"], now_s=NOW_S)
    ended = _end(history)
    rows = deliveries(ended, {"id": ended.event_id}, sinks=["chat"], created_s=NOW_S)
    history.commit_cycle(CycleChanges(NOW_S + 960, incidents=(incident(ended, status=ended.kind),), outbox=rows))
    for row in history.pending("bus", limit=10, now_s=2e9):  # the beginning goes first
        history.mark_delivered(row, now_s=NOW_S)
    assert _waiting(history, "bus", "chat", "oncall") == [("bus", ended.event_id), ("chat", ended.event_id)]
