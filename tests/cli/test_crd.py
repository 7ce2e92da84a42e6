"""`foreshock crd`: the same three definitions in every form that kubectl takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foreshock.cli.main import main
from foreshock.manifests.crd import definitions


def test_yaml_and_json_hold_the_same_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream of documents for people, one list for programs."""
    assert main(["crd"]) == 0
    as_yaml = list(yaml.safe_load_all(capsys.readouterr().out))
    assert main(["crd", "--output", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["kind"], listed["items"]) == ("List", as_yaml)
    assert as_yaml == list(definitions())


def test_a_folder_gets_one_file_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a chart keeps under crds/; nothing is printed then."""
    assert main(["crd", "--folder", str(tmp_path / "a/crds")]) == 0
    files = {file.name: yaml.safe_load(file.read_text()) for file in (tmp_path / "a/crds").iterdir()}
    assert set(files) == {"anomalydetectors.yaml", "anomalymodels.yaml", "anomalies.yaml"}
    assert files["anomalies.yaml"]["spec"]["names"]["kind"] == "Anomaly"
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "crds").write_text("")
    assert main(["crd", "--folder", str(tmp_path / "crds")]) == 1
    assert "cannot be written: File exists; name another --folder." in capsys.readouterr().err
