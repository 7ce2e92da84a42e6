"""Database and models in one tar file, and back: of one moment, from either database and either store into any other.

`tables/<name>.jsonl` holds a row a line, `models/<digest>/` the two files of each artifact that a record names, and
`backup.json`, the last member, says what is in it: a file that was cut off is none.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

from sqlalchemy import Connection, Table, func, insert, select

from foreshock.core.errors import Damaged, InvalidFile, UserError
from foreshock.store.artifact_format import MAX_ARRAY_FILE_BYTES, MAX_MANIFEST_BYTES
from foreshock.store.artifacts import ARRAYS, MANIFEST, Artifacts
from foreshock.store.database import Database
from foreshock.store.migrate import head
from foreshock.store.schema import meta, metadata

FORMAT_VERSION: Final = 1
CONTENTS: Final = "backup.json"
_TABLES: Final = tuple(table for table in metadata.sorted_tables if table is not meta)
_BATCH_ROWS = 500
_MAX_LINE_BYTES = 16 * 1024 * 1024
_MODEL = re.compile(rf"models/([0-9a-f]{{64}})/({re.escape(MANIFEST)}|{re.escape(ARRAYS)})")
_LIMITS = {MANIFEST: MAX_MANIFEST_BYTES, ARRAYS: MAX_ARRAY_FILE_BYTES}


@dataclass(slots=True)
class Contents:
    """What a backup holds; `missing` are the digests whose artifact could not be read: they are learnt anew."""

    revision: str
    rows: dict[str, int] = field(default_factory=dict)
    models: int = 0
    missing: list[str] = field(default_factory=list)


def write(database: Database, artifacts: Artifacts, stream: IO[bytes]) -> Contents:
    """Write a backup while everything runs: the tables as they were at one moment, then the models that they name.

    Raises:
        StoreUnavailable: the database or the artifact store is away.
        Damaged: the database is.

    """
    contents, digests = Contents(head()), set[str]()
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        with database.reading() as connection:
            for table in _TABLES:
                with tempfile.TemporaryFile() as spool:  # a member's size stands before its content
                    contents.rows[table.name] = _dump(connection, table, spool, digests)
                    _add(archive, f"tables/{table.name}.jsonl", spool)
        for digest in sorted(digests):
            try:
                files = artifacts.files(digest)
            except Damaged:
                contents.missing.append(digest)
                continue
            for name, data in files.items():
                _add(archive, f"models/{digest}/{name}", io.BytesIO(data))
            contents.models += 1
        said = {
            "format": FORMAT_VERSION,
            "revision": contents.revision,
            "rows": contents.rows,
            "models": contents.models,
        }
        _add(archive, CONTENTS, io.BytesIO(json.dumps(said).encode()))
    return contents


def read(database: Database, artifacts: Artifacts, stream: IO[bytes]) -> Contents:
    """Bring a backup into an empty database and a store: all rows in one transaction, or none.

    Raises:
        InvalidFile: it is no backup, cut off, or of another version of the tables.
        UserError: the database is not empty.
        ArtifactDamaged: a model in it is not what its digest says.
        StoreUnavailable: the database or the artifact store is away.

    """
    found = Contents(head())
    with database.writing() as connection:
        _refuse_unless_empty(connection)
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                _take_all(archive, connection, artifacts, found)
        except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
            raise _no_backup(f"{type(error).__name__}: {str(error)[:100]}") from error
    return found


def _take_all(archive: tarfile.TarFile, connection: Connection, artifacts: Artifacts, found: Contents) -> None:
    said, models = None, dict[str, dict[str, bytes]]()
    for member in archive:
        content = archive.extractfile(member)
        if content is None or said is not None:
            raise _no_backup(f"{member.name[:100]!r} does not belong there")
        if member.name == CONTENTS:
            said = json.loads(content.read(_MAX_LINE_BYTES))
        elif (model := _MODEL.fullmatch(member.name)) is not None:
            _take_model(models, model[1], model[2], content.read(_LIMITS[model[2]] + 1), artifacts, found)
            connection.execute(select(1))  # a server ends a transaction in which nothing happens
        else:
            _load(connection, member.name, content, found)
    _compare(said, found, models)


def _dump(connection: Connection, table: Table, spool: IO[bytes], digests: set[str]) -> int:
    rows = 0
    query = select(table).execution_options(yield_per=_BATCH_ROWS)
    for row in connection.execute(query).mappings():
        if table.name == "models":
            digests.update(member["digest"] for member in row["details"].get("members", ()))
        spool.write(json.dumps(dict(row), separators=(",", ":")).encode() + b"\n")
        rows += 1
    return rows


def _load(connection: Connection, name: str, content: IO[bytes], found: Contents) -> None:
    table = next((each for each in _TABLES if name == f"tables/{each.name}.jsonl"), None)
    if table is None or table.name in found.rows:
        raise _no_backup(f"{name[:100]!r} does not belong there")
    found.rows[table.name] = 0
    for batch in _batches(content, set(table.columns.keys())):
        connection.execute(insert(table), batch)
        found.rows[table.name] += len(batch)


def _batches(content: IO[bytes], columns: Collection[str]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    while line := content.readline(_MAX_LINE_BYTES):
        row = json.loads(line)
        if row.keys() != columns:
            raise ValueError("a row has other columns than its table")
        batch.append(row)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _take_model(
    models: dict[str, dict[str, bytes]], digest: str, name: str, data: bytes, artifacts: Artifacts, found: Contents
) -> None:
    """Keep the first file of a model until the second one comes, then put both; nothing is parsed before its digest."""
    files = models.setdefault(digest, {})
    files[name] = data
    if len(files) == len(_LIMITS):
        artifacts.put_files(digest, files)
        del models[digest]
        found.models += 1


def _compare(said: Any, found: Contents, half: dict[str, dict[str, bytes]]) -> None:
    if said is None:
        raise _no_backup("it ends before its list of contents: it was cut off")
    if said["format"] != FORMAT_VERSION or said["revision"] != found.revision:
        raise InvalidFile(
            f"The backup is of schema revision {str(said['revision'])[:20]} and this Foreshock has {found.revision}: "
            "restore it with the version that wrote it, and upgrade then."
        )
    if said["rows"] != found.rows or said["models"] != found.models or half:
        raise _no_backup("its content is not what its list says")


def _refuse_unless_empty(connection: Connection) -> None:
    for table in _TABLES:
        if connection.execute(select(func.count()).select_from(table)).scalar():
            raise UserError("The database is not empty: name a new one, so that nothing is overwritten.")


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = content.seek(0, io.SEEK_END), 0o600
    content.seek(0)
    archive.addfile(info, content)


def _no_backup(why: str) -> InvalidFile:
    return InvalidFile(f"This is no whole backup of Foreshock ({why}); take another one.")
