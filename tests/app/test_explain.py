"""`foreshock explain` without a Prometheus: from the database and the artifacts, or from an event's file."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.alerts import STEP_S, trained

from foreshock.cli.main import main
from foreshock.detectors.model import dump
from foreshock.engine.cycle import Cycle
from foreshock.engine.gather import Gathered
from foreshock.engine.watch import Watch
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History


class _Samples:
    """Gathers what the test has put into the rings."""

    async def gather(self, due: Sequence[tuple[Watch, int]]) -> Gathered:  # noqa: ARG002 - the port
        return Gathered()


class _Shop:
    """A detector that was taught, with a real database and a real store of artifacts."""

    def __init__(self, folder: Path, *, pending_for: int = 0) -> None:
        self.watch, models, self.quiet = trained("ensemble")
        self.database, self.artifacts = f"sqlite:///{folder / 'state.db'}", folder / "models"
        arrays, facts = dump(models[0])
        digest = ArtifactStore(self.artifacts).put(arrays, {"model": facts})
        revision = self.watch.cohort.revisions[0]
        assert revision is not None
        self.watch.cohort.revisions[0] = replace(revision, digest=digest)
        self.watch.__dict__["policy"] = replace(self.watch.policy, pending_for_s=pending_for)
        self.history = History(self.database)
        self.cycle = Cycle(_Samples(), self.history, {}, cluster="test", external_labels={})
        self.at_s = int(self.watch.cohort.ends_s[0])

    def judge(self, by: float) -> None:
        """One cycle in which metric 2 is away by as much in the last hour."""
        self.at_s += STEP_S
        ring: NDArray[np.float64] = self.quiet.copy()
        ring[-12:, 2] = (ring[-12:, 2] + by).astype(np.float32)
        self.watch.cohort.ring[0], self.watch.cohort.ends_s[0] = ring, self.at_s
        asyncio.run(self.cycle.run([(self.watch, self.at_s)], float(self.at_s)))

    @property
    def incident(self) -> str:
        (only,) = self.history.incidents()
        return only.incident_id

    def explain(self, *more: str) -> int:
        return main(["explain", *more, "--database", self.database, "--artifacts", str(self.artifacts)])


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return dict(json.loads(capsys.readouterr().out))


def _windows(document: dict[str, object]) -> Collection[tuple[str, bool]]:
    windows = document["windows"]
    assert isinstance(windows, list)
    return [(each["window"], each["reproduced"]) for each in windows]


def test_firing_and_peak_are_reproduced_from_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An incident that got worse after it fired has both windows, each with its own score, bit for bit."""
    shop = _Shop(tmp_path)
    for by in (60.0, 200.0, 90.0):
        shop.judge(by)
    (incident,) = shop.history.incidents()
    assert shop.explain(shop.incident[:8], "--output", "json") == 0
    document = _json(capsys)
    assert _windows(document) == [("firing", True), ("peak", True)]
    assert document["windows"][1]["score"] == incident.peak_score  # type: ignore[index]


def test_a_peak_while_pending_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was worst before the alert fired is kept until it does."""
    shop = _Shop(tmp_path, pending_for=2 * STEP_S)
    for by in (60.0, 300.0, 60.0):
        shop.judge(by)
    assert shop.explain(shop.incident, "--output", "json") == 0
    document = _json(capsys)
    assert _windows(document) == [("firing", True), ("peak", True)]
    scores = [each["score"] for each in document["windows"]]  # type: ignore[attr-defined]
    assert scores[1] > scores[0]


def test_a_file_needs_no_database_and_the_text_fits_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An event's file tells the story, the contributions with values, model and queries; and the figures."""
    shop = _Shop(tmp_path)
    shop.judge(200.0)
    (incident,) = shop.history.incidents()
    file = tmp_path / "event.json"
    file.write_text(json.dumps(incident.evidence))
    (tmp_path / "state.db").unlink()
    assert main(["explain", str(file), "--artifacts", str(shop.artifacts), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for promised in (
        "m2_seconds",
        "reproduced bit for bit",
        "expected",
        "v1-r1",
        "1/7d",
        "Queries",
        "Broken relations",
    ):
        assert promised in said, said
    written = {file.suffix: file for file in (tmp_path / "out").iterdir()}
    assert set(written) == {".svg", ".png", ".html"}
    assert written[".png"].read_bytes().startswith(b"\x89PNG")
    assert "m2_seconds" in written[".svg"].read_text()


def test_a_deleted_artifact_is_said_and_the_evidence_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its model nothing is reproduced: exit code 1, the reason, and all that was stored."""
    shop = _Shop(tmp_path)
    shop.judge(200.0)
    shutil.rmtree(shop.artifacts)
    shop.artifacts.mkdir()
    assert shop.explain(shop.incident) == 1
    said = capsys.readouterr().out
    assert "cannot be had any more" in said
    assert "m2_seconds" in said


def test_a_score_that_differs_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last bit of the stored score altered: exit code 1, both numbers in full."""
    shop = _Shop(tmp_path)
    shop.judge(200.0)
    (incident,) = shop.history.incidents()
    event = json.loads(json.dumps(incident.evidence))
    event["data"]["score"] = np.nextafter(event["data"]["score"], 1e9)
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    assert main(["explain", str(file), "--artifacts", str(shop.artifacts)]) == 1
    assert "NOT reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "content", "said"),
    [
        ("ffff", None, "No incident begins with 'ffff'"),
        ("event.json", "no json", "no event in JSON"),
        ("event.json", "{}", "no event of Foreshock"),
        ("event.json", '{"a": "' + "x" * 2_000_000 + '"}', "at most 2000000 bytes"),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, content: str | None, said: str
) -> None:
    """Unknown ids, files that are no events, and events that are too long are refused with what to do."""
    shop = _Shop(tmp_path)
    shop.judge(200.0)
    if content is not None:
        (tmp_path / argument).write_text(content)
        argument = str(tmp_path / argument)
    assert shop.explain(argument) == 1
    assert said in capsys.readouterr().err
