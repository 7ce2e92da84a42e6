"""What every real server of the tests shares: a free port, a process that ends with the tests, hung and crashed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STARTS = 5  # a port may be taken between asking for a free one and listening on it
STOPPED_WITHIN_S = 5.0


class ServerError(Exception):
    """A server of the tests does not come up; the message quotes its last words."""


class HasPid(Protocol):
    """A server that leads a process group of its own."""

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Server:
    """A process in a group of its own; it is killed when the thread that launched it ends."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self, ask: signal.Signals = signal.SIGTERM) -> None:
        """Wake it, ask it to end, and after five seconds make it. Stopping twice is allowed."""
        if self.is_running:
            self.signal(signal.SIGCONT)
            self.process.send_signal(ask)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOPPED_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and everything that it started, and wait until it has ended."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and everything that it started."""
        _signal(family(self.pid), number)

    def last_words(self) -> str:
        """The end of what it wrote."""
        return " ".join(self.log.read_bytes()[-4000:].decode(errors="replace").split())[-1500:] or "it said nothing"


def launch(
    command: Sequence[str],
    log: Path,
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start a command, as another user where one is named; call it in a thread that outlives the server."""
    setpriv = shutil.which("setpriv")
    prefix: list[str] = []
    if setpriv is not None:
        prefix = [setpriv, "--pdeathsig", "KILL"]
        if user is not None:
            prefix += ["--reuid", user, "--regid", user, "--init-groups"]
        prefix.append("--")
    elif user is not None:
        raise ServerError(f"only setpriv of util-linux can start {command[0]} as {user}")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=None if environment is None else {**os.environ, **environment},
        )
    return Server(Path(command[0]).name, process, log)


@contextlib.contextmanager
def paused(server: HasPid) -> Iterator[None]:
    """Under SIGSTOP: the port still accepts and nothing answers; woken whatever happens."""
    try:
        # The signal is only sent when `kill` returns: each thread stops when it next looks, and may start others first
        while awake := [pid for pid in family(server.pid) if any(_state(task) not in "TZX" for task in _tasks(pid))]:
            _signal(awake, signal.SIGSTOP)
            time.sleep(0.001)
        yield
    finally:
        _signal(family(server.pid), signal.SIGCONT)  # a test may have stopped it for good


def family(leader: int) -> list[int]:
    """A process, its group, and what any of them started; PostgreSQL's backends lead groups of their own."""
    parents_and_groups = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in between
            _, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            parents_and_groups[int(stat.parent.name)] = (int(parent), int(group))
    found = {pid for pid, (_, group) in parents_and_groups.items() if leader in {pid, group}}
    while more := {pid for pid, (parent, _) in parents_and_groups.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended in between
            os.kill(pid, number)


def free_port() -> int:
    """A loopback port on which nobody listens now; taken in between is a reason to try again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Breakable:
    """A server that a test may hurt: what holds its process in `server` can be killed and paused."""

    __slots__ = ()
    server: Server

    def kill(self) -> None:
        """SIGKILL: what it kept in memory is gone; `restart` brings it back."""
        self.server.kill()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Under SIGSTOP: the port accepts and nothing answers."""
        return paused(self.server)


def until(condition: Callable[[], bool], *, within_s: float, what: str, server: Server | None = None) -> None:
    """Wait for a condition, and fail with `what` at the deadline or as soon as the server has ended."""
    ends_at_s = time.monotonic() + within_s
    while not condition():
        if server is not None and not server.is_running:
            raise ServerError(f"{server.name} ended before {what}: {server.last_words()}")
        if time.monotonic() > ends_at_s:
            said = f": {server.last_words()}" if server is not None else ""
            raise ServerError(f"not within {within_s:.0f} s: {what}{said}")
        time.sleep(0.05)


def _tasks(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from Path(f"/proc/{pid}/task").iterdir()


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "T"  # a thread that has ended does nothing any more
