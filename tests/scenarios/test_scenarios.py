"""Every scenario keeps its promises, in memory and, a handful of them, on a real Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scenarios.language import parse
from tests.scenarios.runner import broken_promises, run_in_memory

FILES = sorted(Path(__file__).parent.glob("*.scenario"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_memory(file: Path) -> None:
    """The production engine keeps every promise of the file on the file's own series."""
    scenario = parse(file.read_text(encoding="utf-8"), file.stem)
    judgements, alerts = run_in_memory(scenario)
    assert broken_promises(scenario, judgements, alerts) == []
