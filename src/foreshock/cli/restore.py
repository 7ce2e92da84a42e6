"""`foreshock restore`: a backup into an empty database and a store of models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.app.wiring import open_artifacts
from foreshock.cli.models import Config, Database
from foreshock.cli.output import print_error
from foreshock.core.errors import InvalidFile
from foreshock.store import backup
from foreshock.store.history import History

NAME = "restore"
Models = Annotated[str | None, typer.Option(help="The models: a folder, or s3://bucket/prefix.", show_default=False)]


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `foreshock backup` wrote; - is stdin.")],
    config: Config = None,
    database: Database = None,
    artifacts: Models = None,
) -> None:
    """Bring a backup into an empty database and a store of models, before anything is started on them.

    Another kind than the backup came from will do: this is also the way from SQLite to PostgreSQL, and from a folder to
    a bucket. All rows are restored or none.

    For example:

        foreshock restore foreshock.tar --config foreshock.yaml
    """
    settings = settings_of(config, database, artifacts)
    with _opened(file) as stream:
        history = History(settings.database, password_file=settings.database_password_file)
        try:
            contents = backup.read(history.database, open_artifacts(settings), stream)
        finally:
            history.close()
    print_error(f"Restored {sum(contents.rows.values())} rows and {contents.models} models.")


def settings_of(config: Path | None, database: str | None, artifacts: str | None) -> Settings:
    """The settings, of which database and models are used."""
    overrides = Overrides(database=database, artifacts=artifacts)
    return load_settings(config, os.environ, overrides, needs_prometheus=False)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Before a database is made, so that a wrong path makes none."""
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise InvalidFile(f"{file} cannot be read ({error.strerror}); correct the path.") from error
    with stream:
        yield stream
