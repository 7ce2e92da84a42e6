"""A real `foreshock extractor` on loopback, as a process of its own, ready when it is handed over."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import yaml

READY_WITHIN_S = 120.0  # where no cache of the kernels is, they are compiled first


@dataclass(slots=True)
class LocalExtractor:
    """A running process: `url` until `stop`."""

    url: str
    process: subprocess.Popen[bytes]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As the kernel does where memory is short."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; a paused one is woken first."""
        if self.process.poll() is None:
            for each in (signal.SIGCONT, signal.SIGTERM):
                self.process.send_signal(each)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class NewExtractor(Protocol):
    """Start one more extractor; it is stopped after the test."""

    def __call__(self, settings: dict[str, object], *, port: int = 0) -> LocalExtractor: ...


def start(folder: Path, settings: dict[str, object], *, port: int = 0) -> LocalExtractor:
    """Start one with these settings, and return once it is ready, which is some time after it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "foreshock.yaml").write_text(yaml.safe_dump(settings))
    log = folder / "log.jsonl"
    command = [Path(sys.executable).with_name("foreshock"), "extractor", "--config", folder / "foreshock.yaml"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdout=output, stderr=output)
    ends_s = time.monotonic() + READY_WITHIN_S
    while True:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                address = json.loads(line).get("address")
                if address is not None and _is_ready(f"http://{address}"):
                    return LocalExtractor(f"http://{address}", process)
        if process.poll() is not None or time.monotonic() > ends_s:
            process.kill()
            raise AssertionError(f"the extractor does not come up: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # it listens before it answers
        return False


@pytest.fixture
def new_extractor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewExtractor]:
    """A function that starts extractors of the test's own."""
    running: list[LocalExtractor] = []

    def one(settings: dict[str, object], *, port: int = 0) -> LocalExtractor:
        running.append(start(tmp_path_factory.mktemp("extractor"), settings, port=port))
        return running[-1]

    yield one
    for each in running:
        each.stop()
