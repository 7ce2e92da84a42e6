"""What Foreshock says of itself over HTTP: /metrics, /healthz, /readyz."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from foreshock.app.metrics import Metrics

_log = structlog.get_logger("foreshock")


@contextlib.asynccontextmanager
async def serve(
    metrics: Metrics, address: tuple[str, int], *, is_ready: Callable[[], Awaitable[str]] | None = None
) -> AsyncIterator[None]:
    """Serve until the block ends; a port that is taken is said, and the engine runs without pages.

    `is_ready` says why it is not ready, or nothing; by default it is once a cycle was judged.
    """

    async def has_judged() -> str:
        return "" if metrics.has_judged else "no cycle yet"

    why_not = is_ready or has_judged

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        said = await why_not()
        return web.Response(status=503, text=f"{said}\n") if said else web.Response(text="ok\n")

    application = web.Application()
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/healthz", healthy)
    application.router.add_get("/readyz", ready)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, *address).start()
    except OSError as error:
        _log.warning("the pages are not served; set listen to a free address", address=address, message=str(error))
    try:
        yield
    finally:
        await runner.cleanup()
