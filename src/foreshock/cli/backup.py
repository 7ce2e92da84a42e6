"""`foreshock backup`: database and models in one file, while everything runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.wiring import open_artifacts
from foreshock.cli.models import Config, Database, open_history
from foreshock.cli.output import print_error
from foreshock.cli.restore import Models, settings_of
from foreshock.core.errors import UserError
from foreshock.store import backup
from foreshock.store.artifacts import Artifacts
from foreshock.store.history import History

NAME = "backup"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write; - is stdout.")],
    config: Config = None,
    database: Database = None,
    artifacts: Models = None,
) -> None:
    """Write the database, as it is at one moment, and the models that it names into one tar file.

    Nothing has to be stopped. `foreshock restore` brings it into any empty database and any store of models.

    For example:

        foreshock backup foreshock.tar --config foreshock.yaml

        kubectl exec deploy/foreshock -- foreshock backup - --config /etc/foreshock/foreshock.yaml > foreshock.tar
    """
    history = open_history(config, database)
    store = open_artifacts(settings_of(config, database, artifacts))
    try:
        if str(file) == "-":
            contents = backup.write(history.database, store, sys.stdout.buffer)
        else:
            contents = _into(file, history, store)
    finally:
        history.close()
    for digest in contents.missing:
        print_error(f"The model {digest} is damaged or missing, and not in the backup; it is learnt anew.")
    print_error(f"Wrote {sum(contents.rows.values())} rows and {contents.models} models.")


def _into(file: Path, history: History, artifacts: Artifacts) -> backup.Contents:
    """Under another name until it is whole."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            contents = backup.write(history.database, artifacts, stream)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); name another file.") from error
    finally:
        partial.unlink(missing_ok=True)
    return contents
