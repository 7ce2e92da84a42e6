"""A backup is of one moment, goes into either database and either store, and is whole or refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.servers.s3 import S3
from tests.store.records_for_tests import cycle, everything, model, record, subject

from foreshock.app.settings import Settings
from foreshock.app.wiring import open_artifacts
from foreshock.core.errors import ArtifactDamaged, InvalidFile, UserError
from foreshock.store import backup
from foreshock.store.artifacts import ARRAYS, Artifacts, ArtifactStore
from foreshock.store.history import History


@pytest.fixture
def source(tmp_path: Path) -> Iterator[tuple[History, ArtifactStore]]:
    """A database with two cycles, and with three revisions whose models lie in a folder."""
    history, artifacts = History(f"sqlite:///{tmp_path}/source.db"), ArtifactStore(tmp_path / "source")
    for number in (1, 2):
        history.commit_cycle(cycle(number))
    for revision in (1, 2, 3):
        digest = artifacts.put({"a": np.arange(revision * 100.0)}, {"revision": revision})
        members = [{"group": [], "digest": digest}]
        record(history, model(1, revision=revision, digest=digest, details={"threshold": 0.3, "members": members}))
    yield history, artifacts
    history.close()


def taken(source: tuple[History, Artifacts]) -> bytes:
    stream = io.BytesIO()
    backup.write(source[0].database, source[1], stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["sqlite and a folder", "postgresql and a bucket"])
def test_what_is_restored_is_what_was_there(
    source: tuple[History, ArtifactStore], tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """Every row and every model, also in another kind of database and store, and from there back again."""
    if kind.startswith("sqlite"):
        url, settings = f"sqlite:///{tmp_path}/target.db", {"artifacts": str(tmp_path / "target")}
    else:
        s3: S3 = request.getfixturevalue("s3")
        url = request.getfixturevalue("postgresql_url")
        settings = {"artifacts": f"s3://{s3.new_bucket()}/models", "s3": s3.settings}
    history, artifacts = source
    target, store = History(url), open_artifacts(Settings.model_validate(settings))
    contents = backup.read(target.database, store, io.BytesIO(taken(source)))
    assert everything(target) == everything(history)
    assert target.models(subject(0)) == history.models(subject(0))
    assert contents.models == 3
    for each in history.models(subject(0)):
        assert store.get(each.digest)[1]["a"].tobytes() == artifacts.get(each.digest)[1]["a"].tobytes()
    again, back = History(f"sqlite:///{tmp_path}/again.db"), ArtifactStore(tmp_path / "again")
    backup.read(again.database, back, io.BytesIO(taken((target, store))))
    assert everything(again) == everything(history)
    again.close()
    target.close()


def test_a_model_that_cannot_be_read_is_named_and_the_rest_is_there(
    source: tuple[History, ArtifactStore], tmp_path: Path
) -> None:
    """One damaged artifact does not cost the backup of all."""
    history, artifacts = source
    (first, second, _) = history.models(subject(0))
    (tmp_path / "source" / first.digest / ARRAYS).write_bytes(b"bad")
    (tmp_path / "source" / second.digest / ARRAYS).unlink()
    contents = backup.write(history.database, artifacts, io.BytesIO())
    assert contents.missing == sorted([first.digest, second.digest])
    assert contents.models == 1


def test_a_backup_that_was_cut_off_anywhere_is_refused_and_leaves_nothing(
    source: tuple[History, ArtifactStore], tmp_path: Path
) -> None:
    """Rows are restored in one transaction, which the list of contents at the end commits."""
    whole = taken(source)
    target, store = History(f"sqlite:///{tmp_path}/target.db"), ArtifactStore(tmp_path / "target")
    listed = whole.index(backup.CONTENTS.encode())
    for length in [0, 100, *range(512, listed, 2_048), listed, listed + 512]:
        with pytest.raises(InvalidFile, match="no whole backup"):
            backup.read(target.database, store, io.BytesIO(whole[:length]))
        assert target.incidents() == ()
    backup.read(target.database, store, io.BytesIO(whole))
    target.close()


def rewritten(whole: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> io.BytesIO:
    """The same archive with other members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(whole)) as old, tarfile.open(fileobj=stream, mode="w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            changed = change(member.name, content.read())
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, io.BytesIO(changed[1]))
    stream.seek(0)
    return stream


def _other_revision(name: str, data: bytes) -> tuple[str, bytes]:
    return name, json.dumps({**json.loads(data), "revision": "9999"}).encode() if name == backup.CONTENTS else data


def _in(part: str, change: Callable[[bytes], bytes | None]) -> Callable[[str, bytes], tuple[str, bytes] | None]:
    """Change the content of the members whose name holds `part`; None leaves them out."""

    def of_member(name: str, data: bytes) -> tuple[str, bytes] | None:
        changed = change(data) if part in name else data
        return None if changed is None else (name, changed)

    return of_member


TAMPERED: dict[str, tuple[Callable[[str, bytes], tuple[str, bytes] | None], type[Exception], str]] = {
    "of another version": (_other_revision, InvalidFile, "restore it with the version that wrote it"),
    "without a table": (_in("progress", lambda _data: None), InvalidFile, "its list says"),
    "without a model": (_in("models/", lambda _data: None), InvalidFile, "its list says"),
    "a row cut off": (_in("progress", lambda data: data[:-2]), InvalidFile, "JSON"),
    "a row of another table": (_in("progress", lambda data: b'{"a": 1}\n' + data), InvalidFile, "no whole backup"),
    "a name that leads out": (lambda name, data: (f"../{name}", data), InvalidFile, "does not belong there"),
    "an absolute name": (lambda name, data: (f"/etc/{name}", data), InvalidFile, "does not belong there"),
    "a model of another digest": (_in(ARRAYS, lambda data: data[:-1] + b"x"), ArtifactDamaged, "sha256"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_is_refused(source: tuple[History, ArtifactStore], tmp_path: Path, how: str) -> None:
    """A row, a table, a model, a name that leads elsewhere: a sentence, and no row."""
    change, error, words = TAMPERED[how]
    target, store = History(f"sqlite:///{tmp_path}/target.db"), ArtifactStore(tmp_path / "target")
    with pytest.raises(error, match=words):
        backup.read(target.database, store, rewritten(taken(source), change))
    assert target.incidents() == ()
    target.close()


def test_a_database_that_is_not_empty_is_not_touched(source: tuple[History, ArtifactStore]) -> None:
    """Nothing is overwritten, and nothing is mixed."""
    history, artifacts = source
    before = everything(history)
    with pytest.raises(UserError, match="not empty"):
        backup.read(history.database, artifacts, io.BytesIO(taken(source)))
    assert everything(history) == before
