"""A real Alertmanager on free loopback ports, alone or as one of two peers; it remembers nothing over a restart."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.servers.binaries import require
from tests.servers.processes import STARTS, Breakable, Server, ServerError, free_port, launch, until

READY_WITHIN_S = 30.0
_PORT_TAKEN = "address already in use"


@dataclass(slots=True)
class Alertmanager(Breakable):
    """A running server: `url` is what a sink is given."""

    url: str
    folder: Path
    server: Server
    _command: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.server.pid

    def alerts(self) -> list[dict[str, Any]]:
        """What fires now, as its API shows it."""
        found: list[dict[str, Any]] = self._get("/api/v2/alerts")
        return found

    def firing(self) -> set[str]:
        """The incidents that fire now."""
        return {alert["annotations"]["incident"] for alert in self.alerts()}

    def restart(self) -> None:
        """Start it again on the same port; call it in a thread that outlives the server."""
        self.server.stop()
        self.server = launch(self._command, self.folder / "alertmanager.log")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until it answers."""
        until(self._answers, within_s=READY_WITHIN_S, what="Alertmanager answers", server=self.server)

    def _answers(self) -> bool:
        try:
            return "uptime" in self._get("/api/v2/status")
        except (OSError, ValueError):
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving(folder: Path, *, webhook_url: str | None = None) -> Iterator[Alertmanager]:
    """A single one; what it notifies of goes to `webhook_url`, or nowhere."""
    require("prometheus-alertmanager", package="prometheus-alertmanager")
    hooks = f"\n    webhook_configs: [{{url: '{webhook_url}', send_resolved: true}}]" if webhook_url else ""
    (folder / "alertmanager.yml").write_text(
        "route: {receiver: tests, group_by: [...], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\n"
        f"receivers:\n  - name: tests{hooks}\n"
    )
    for _ in range(STARTS):
        port = free_port()
        command = (
            "prometheus-alertmanager",
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        )
        server = launch(command, folder / "alertmanager.log")
        alertmanager = Alertmanager(f"http://127.0.0.1:{port}", folder, server, command)
        try:
            alertmanager.wait_until_ready()
        except BaseException as error:
            alertmanager.server.stop()
            if isinstance(error, ServerError) and _PORT_TAKEN in str(error):
                continue
            raise
        try:
            yield alertmanager
        finally:
            alertmanager.server.stop()
        return
    raise ServerError(f"every one of {STARTS} free ports was taken before Alertmanager listened on it")


class NewAlertmanager(Protocol):
    """Start one more Alertmanager, to be killed, paused and restarted; it ends with the test."""

    def __call__(self, *, webhook_url: str | None = None) -> Alertmanager: ...


@pytest.fixture(scope="session")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    """One for the whole run; stop nothing of it."""
    with serving(tmp_path_factory.mktemp("alertmanager")) as server:
        yield server


@pytest.fixture
def new_alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewAlertmanager]:
    """A function that starts Alertmanagers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(*, webhook_url: str | None = None) -> Alertmanager:
            return stack.enter_context(serving(tmp_path_factory.mktemp("alertmanager"), webhook_url=webhook_url))

        yield start
