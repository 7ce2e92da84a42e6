"""`foreshock maintenance import`: what it prints is what a manifest takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foreshock.cli.main import main
from foreshock.manifests.detector import AnomalyDetector

CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//t//t//EN
BEGIN:VEVENT
UID:1@t
DTSTART;TZID=Europe/Berlin:20260314T023000
DTEND;TZID=Europe/Berlin:20260314T043000
RRULE:FREQ=WEEKLY;COUNT=3
SUMMARY:Database: upgrade
END:VEVENT
END:VCALENDAR
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "changes.ics"
    path.write_text(CALENDAR)
    return path


def test_it_prints_what_a_manifest_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The YAML is valid under `spec`, and the JSON says the same."""
    command = ["maintenance", "import", str(file), "--from", "2026-03-01T00:00:00Z"]
    assert main(command) == 0
    block = yaml.safe_load(capsys.readouterr().out)
    assert [each["reason"] for each in block["maintenance"]] == ["Database: upgrade"] * 3
    spec = {"target_service": "a", "prometheus_query": "a", **block}
    detector = AnomalyDetector.model_validate(
        {"apiVersion": "devopsroles.com/v1", "kind": "AnomalyDetector", "metadata": {"name": "a"}, "spec": spec}
    )
    assert len(detector.spec.maintenance) == 3
    assert main([*command, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == block


def test_nothing_found_and_nothing_readable_are_sentences(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty stretch ends 0 with an empty block, a bad file 1, a bad option 2."""
    assert main(["maintenance", "import", str(file), "--from", "2027-01-01T00:00:00Z"]) == 0
    out, said = capsys.readouterr()
    assert out == "maintenance: []\n"
    assert "lies within 90d from 2027-01-01T00:00:00Z" in said
    assert main(["maintenance", "import", str(file.with_name("none.ics"))]) == 1
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err
    assert main(["maintenance", "import", str(file), "--time-zone", "Atlantis"]) == 2
    assert "no name of the time zone database" in capsys.readouterr().err
    assert main(["maintenance", "import", str(file), "--from", "soon"]) == 2
    assert "neither RFC 3339" in capsys.readouterr().err
