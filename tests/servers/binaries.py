"""What a test needs and the machine may lack: skipped with the reason at home, a failure in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

_BUILD = Path(__file__).parents[2] / "tools/envtest/build"


def require(*names: str, package: str) -> None:
    """Go on where all binaries are installed; else skip, or fail where the environment variable CI is set."""
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    reason = f"needs {' and '.join(missing)}; on Debian: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def built(*names: str) -> Path:
    """The folder with these binaries, built where they are missing; else skip, or fail where CI is set."""
    done = subprocess.run([_BUILD, *names], stdout=subprocess.PIPE, text=True, check=False)  # its progress: stderr
    if done.returncode == 0:
        return Path(done.stdout.strip())
    reason = "needs the binaries of tools/envtest/build, which fails; what it said stands in the captured stderr"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
