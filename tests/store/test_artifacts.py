"""What only a folder has: a full disk, a kill between its steps. The rest is `tests/conformance/test_stores.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foreshock.core.errors import ArtifactMissing, StoreUnavailable
from foreshock.store.artifact_format import MAX_ARRAY_FILE_BYTES
from foreshock.store.artifacts import ARRAYS, ArtifactStore

FOREST = {
    "threshold": np.random.default_rng(1).normal(size=(20, 63)).astype(np.float32),
    "left": np.arange(20 * 63, dtype=np.int16).reshape(20, 63),
}
DOCUMENT = {"algorithm": "isolation_forest", "feature_fingerprint": "f" * 64, "threshold": 0.1 + 0.2}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_missing_artifact_and_a_missing_folder_are_told_apart(store: ArtifactStore, folder: Path) -> None:
    """No such artifact: train again. No folder: a volume that is not mounted may come back."""
    with pytest.raises(StoreUnavailable, match="is not there: mount it"):
        store.get("0" * 64)
    digest = store.put(FOREST, DOCUMENT)
    with pytest.raises(ArtifactMissing, match="train again"):
        store.get("0" * 64)
    (folder / digest / ARRAYS).unlink()
    with pytest.raises(ArtifactMissing):
        store.get(digest)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from foreshock.store.artifacts import ArtifactStore
real = {name: getattr(os, name) for name in ("fsync", "replace", "utime")}

def killed_before(name):
    def step(*arguments, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real[name](*arguments, **named)
    return step

for name in real:
    setattr(os, name, killed_before(name))
for left in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        ArtifactStore(Path(sys.argv[1]) / str(left)).put({"a": np.zeros(1_000)}, {})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_kill_between_any_two_steps_leaves_all_or_nothing(folder: Path) -> None:
    """SIGKILL before each fsync, rename and mark of a write: it is whole or missing, and the next put heals."""
    told = subprocess.run([sys.executable, "-c", KILLED, str(folder), "9"], capture_output=True, check=True, timeout=60)
    ended = [int(line) for line in told.stdout.split()]
    assert ended == [-9] * 8 + [0], (
        "two files with an fsync, a rename and an fsync of the folder each, a mark, a folder"
    )
    digest = ArtifactStore(folder / "8").put({"a": np.zeros(1_000)}, {})
    for step in range(9):
        store, is_whole = ArtifactStore(folder / str(step)), step >= 5  # its second rename is done
        if is_whole:
            assert store.get(digest)[1]["a"].shape == (1_000,)
        else:
            with pytest.raises(ArtifactMissing):
                store.get(digest)
        assert store.put({"a": np.zeros(1_000)}, {}) == digest
        assert store.get(digest)[1]["a"].shape == (1_000,)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from foreshock.core.errors import StoreUnavailable
from foreshock.store.artifacts import ArtifactStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
try:
    ArtifactStore(Path(sys.argv[1])).put({"a": np.zeros(1_000)}, {})
except StoreUnavailable as error:
    sys.exit(0 if "could not be written" in str(error) else 3)
sys.exit(4)
"""


def test_a_full_disk_leaves_nothing_that_can_be_seen(store: ArtifactStore, folder: Path) -> None:
    """A write that the system refuses half-way is `StoreUnavailable`, and its temporary file is gone."""
    assert subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], check=False, timeout=60).returncode == 0
    assert names(folder) == []
    digest = store.put({"a": np.zeros(1_000)}, {})
    assert store.get(digest)[1]["a"].shape == (1_000,)


def test_what_a_killed_writer_left_is_swept_and_what_is_young_is_not(store: ArtifactStore, folder: Path) -> None:
    """A temporary file in a live artifact goes after the grace; the artifact stays."""
    digest = store.put(FOREST, DOCUMENT)
    leftover = folder / digest / ".writing-manifest.json-0000"
    leftover.write_bytes(b"half")
    assert store.garbage({digest}, older_than_s=2_000.0) == ()
    assert leftover.exists()
    os.utime(folder / digest, (1_000, 1_000))
    assert store.garbage({digest}, older_than_s=2_000.0) == ()
    assert not leftover.exists()
    store.get(digest)


def test_garbage_of_a_store_that_holds_nothing_is_nothing(store: ArtifactStore) -> None:
    """A first start has no folder yet, and that is no error."""
    assert store.garbage((), older_than_s=2e9) == ()


def test_the_limit_is_the_designed_one_or_its_stated_raise() -> None:
    """64 MiB: a revision with the models of all its groups; whoever raises it meets this line."""
    assert MAX_ARRAY_FILE_BYTES == 64 * 1024**2
