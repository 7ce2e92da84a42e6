"""`foreshock schema`: the published file is what the code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreshock.cli.main import main

PUBLISHED = Path(__file__).parents[2] / "docs/schemas/anomaly.v1.json"


def test_the_published_schema_is_the_printed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever changes the event runs: foreshock schema > docs/schemas/anomaly.v1.json."""
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == PUBLISHED.read_text()
