"""`foreshock extractor`: the stateless feature service, in as many replicas as there is work."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.extractor import LISTEN, serve_extractor
from foreshock.app.logs import configure_logs
from foreshock.app.settings import Overrides, check_listen, load_settings

NAME = "extractor"


def _address(listen: str) -> str:
    try:
        return check_listen(listen)
    except ValueError as error:
        raise typer.BadParameter(f"it {error}.") from error


def command(
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT of the API and its pages.", callback=_address)] = LISTEN,
    prometheus: Annotated[str | None, typer.Option(help="URL of the datasource 'default'.", show_default=False)] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="The models: a folder, or s3://bucket/prefix.", show_default=False)
    ] = None,
) -> int:
    """Query Prometheus and return feature vectors to the engine; any number of replicas, none of which keeps state.

    It reads the datasources and the models of the engine's own settings, and writes nothing. The engine uses it once
    its settings say `extractor: {url: http://HOST:PORT}`, and does without it whenever it is away. The API is described
    at /openapi.json; /healthz, /readyz and /metrics are there too. Keep it where only the engine reaches it.

    For example:

        foreshock extractor --prometheus http://127.0.0.1:9090

        foreshock extractor --config foreshock.yaml --listen 0.0.0.0:8081
    """
    settings = load_settings(config, os.environ, Overrides(prometheus=prometheus, artifacts=artifacts))
    configure_logs()
    asyncio.run(serve_extractor(settings, listen))
    return 0
