"""A verdict changes what teaches, the precision that is shown and the threshold; taken back, so is what it did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.lifecycle.simulated import DAY_S, START_S, Simulation, daily, detector, noise, simulated

from foreshock.alerting.state import Kind
from foreshock.cli.main import main
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Subject
from foreshock.lifecycle.feedback import Precision, rows_of
from foreshock.store.records import CycleChanges, Feedback, Incident

SUBJECT = Subject("default", "checkout")


def _latency(times_s: np.ndarray) -> np.ndarray:
    return daily(times_s, 100.0, 20.0) + 2.0 * noise(times_s)


def _incident(number: int) -> Incident:
    """An hour of the third day."""
    start_s = START_S + 2 * DAY_S + number * 7_200
    return Incident(
        f"{number:032x}", SUBJECT, "checkout", "warning", start_s, 2.0, Kind.RESOLVED, ended_at_s=start_s + 3_600
    )


def _say(run: Simulation, incident: str, verdict: str) -> int:
    return main(["verdict", incident, verdict, "--database", run.settings.database, "--output", "json"])


async def test_five_false_alarms_raise_the_threshold_and_taking_them_back_lowers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The factor is in the next revision and in the metric; without the verdicts it is 1 again."""
    async with simulated(tmp_path, {"latency": _latency}) as run:
        run.engine.put(detector(detection_window="30m"))
        await run.to_day(7.5)
        before = run.score()
        happened = tuple(_incident(number) for number in range(5))
        run.history.commit_cycle(CycleChanges(run.clock.now_s(), incidents=happened))
        incidents = [one.incident_id for one in happened]
        for incident in incidents:
            capsys.readouterr()
            assert _say(run, incident, "false_positive") == 0
        assert json.loads(capsys.readouterr().out)["threshold_factor"] == 1.5
        await run.to_day(7.7)
        newest = run.history.models(SUBJECT)[0]
        assert newest.created_s >= START_S + 7.5 * DAY_S  # at once, and not at the end of retrain_interval
        assert newest.details["threshold_factor"] == 1.5
        assert newest.stage == "Active"
        assert newest.details["validation"]["lost"] <= 2  # the champion is examined at the same threshold
        assert run.score() == pytest.approx(before / 1.5, rel=0.2)
        assert main(["models", "list", "--database", run.settings.database]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "threshold 1.50 times as far as learnt, after 0 true and 5 false alarms" in said
        assert "incident" not in newest.rows_excluded
        shown = run.engine._metrics.registry.get_sample_value(
            "foreshock_precision_ratio", {"detector": SUBJECT.detector}
        )
        assert shown == 0.0
        for incident in incidents:
            assert _say(run, incident, "none") == 0
        await run.to_day(7.9)
        again = run.history.models(SUBJECT)[0]
        assert again.details["threshold_factor"] == 1.0
        assert again.stage == "Active"
        assert run.score() == pytest.approx(before, rel=0.2)
        assert again.rows_excluded["incident"] > 0


@pytest.mark.parametrize(
    ("verdict", "fires", "is_confirmed"),
    [
        (None, True, False),
        ("true_positive", True, True),
        ("false_positive", False, False),
        ("expected_change", False, False),
    ],
)
def test_what_each_verdict_keeps_out(verdict: str | None, *, fires: bool, is_confirmed: bool) -> None:
    """False and expected teach again; true stays out of the calibration as well."""
    frame = Frame(0, 60, ("a",), np.zeros((1_440, 1)))
    feedback = None if verdict is None else Feedback(verdict, 0.0, "cli")
    incident = Incident("a" * 32, SUBJECT, "checkout", "warning", 6_000, 2.0, ended_at_s=12_000, feedback=feedback)
    fired, confirmed = rows_of(frame, [incident], SUBJECT, 86_400.0, tail_s=0, lasts=False)
    assert fired.any() == fires
    assert confirmed.any() == is_confirmed


def test_the_factor_is_bounded_and_needs_five_verdicts() -> None:
    """Four say nothing; a hundred false ones do no more than 1.5, a hundred true ones no less than 0.9."""
    assert Precision(0, 4).factor == 1.0
    assert Precision(0, 100).factor == 1.5
    assert Precision(100, 0).factor == 0.9
    assert Precision(65, 35).factor == 1.0
