"""Spreads connections over replicas in turn, as a Kubernetes Service without health checks does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit


@contextlib.asynccontextmanager
async def round_robin(urls: Sequence[str]) -> AsyncIterator[str]:
    """One address for all of them; a connection to one that is away is broken off."""
    turns = itertools.cycle([(urlsplit(url).hostname, urlsplit(url).port) for url in urls])
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                there, to_there = await asyncio.open_connection(*next(turns))
                try:
                    await asyncio.gather(_copy(reader, to_there), _copy(there, writer))
                finally:
                    to_there.close()
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
