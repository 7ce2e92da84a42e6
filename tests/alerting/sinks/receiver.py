"""A receiver of webhooks on loopback that answers as a test tells it, and remembers what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answer` is called for every request; `hang` never answers until it is cleared."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: asyncio.Event | None = None
    cut: bool = False
    echo: bool = False
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Request(request.path, dict(request.headers), body))
        if self.hang is not None:
            await self.hang.wait()
        if self.cut and request.transport is not None:
            request.transport.abort()
        content = b"" if self.status in {204, 205, 304} else str(dict(request.headers)).encode() + body
        return web.Response(status=self.status, headers=self.headers, body=content if self.echo else b"")

    @asynccontextmanager
    async def listening(self, path: str = "/hook") -> AsyncIterator[Receiver]:
        app = web.Application(client_max_size=4 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}{path}"
            yield self
        finally:
            if self.hang is not None:
                self.hang.set()
            await runner.cleanup()
