"""The process that `foreshock extractor` is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from foreshock.app.settings import Settings, split_address
from foreshock.app.wiring import open_artifacts
from foreshock.core.errors import ListenFailed
from foreshock.extractor.service import Service, create_app

LISTEN = "127.0.0.1:8081"
_STOPPED_WITHIN_S = 10
_log = structlog.get_logger("foreshock")


async def serve_extractor(settings: Settings, listen: str) -> None:
    """Serve until SIGTERM or SIGINT; what is being worked on is finished first, for ten seconds at most.

    Raises:
        ListenFailed: the address is taken or not this machine's.

    """
    service = Service(settings.datasources, open_artifacts(settings), settings.extractor)
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_STOPPED_WITHIN_S,
    )
    listener = _listener(listen)
    host, port = listener.getsockname()[:2]
    _log.info(
        "the extractor listens", address=f"{host}:{port}", datasources=[each.name for each in settings.datasources]
    )
    with listener:
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends with 0 when it is asked to: uvicorn's own way is to die of the signal after it has stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _listener(listen: str) -> socket.socket:
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ListenFailed(f"{listen} cannot be listened on ({error.strerror}); pass another --listen.") from error
