"""Stands between a client and a real server on loopback, and lets the connection fail as connections do.

A fault is what happens to one connection: `passing`, `delayed(0.1)`, `cut_after(100)`, `black_hole`, … `faults` are
used up by one connection each, then `fault` holds. `refuse()` closes the port. Connections and bytes are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import urlsplit

import pytest

from foreshock.prometheus.local_server import LocalPrometheus

_CHUNK = 65_536


@dataclass(slots=True)
class Connection:
    """One accepted connection, and how to reach the server behind."""

    proxy: FaultProxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def forward(self, *, limit: int | None = None, bytes_per_s: float | None = None) -> None:
        """Pass bytes both ways until one side ends, or until `limit` bytes of the answer have passed."""
        host, port = self.proxy.target
        server_reader, server_writer = await asyncio.open_connection(host, port)
        upward = asyncio.create_task(self._copy_up(server_writer))
        try:
            while limit is None or limit > 0:
                size = _CHUNK if limit is None else min(limit, _CHUNK)
                if bytes_per_s is not None:
                    size = max(1, min(size, int(bytes_per_s / 50)))
                if not (chunk := await server_reader.read(size)):
                    break
                await self.send(chunk)
                if limit is not None:
                    limit -= len(chunk)
                if bytes_per_s is not None:
                    await asyncio.sleep(len(chunk) / bytes_per_s)
        finally:
            upward.cancel()
            server_writer.close()

    async def _copy_up(self, server_writer: asyncio.StreamWriter) -> None:
        while chunk := await self.reader.read(_CHUNK):
            self.proxy.bytes_up += len(chunk)
            server_writer.write(chunk)
            await server_writer.drain()

    async def send(self, data: bytes) -> None:
        self.proxy.bytes_down += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def until_client_leaves(self) -> None:
        while await self.reader.read(_CHUNK):
            pass

    async def read_request(self) -> bytes:
        """The first HTTP request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        body = await self.reader.readexactly(int(_header(head, b"content-length") or 0))
        self.proxy.bytes_up += len(head) + len(body)
        self.proxy.requests.append(head + body)
        return head + body

    def reset(self) -> None:
        """End with RST: with no time to linger the kernel drops what is unsent."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Fault = Callable[[Connection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as a rewriter sees it; length and connection headers are the proxy's."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def on_the_wire(self) -> bytes:
        headers = {**self.headers, "Content-Length": str(len(self.body)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Status\r\n{head}\r\n".encode() + self.body


async def passing(connection: Connection) -> None:
    await connection.forward()


async def black_hole(connection: Connection) -> None:
    """Accept, listen, and never answer."""
    await connection.until_client_leaves()


async def reset(connection: Connection) -> None:
    connection.reset()


async def half_close(connection: Connection) -> None:
    """Say that nothing will be said, and go on listening."""
    connection.writer.write_eof()
    await connection.until_client_leaves()


def delayed(pause_s: float) -> Fault:
    async def fault(connection: Connection) -> None:
        await asyncio.sleep(pause_s)
        await connection.forward()

    return fault


def throttled(bytes_per_s: float) -> Fault:
    async def fault(connection: Connection) -> None:
        await connection.forward(bytes_per_s=bytes_per_s)

    return fault


def cut_after(n_bytes: int) -> Fault:
    """Break off with RST after `n_bytes` of the answer, head included."""

    async def fault(connection: Connection) -> None:
        await connection.forward(limit=n_bytes)
        connection.reset()

    return fault


def garbage(data: bytes) -> Fault:
    """Answer with bytes that are no HTTP."""

    async def fault(connection: Connection) -> None:
        await connection.send(data)

    return fault


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Fault:
    """Answer a request without the server; underscores in header names are hyphens."""
    answer = Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    async def fault(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(answer.on_the_wire())

    return fault


def rewriting(change: Callable[[Answer], Answer]) -> Fault:
    """Let the server answer one request, and change status, headers or body of its answer."""

    async def fault(connection: Connection) -> None:
        request = await connection.read_request()
        head, _, body = request.partition(b"\r\n\r\n")
        host, port = connection.proxy.target
        reader, writer = await asyncio.open_connection(host, port)
        try:
            kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            writer.write(b"\r\n".join([*kept, b"Connection: close", b"", body]))
            await connection.send(change(_parsed(await reader.read(-1))).on_the_wire())
        finally:
            writer.close()

    return fault


def rewriting_body(change: Callable[[bytes], bytes]) -> Fault:
    return rewriting(lambda answer: replace(answer, body=change(answer.body)))


def _parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if _header(head + b"\r\n\r\n", b"transfer-encoding") == b"chunked":
        body = _unchunked(body)
    dropped = {"transfer-encoding", "content-length", "connection"}
    kept = {name: value for name, value in headers.items() if name.lower() not in dropped}
    return Answer(int(first.split()[1]), body, kept)


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(name + b":"):
            return line.partition(b":")[2].strip()
    return None


class FaultProxy:
    """Listens on a free loopback port, or on `port`, and forwards to `target_url`; an async context manager."""

    def __init__(self, target_url: str, *, port: int = 0) -> None:
        parts = urlsplit(target_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.target = (parts.hostname, parts.port)
        self.fault: Fault = passing
        self.faults: deque[Fault] = deque()
        self.requests: list[bytes] = []  # seen by `answering` and `rewriting`
        self.connections = self.open_connections = self.peak_connections = 0
        self.bytes_up = self.bytes_down = 0
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Take connections, again on the same port after `refuse`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        await self.drop_connections()

    async def drop_connections(self) -> None:
        """End the open connections, so that the next request meets the fault of now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        self.peak_connections = max(self.peak_connections, self.open_connections)
        fault = self.faults.popleft() if self.faults else self.fault
        try:
            # Client and server may leave at any time, and `drop_connections` cancels: that is what a proxy is for
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await fault(Connection(self, reader, writer))
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()


@pytest.fixture
async def fault_proxy(prometheus: LocalPrometheus) -> AsyncIterator[FaultProxy]:
    """A fault proxy before the shared Prometheus."""
    async with FaultProxy(prometheus.url) as proxy:
        yield proxy
