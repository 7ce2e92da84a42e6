"""Starts a real Prometheus on a free loopback port, fills it with a history, and leaves nothing running behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreshock.core.errors import ForeshockError

STARTS = 5  # a port may be taken between asking for a free one and listening on it
READY_WITHIN_S = 60.0  # replaying a log on a busy machine; a fresh folder takes 0.2 s
STOPPED_WITHIN_S = 5.0
BACKFILL_WITHIN_S = 600.0
KEEP_DAYS = 3650
"""Retention counts from now, so a backfilled history of weeks is deleted at once under a short one."""

# promtool reads the whole file once for each block: four weeks in blocks of two hours, its default, are 336 readings
_BLOCK_DURATION = "--max-block-duration=2400h"
_PORT_TAKEN = "address already in use"
_LOG = "prometheus.log"


class LocalServerError(ForeshockError):
    """Prometheus or promtool is not installed, or does not run; the message quotes its last words."""

    reason = "LocalServerFailed"


@dataclass(frozen=True, slots=True)
class LocalPrometheus:
    """A running server: `url` and `pid`, until `stop()`."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Ask it to end, and after five seconds make it; a paused one is woken first. Stopping twice is allowed."""
        if self.process.poll() is None:
            for each in (signal.SIGCONT, signal.SIGTERM):
                self._signal(each)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOPPED_WITHIN_S)
                return
            self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended in between
            os.killpg(self.pid, number)


def backfill(data_folder: Path, *openmetrics_files: Path) -> None:
    """Turn OpenMetrics files into blocks of a Prometheus that reads `data_folder`, best before it starts.

    In each file the samples of a series lie together, times are in seconds, and `# EOF` is the last line.

    Raises:
        LocalServerError: promtool is missing, refuses a file, or takes longer than ten minutes for one.
    """
    create_blocks = [_binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", _BLOCK_DURATION]
    data_folder.mkdir(parents=True, exist_ok=True)
    for file in openmetrics_files:
        command = [*create_blocks, str(file), str(data_folder)]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command and paths of our own, no shell
                command, capture_output=True, timeout=BACKFILL_WITHIN_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LocalServerError(f"promtool read {file} for {BACKFILL_WITHIN_S:.0f} s without an end") from error
        if done.returncode:
            raise LocalServerError(f"promtool refuses {file}: {_last_words(done.stderr + done.stdout)}")


def start(
    folder: Path, *, config_text: str | None = None, rules_text: str | None = None, arguments: Sequence[str] = ()
) -> LocalPrometheus:
    """Start a server on `folder`/data and return once it answers; the caller stops it.

    It ends with the thread that started it on Linux, so start it from one that lives as long. `rules_text` becomes
    `folder`/rules.yml, which a `config_text` of your own must name under `rule_files`; `arguments` come last.

    Raises:
        LocalServerError: Prometheus is missing or does not come up.
    """
    prometheus = _binary("prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    if rules_text is not None:
        (folder / "rules.yml").write_text(rules_text)
    default = "global: {scrape_interval: 15s}\n" + ("rule_files: [rules.yml]\n" if rules_text is not None else "")
    (folder / "prometheus.yml").write_text(default if config_text is None else config_text)
    for _ in range(STARTS):
        server = _launch(prometheus, folder, _free_port(), arguments)
        try:
            if _is_ready(server):
                return server
        except BaseException:
            server.stop()
            raise
        server.stop()
        said = (folder / _LOG).read_bytes()
        if _PORT_TAKEN not in said.decode(errors="replace"):
            raise LocalServerError(f"Prometheus did not start in {folder}: {_last_words(said)}")
    raise LocalServerError(f"every one of {STARTS} free ports was taken before Prometheus listened on it")


@contextlib.contextmanager
def running(
    folder: Path, *, config_text: str | None = None, rules_text: str | None = None, arguments: Sequence[str] = ()
) -> Iterator[LocalPrometheus]:
    """`start`, and `stop` whatever happens.

    Raises:
        LocalServerError: as `start`.
    """
    server = start(folder, config_text=config_text, rules_text=rules_text, arguments=arguments)
    try:
        yield server
    finally:
        server.stop()


def _launch(prometheus: str, folder: Path, port: int, arguments: Sequence[str]) -> LocalPrometheus:
    command = [
        prometheus,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={KEEP_DAYS}d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        *arguments,
    ]
    # The kernel kills it if we die before we could stop it; elsewhere than on Linux nothing offers that
    if (setpriv := shutil.which("setpriv")) is not None:
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - as above
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
    return LocalPrometheus(f"http://127.0.0.1:{port}", folder, process)


def _is_ready(server: LocalPrometheus) -> bool:
    """Wait until it answers for our own folder; False when it ended, or says nothing for a minute.

    Another server may have taken the port: then ours is about to end, and the answer speaks of another folder.
    """
    port = int(server.url.rpartition(":")[2])
    ours = json.dumps(str(server.folder / "data")).encode()
    ends_at_s = time.monotonic() + READY_WITHIN_S
    while server.process.poll() is None and time.monotonic() < ends_at_s:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/api/v1/status/flags")
            if ours in connection.getresponse().read():
                return True
        time.sleep(0.05)
    return False


def _binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise LocalServerError(f"{name} is not installed; on Debian: apt-get install prometheus")
    return path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _last_words(output: bytes) -> str:
    return " ".join(output[-1000:].decode(errors="replace").split())[-400:] or "it said nothing"
