"""Row 30: in a rollout the version before and this one share a database and models, whichever wrote what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.servers.postgresql import PostgreSQL
from tests.store import rollout_driver

from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History

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
    newer.close()
