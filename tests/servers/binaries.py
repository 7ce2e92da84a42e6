"""What a test needs and the machine may lack: skipped with the reason at home, a failure in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def require(*names: str, package: str) -> None:
    """Go on where all binaries are installed; else skip, or fail where the environment variable CI is set."""
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    reason = f"needs {' and '.join(missing)}; on Debian: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
