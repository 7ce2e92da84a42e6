"""`foreshock operator`: judge what the API server holds until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.logs import configure_logs
from foreshock.app.metrics import Metrics
from foreshock.app.operator import Operator
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.app.web import serve
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig

NAME = "operator"


def command(
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch only this namespace; may be repeated.", show_default=False)
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="How to reach the API server; else the pod's account, KUBECONFIG, ~/.kube/config.", show_default=False
        ),
    ] = None,
    prometheus: Annotated[str | None, typer.Option(help="URL of the datasource 'default'.", show_default=False)] = None,
    database: Annotated[str | None, typer.Option(help="Where the state is kept.", show_default=False)] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="The models: a folder, or s3://bucket/prefix.", show_default=False)
    ] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of /metrics and /healthz.", show_default=False)] = None,
) -> int:
    """Judge every AnomalyDetector of the cluster, learn, alert, and report in its status.

    One replica leads and judges; two need PostgreSQL and shared artifacts. Serves /metrics, /healthz and /readyz.

    For example:

        foreshock operator --config foreshock.yaml

        foreshock operator --kubeconfig ~/.kube/config --namespace shop --prometheus http://127.0.0.1:9090
    """  # fmt: skip
    settings = load_settings(config, os.environ, Overrides(prometheus, database, artifacts, listen))
    configure_logs()
    asyncio.run(_until_stopped(settings, kubeconfig, tuple(namespace or ())))
    return 0


async def _until_stopped(settings: Settings, kubeconfig: Path | None, namespaces: tuple[str, ...]) -> None:
    """SIGTERM and SIGINT end the cycle that runs, flush the outbox and give the Lease back; SIGKILL is legal too."""
    metrics = Metrics()
    async with ApiServer(load_kubeconfig(kubeconfig)) as api:
        operator = Operator(settings, api, namespaces=namespaces, metrics=metrics)
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(operator.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        async with serve(metrics, settings.listen_address, is_ready=operator.why_not_ready):
            with contextlib.suppress(asyncio.CancelledError):
                await task
