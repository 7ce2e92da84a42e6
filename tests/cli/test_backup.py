"""`foreshock backup` and `foreshock restore` as a shell sees them; what is in one: tests/store/test_backup.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.records_for_tests import cycle, everything

from foreshock.cli.main import main
from foreshock.store.history import History

RUN = [sys.executable, "-c", "import sys; from foreshock.cli.main import main; sys.exit(main())"]


def state(folder: Path) -> list[str]:
    return ["--database", f"sqlite:///{folder}/foreshock.db", "--artifacts", str(folder / "models")]


def test_a_backup_goes_through_pipes(tmp_path: Path) -> None:
    """As from `kubectl exec`: the archive alone is on stdout, and what is said is on stderr."""
    history = History(f"sqlite:///{tmp_path}/a/foreshock.db")
    history.commit_cycle(cycle(1))
    taken = subprocess.run([*RUN, "backup", "-", *state(tmp_path / "a")], capture_output=True, check=True, timeout=60)
    assert b"rows and 0 models" in taken.stderr
    subprocess.run([*RUN, "restore", "-", *state(tmp_path / "b")], input=taken.stdout, check=True, timeout=60)
    restored = History(f"sqlite:///{tmp_path}/b/foreshock.db")
    assert everything(restored) == everything(history)
    restored.close()
    history.close()


def test_a_wrong_path_is_a_sentence_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither command leaves a database or half a file behind."""
    for command, words in (("backup", "There is no database"), ("restore", "cannot be read (No such file")):
        assert main([command, str(tmp_path / "none.tar"), *state(tmp_path)]) == 1
        assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
