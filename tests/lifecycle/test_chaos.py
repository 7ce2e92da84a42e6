"""Rows 16 to 18: training, promotion and rollback that are killed at random points end as if nobody had died.

`FORESHOCK_KILLS=100 make unit ARGS=tests/lifecycle/test_chaos.py` kills a hundred times; `FORESHOCK_TEST_SEED` gives a
seed back.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tests.lifecycle.chaos_driver import MANIFEST, Life, steps

from foreshock.lifecycle import lines

KILLS = int(os.environ.get("FORESHOCK_KILLS", "8"))
SEED = int(os.environ.get("FORESHOCK_TEST_SEED") or random.randrange(1_000_000))
DAYS = 4 + KILLS // 2


async def _state(folder: Path) -> tuple[object, ...]:
    """All that is kept of the detector, and what judges after a restart, with its score."""
    life = Life(folder, lambda _: None)
    subject = MANIFEST.subject
    live = life.history.live_digests()
    life.artifacts.garbage(live, older_than_s=time.time() + 60)  # what a death left unreferenced is swept
    kept = sorted(path.relative_to(folder).as_posix() for path in (folder / "models").rglob("*"))
    records = life.history.models(subject)
    await life.restore(steps(DAYS)[-1].at_s)
    cohort, rows = life.watch.cohort, life.watch.rows
    cohort.ring[rows] = 130.0
    judged = cohort.judge(rows, np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_))
    revisions = [each.name if each is not None else "" for each in (cohort.revisions[row] for row in rows)]
    return kept, records, life.history.notices(), revisions, judged.decisions.scores.tolist(), life.next_s


def test_a_hundred_deaths_and_one_line_of_models(tmp_path: Path) -> None:
    """SIGKILL at random points: records, artifacts, what judges and its score are those of an undisturbed life."""
    print(f"FORESHOCK_KILLS={KILLS} FORESHOCK_TEST_SEED={SEED}")
    for name in ("killed", "killed/warm", "undisturbed"):
        (tmp_path / name).mkdir()
    plan = {"folder": str(tmp_path / "killed"), "days": DAYS, "kills": KILLS, "seed": SEED}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lifecycle.chaos_driver", json.dumps(plan)],
        capture_output=True, text=True, check=False, timeout=120 + 5 * KILLS,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    print(done.stdout)

    asyncio.run(Life(tmp_path / "undisturbed", lambda _: None).live(steps(DAYS)))
    expected, found = (asyncio.run(_state(tmp_path / name)) for name in ("undisturbed", "killed"))
    stages = {record.stage for record in Life(tmp_path / "killed", lambda _: None).history.models(MANIFEST.subject)}
    assert {lines.ACTIVE, lines.RETIRED} <= stages
    assert found == expected
