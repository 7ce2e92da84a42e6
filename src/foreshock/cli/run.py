"""`foreshock run`: judge the detectors of a directory against a Prometheus until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.logs import configure_logs
from foreshock.app.manifest_files import ManifestFiles
from foreshock.app.metrics import Metrics
from foreshock.app.runner import Runner
from foreshock.app.settings import Overrides, load_settings
from foreshock.app.web import serve
from foreshock.cli.output import print_error
from foreshock.core.errors import InvalidManifest

NAME = "run"


def command(
    paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.", show_default=False)],
    prometheus: Annotated[str | None, typer.Option(help="URL of the datasource 'default'.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    database: Annotated[str | None, typer.Option(help="Where the state is kept.", show_default=False)] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="The models: a folder, or s3://bucket/prefix.", show_default=False)
    ] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of /metrics and /healthz.", show_default=False)] = None,
) -> int:
    """Judge every detector at its interval, learn, and alert; state survives restarts.

    Events go to the sinks of the settings, one a line to stdout where there are none; logs go to stderr. Manifests that
    are wrong are reported, and the others run. Files may be changed, added and removed meanwhile: a detector that is no
    longer written anywhere ends, and one in a file that is wrong goes on as it was.

    For example:

        foreshock run examples/ --prometheus http://127.0.0.1:9090
    """
    settings = load_settings(config, os.environ, Overrides(prometheus, database, artifacts, listen))
    files = ManifestFiles(paths, settings)
    reading = files.read()
    if not reading.detectors:
        raise (
            InvalidManifest(reading.problems)
            if reading.problems
            else typer.BadParameter("There is no detector to run.")
        )
    for problem in reading.problems:
        print_error(str(problem))
    configure_logs()
    metrics = Metrics()
    runner = Runner(settings, reading.detectors, metrics=metrics, files=files)
    asyncio.run(_until_stopped(runner, metrics, settings.listen_address))
    return 0


async def _until_stopped(runner: Runner, metrics: Metrics, address: tuple[str, int]) -> None:
    """SIGTERM and SIGINT stop between two steps; SIGKILL is legal too."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(runner.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    async with serve(metrics, address):
        with contextlib.suppress(asyncio.CancelledError):
            await task
