"""Rows 17 and 20 to 22: whatever is down, and wherever we die, every alert arrives at every sink."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from tests.servers.binaries import require

KILLS = 10


def test_every_alert_arrives_whatever_dies() -> None:
    """Broker down for a scaled hour, Alertmanager killed, webhook answering 500, we killed ten times.

    FORESHOCK_TEST_SEED gives a seed back; `python -m tests.alerting.chaos` runs it with more.
    """
    require("java", package="default-jre-headless")
    require("prometheus-alertmanager", package="prometheus-alertmanager")
    seed = os.environ.get("FORESHOCK_TEST_SEED", str(random.SystemRandom().randrange(10**6)))
    run = subprocess.run(
        [sys.executable, "-m", "tests.alerting.chaos", "--kills", str(KILLS), "--seed", seed],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(run.stdout[-2_000:])
    assert run.returncode == 0, run.stderr[-2_000:]
    assert "nothing is missing" in run.stdout
