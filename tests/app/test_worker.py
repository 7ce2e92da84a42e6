"""The process that fits models may be killed at any time."""

from __future__ import annotations

import os
import signal
from concurrent.futures import BrokenExecutor
from contextlib import suppress

import pytest

from foreshock.app.worker import Worker


def test_a_killed_process_is_followed_by_another() -> None:
    """What it did fails with an error; what is submitted afterwards runs in a new process."""
    worker = Worker()
    try:
        first = worker.submit(os.getpid).result(60)
        assert first != os.getpid()
        with pytest.raises(BrokenExecutor):
            worker.submit(signal.raise_signal, signal.SIGKILL).result(60)
        assert worker.submit(os.getpid).result(60) not in {first, os.getpid()}
    finally:
        worker.shutdown()


def test_shutting_down_ends_what_runs() -> None:
    """A fit that never ends does not hold up the end of the engine."""
    worker = Worker()
    process = worker.submit(os.getpid).result(60)
    worker.submit(signal.pause)
    worker.shutdown()
    with suppress(ChildProcessError):  # it has ended, and the pool was the first to see it
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
