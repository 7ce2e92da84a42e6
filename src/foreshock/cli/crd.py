"""`foreshock crd`: the CustomResourceDefinitions that a cluster needs before its first manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli.output import Output, OutputOption, print_json
from foreshock.core.errors import UserError
from foreshock.manifests.crd import as_yaml, definitions

NAME = "crd"


def command(
    folder: Annotated[
        Path | None, typer.Option(help="Write one file a kind into this folder instead.", show_default=False)
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the definitions of AnomalyDetector, AnomalyModel and Anomaly, as YAML or as one JSON list.

    For example:

        foreshock crd | kubectl apply --server-side -f -

        foreshock crd --folder charts/foreshock/crds
    """
    documents = definitions()
    if folder is not None:
        _write(folder, {f"{each['spec']['names']['plural']}.yaml": as_yaml((each,)) for each in documents})
    elif output is Output.JSON:
        print_json({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    else:
        typer.echo(as_yaml(documents), nl=False)


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}; name another --folder.") from error
