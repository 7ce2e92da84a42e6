"""`foreshock restore`: a backup into an empty database and a store of models."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

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
    history = History(settings.database, password_file=settings.database_password_file)
    try:
        if str(file) == "-":
            contents = backup.read(history.database, open_artifacts(settings), sys.stdin.buffer)
        else:
            contents = _from(file, history, settings)
    finally:
        history.close()
    print_error(f"Restored {sum(contents.rows.values())} rows and {contents.models} models.")


def settings_of(config: Path | None, database: str | None, artifacts: str | None) -> Settings:
    """The settings, of which database and models are used."""
    overrides = Overrides(database=database, artifacts=artifacts)
    return load_settings(config, os.environ, overrides, needs_prometheus=False)


def _from(file: Path, history: History, settings: Settings) -> backup.Contents:
    try:
        with file.open("rb") as stream:
            return backup.read(history.database, open_artifacts(settings), stream)
    except OSError as error:
        raise InvalidFile(f"{file} cannot be read ({error.strerror}); correct the path.") from error
