"""Real `foreshock operator` processes, and one address in front of several extractors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml
from tests.servers.kubernetes import ControlPlane
from tests.servers.processes import Server, free_port, launch

READY_WITHIN_S = 120.0


@dataclass(slots=True)
class LocalOperator:
    """One replica: its pages at `url`, its log, and the events of its `log` sink."""

    server: Server
    url: str
    folder: Path

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels; 0 where there is none."""
        total = 0.0
        for line in self._get("/metrics").splitlines():
            head, _, value = line.rpartition(" ")
            family, _, given = head.partition("{")
            if family == name and all(f'{label}="{wanted}"' in given for label, wanted in labels.items()):
                total += float(value)
        return total

    @property
    def leads(self) -> bool:
        """Whether it says so, and answers at all."""
        try:
            return self.metric("foreshock_leader") == 1
        except OSError:
            return False

    @property
    def is_ready(self) -> bool:
        try:
            self._get("/readyz")
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        return self.server.log.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What its `log` sink wrote: those lines of its output that are CloudEvents."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if document.get("specversion"):
                    found.append(document)
        return found

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=3) as answer:
            return str(answer.read().decode())


def start_operator(
    folder: Path, settings: dict[str, object], plane: ControlPlane, *, namespace: str, kubeconfig: Path | None = None
) -> LocalOperator:
    """Start a replica; its Lease is in the namespace that it watches."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "foreshock.yaml").write_text(yaml.safe_dump(settings | {"listen": f"127.0.0.1:{port}"}))
    command = [
        str(Path(sys.executable).with_name("foreshock")), "operator", "--config", str(folder / "foreshock.yaml"),
        "--kubeconfig", str(kubeconfig or plane.kubeconfig), "--namespace", namespace,
    ]  # fmt: skip
    environment = {**os.environ, "POD_NAMESPACE": namespace}
    server = launch(command, folder / "log.jsonl", environment=environment)
    return LocalOperator(server, f"http://127.0.0.1:{port}", folder)


def wait_for(what: Any, *, within_s: float, because: str, of: Sequence[LocalOperator] = ()) -> Any:
    """What a call returns once it is true.

    Raises:
        AssertionError: it was not within the time; it quotes the end of the logs.

    """
    ends_s = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < ends_s, because + "\n" + "\n".join(each.server.last_words() for each in of)
        time.sleep(0.25)
    return found


@contextlib.contextmanager
def balanced(urls: Sequence[str]) -> Iterator[str]:
    """One address for several servers: each connection goes to the next of them that accepts it."""
    targets = cycle([(url.split("//")[1].split(":")[0], int(url.rsplit(":", 1)[1])) for url in urls])
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            for _ in urls:
                with contextlib.suppress(OSError):
                    upstream = socket.create_connection(next(targets), timeout=2)
                    upstream.settimeout(None)
                    threading.Thread(target=_join, args=(client, upstream), daemon=True).start()
                    break
            else:
                client.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _join(client: socket.socket, upstream: socket.socket) -> None:
    """Pass bytes both ways until one side ends, then close both."""
    with client, upstream:
        upward = threading.Thread(target=_pipe, args=(client, upstream), daemon=True)
        upward.start()
        _pipe(upstream, client)
        upward.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65_536):
            target.sendall(chunk)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def stop_all(operators: Sequence[LocalOperator]) -> None:
    """Wake and end each, whatever state a test left it in."""
    for each in operators:
        with contextlib.suppress(ProcessLookupError):
            each.server.signal(signal.SIGCONT)
        each.server.stop()
