"""P3: an incident, once decided, is never lost. SIGKILL at random points of real commits, on a real file."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 100


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_database_holds_exactly_whole_transactions_after_a_hundred_kills(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """After each SIGKILL it opens, holds whole cycles only, and every one that was acknowledged.

    FORESHOCK_TEST_SEED gives a seed back.
    """
    url = f"sqlite:///{tmp_path}/foreshock.db" if kind == "sqlite" else request.getfixturevalue("postgresql_url")
    seed = int(os.environ.get("FORESHOCK_TEST_SEED", random.SystemRandom().randrange(10**6)))
    driver = subprocess.run(
        [sys.executable, "-m", "tests.store.crash_driver", url, str(KILLS), str(seed)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(f"seed={seed}")
    print(driver.stdout[-2_000:])
    assert driver.returncode == 0, driver.stderr
    lines = driver.stdout.splitlines()
    assert len(lines) == KILLS
    assert int(lines[-1].rpartition("=")[2]) > KILLS // 2  # it did commit, so there was something to tear
