"""Row 30: in a rollout the version before and this one share a database and models, whichever wrote what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import select, update
from tests.servers.postgresql import PostgreSQL
from tests.store import rollout_driver
from tests.store.records_for_tests import cycle, everything, model, record, subject

from foreshock.store import schema
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History
from foreshock.store.records import Feedback

# The version before. Nothing was released yet, so it is the state before Alembic; a release puts its tag here.
PREVIOUS = "d2671428991b"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `foreshock` is the version before, from a wheel that is built of its commit."""
    folder = tmp_path_factory.mktemp("before")
    source = folder / "source"
    source.mkdir()
    wanted = ["src", "tests/store/records_for_tests.py", "pyproject.toml", "README.md", "LICENSE"]
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", PREVIOUS, "--", *wanted], capture_output=True, check=False
    )  # fmt: skip
    if archive.returncode:  # no lack of a server: this may be a shallow clone, or no clone at all
        pytest.skip(f"needs the commit {PREVIOUS} in the clone: git fetch --unshallow")
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("foreshock-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    return {**os.environ, "PYTHONPATH": f"{folder / 'wheel'}:{source}"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'foreshock.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url(server.new_database())


@pytest.fixture
def older(before: dict[str, str], url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A running process of the version before, with the database open."""
    process = subprocess.Popen(
        [sys.executable, rollout_driver.__file__, url, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=before,
    )  # fmt: skip
    try:
        assert str(_read(process.stdout)).startswith(before["PYTHONPATH"].split(":")[0])
        yield process
    finally:
        process.kill()
        process.communicate()


def _read(stream: IO[str] | None) -> Any:
    assert stream is not None
    line = stream.readline()
    assert line, "the version before ended"
    return json.loads(line)


def _all_of(*numbers: int) -> list[str]:
    """What `read all` answers once these cycles were committed."""
    cycles = [cycle(number) for number in numbers]
    return sorted(
        [
            *(str(state.subject) for each in cycles for state in each.states),
            *(incident.incident_id for each in cycles for incident in each.incidents),
            *(row.event_id for each in cycles for row in each.outbox),
            *(model(number + 1).name for number in numbers),
        ]
    )


def test_both_read_what_the_other_wrote(older: subprocess.Popen[str], url: str, tmp_path: Path) -> None:
    """The older one goes on while the newer one migrates; each sees every state, incident, event, model of both."""

    def ask(command: str) -> Any:
        assert older.stdin is not None
        older.stdin.write(command + "\n")
        older.stdin.flush()
        return _read(older.stdout)

    assert ask("commit 0")
    artifacts = ArtifactStore(tmp_path)
    newer = History(url)

    def mine(command: str) -> Any:
        return rollout_driver.answer(newer, artifacts, *command.split(" "))

    assert mine("read all") == ask("read all") != []
    assert mine("commit 1") == ask("read all")
    assert ask("commit 2") == mine("read all")
    assert ask("commit 1") == mine("commit 0")  # the same cycle once more, by the other: nothing changes
    assert mine(f"get {ask('put 3')}") == ["the older", [0.0, 1.0, 2.0]]
    assert ask(f"get {mine('put 4')}") == ["the older", [0.0, 1.0, 2.0, 3.0]]
    assert ask("read all") == mine("read all") == _all_of(0, 1, 2)  # and not the same too little
    newer.close()


def test_what_a_later_version_adds_harms_nobody(url: str) -> None:
    """Unknown keys in every document that is kept: all is read as before, and what is written anew keeps its own."""
    history = History(url)
    history.commit_cycle(cycle(0))
    (incident,) = history.incidents()
    history.give_verdict(incident.incident_id, Feedback("true_positive", 1.0, "cli"), now_s=1.0)
    record(history, model(1))
    before = everything(history)
    documents = {
        "alert_states": ("state",), "progress": ("memory",), "models": ("details", "rows_excluded"),
        "incidents": ("evidence", "feedback"), "outbox": ("event",),
    }  # fmt: skip
    with history.database.writing() as connection:
        for table, columns in documents.items():
            for name in columns:
                column = schema.metadata.tables[table].c[name]
                for (value,) in connection.execute(select(column)).all():
                    connection.execute(update(column.table).values({name: {**value, "of_a_later_version": 1}}))
    assert history.load_alert_states() == before[0]
    (after,) = history.incidents()
    assert after.feedback == Feedback("true_positive", 1.0, "cli")
    assert replace(after, evidence=None, feedback=None) == replace(incident, evidence=None)
    history.change_models(subject(0), "v2.1.0", lambda known: (replace(known[0], stage="Retired"),))
    (kept,) = history.models(subject(0))
    assert (kept.stage, kept.details["of_a_later_version"]) == ("Retired", 1)
    history.commit_cycle(cycle(1))
    history.close()
