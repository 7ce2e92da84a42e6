"""Which revision judges: pinned, promoted, brought back; each time proven by a score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, START_S, Simulation, daily, detector, noise, simulated

from foreshock.cli.main import main
from foreshock.core.verdicts import Subject

SUBJECT = Subject("default", "checkout")


def _latency(times_s: np.ndarray) -> np.ndarray:
    """Steady for five days and then twice as noisy, so that the revisions of both weeks score differently."""
    spread = np.where(times_s < START_S + 6 * DAY_S, 2.0, 4.0)
    return daily(times_s, 100.0, 20.0) + spread * noise(times_s)


def _steady(times_s: np.ndarray) -> np.ndarray:
    return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s)


def _judging(run: Simulation) -> str:
    standing = run.engine.standing(SUBJECT)
    assert standing is not None
    assert standing.revision is not None
    return standing.revision.name


def _foreshock(run: Simulation, *arguments: str) -> int:
    return main(["models", *arguments, "--database", run.settings.database])


async def test_a_rollback_scores_as_the_revision_before_from_the_next_cycle_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`models rollback` changes the score back to the digit, is not overtaken by a candidate, and ends as it says."""
    async with simulated(tmp_path, {"latency": _latency}) as run:
        run.engine.put(detector())
        await run.to_day(4.01)
        good, scores = _judging(run), {}
        await run.to_day(8.0)
        bad = _judging(run)
        assert bad != good
        scores[bad] = run.score()
        assert _foreshock(run, "rollback", "checkout", "--to", good) == 0
        assert _judging(run) == bad  # until the next cycle
        await run.to_day(8.0 + 1 / 24)
        assert _judging(run) == good
        scores[good] = run.score()
        assert scores[good] != scores[bad]
        await run.to_day(10.9)
        assert _judging(run) == good
        assert _foreshock(run, "promote", "checkout", bad) == 0
        await run.to_day(10.95)
        assert _judging(run) == bad
        capsys.readouterr()
        assert _foreshock(run, "list", "--output", "json") == 0
        listed = {each["revision"]: each for each in json.loads(capsys.readouterr().out)["models"]}
        assert listed[bad]["stage"] == "Active"
        assert listed[bad]["confirmed"]
        assert listed[good]["stage"] == "Retired"
        assert _foreshock(run, "list") == 0
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
        assert f"{bad}: promoted by hand" in said


async def test_naming_a_revision_pins_it_and_naming_the_line_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`spec.model_version: v1-r5` judges from the next cycle on and is never retrained; the command line says so."""
    async with simulated(tmp_path, {"latency": _steady}) as run:
        run.engine.put(detector())
        await run.to_day(5.01)
        pinned = [record.name for record in run.history.models(SUBJECT)][1]
        run.engine.put(detector(model_version=pinned))
        await run.to_day(5.01 + 1 / 24)
        assert _judging(run) == pinned
        await run.to_day(8)
        assert _judging(run) == pinned
        assert _foreshock(run, "rollback", "checkout") == 1
        assert f"spec.model_version pins {pinned}" in capsys.readouterr().err
        run.engine.put(detector())
        await run.to_day(8.2)
        assert _judging(run) != pinned


def test_commands_that_look_make_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is misspelt is an error and not a new, empty database."""
    assert main(["models", "list", "--database", f"sqlite:///{tmp_path}/none.db"]) == 1
    assert "There is no database" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
