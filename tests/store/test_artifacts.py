"""The artifact folder: damage is kept aside, a full disk leaves nothing half-written, garbage is collected."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foreshock.core.errors import ArtifactDamaged, ArtifactMissing, StoreUnavailable
from foreshock.store.artifact_format import MAX_ARRAY_FILE_BYTES, MAX_MANIFEST_BYTES
from foreshock.store.artifacts import ARRAYS, MANIFEST, ArtifactStore

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


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped bit": lambda data, chance: _flip(data, chance.randrange(len(data)), 1 << chance.randrange(8)),
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "empty": lambda _data, _chance: b"",
    "longer": lambda data, _chance: data + b"\0",
    "too large": lambda _data, _chance: b"\0" * (MAX_MANIFEST_BYTES + 1),
    "zeros": lambda data, _chance: bytes(len(data)),
}


def _flip(data: bytes, position: int, mask: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= mask
    return bytes(changed)


@pytest.mark.parametrize("file_name", [MANIFEST, ARRAYS])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_kept_aside_and_replaced_by_the_next_training(
    store: ArtifactStore, folder: Path, file_name: str, damage: str, seed: int
) -> None:
    """Nothing of it is used, its bytes stay for whoever investigates, and putting the model again heals the store."""
    digest = store.put(FOREST, DOCUMENT)
    path = folder / digest / file_name
    bad = DAMAGE[damage](path.read_bytes(), random.Random(seed))
    path.write_bytes(bad)
    with pytest.raises(ArtifactDamaged, match=r"set aside as .*\.damaged-.*train again"):
        store.get(digest)
    (aside,) = (folder / digest).glob(f"{file_name}.damaged-*")
    assert aside.read_bytes() == bad
    with pytest.raises(ArtifactMissing):
        store.get(digest)
    assert store.put(FOREST, DOCUMENT) == digest
    assert store.get(digest)[0] == DOCUMENT
    assert aside.read_bytes() == bad


def test_putting_over_a_damaged_file_keeps_it_aside(store: ArtifactStore, folder: Path) -> None:
    """A file that bears the name of bytes that it does not hold is not overwritten, even before anyone read it."""
    digest = store.put(FOREST, DOCUMENT)
    (folder / digest / ARRAYS).write_bytes(b"bad")
    assert store.put(FOREST, DOCUMENT) == digest
    (aside,) = (folder / digest).glob(f"{ARRAYS}.damaged-*")
    assert aside.read_bytes() == b"bad"
    assert store.get(digest)[0] == DOCUMENT


def test_a_sparse_giant_is_refused_by_its_size(store: ArtifactStore, folder: Path) -> None:
    """A file of a terabyte is refused before a byte of it is read."""
    digest = store.put(FOREST, DOCUMENT)
    os.truncate(folder / digest / ARRAYS, 1 << 40)
    with pytest.raises(ArtifactDamaged, match="bytes where"):
        store.get(digest)


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


@pytest.mark.parametrize(
    "address", ["", "../../../etc/passwd", "0" * 63, "0" * 65, "A" * 64, "/" + "0" * 63, "0" * 64 + "\n"]
)
def test_an_address_cannot_lead_out_of_the_folder(store: ArtifactStore, address: str) -> None:
    """Only 64 lower-case hex digits are an address; anything else never becomes a path."""
    with pytest.raises(ArtifactDamaged, match="64 hex digits"):
        store.get(address)


def test_a_second_put_of_the_same_model_writes_nothing(store: ArtifactStore, folder: Path) -> None:
    """Immutable means immutable: the files keep their inodes."""
    digest = store.put(FOREST, DOCUMENT)
    before = {path: path.stat().st_ino for path in (folder / digest).iterdir()}
    assert store.put(dict(reversed(FOREST.items())), DOCUMENT) == digest
    assert {path: path.stat().st_ino for path in (folder / digest).iterdir()} == before
    assert store.size_bytes(digest) == sum(path.stat().st_size for path in before)


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


def test_a_writer_killed_between_its_two_files_leaves_no_artifact(store: ArtifactStore, folder: Path) -> None:
    """The manifest is written last: without it there is nothing, and the next writer finishes the work."""
    digest = store.put(FOREST, DOCUMENT)
    (folder / digest / MANIFEST).unlink()
    with pytest.raises(ArtifactMissing):
        store.get(digest)
    assert store.put(FOREST, DOCUMENT) == digest
    assert store.get(digest)[0] == DOCUMENT


def test_garbage_is_what_nobody_names_for_long_enough(store: ArtifactStore, folder: Path) -> None:
    """Live and young artifacts stay, and so does what is not ours; the rest is removed and reported."""
    live, old, young = (store.put({"a": np.array([float(n)])}, {}) for n in range(3))
    for digest in (live, old):
        os.utime(folder / digest, (1_000, 1_000))
    (folder / "README").write_text("not ours")
    leftover = folder / live / ".writing-manifest.json-0000"
    leftover.write_bytes(b"half")
    os.utime(folder / live, (1_000, 1_000))
    assert store.garbage({live}, older_than_s=2_000.0) == (old,)
    assert store.garbage({live}, older_than_s=2_000.0) == ()
    assert not leftover.exists()
    assert (folder / "README").exists()
    assert not (folder / old).exists()
    store.get(live)
    store.get(young)


def test_putting_again_renews_the_grace(store: ArtifactStore, folder: Path) -> None:
    """A model that was trained again, and is not yet recorded, is not collected under the feet of its trainer."""
    digest = store.put(FOREST, DOCUMENT)
    os.utime(folder / digest, (1_000, 1_000))
    store.put(FOREST, DOCUMENT)
    assert store.garbage((), older_than_s=2_000.0) == ()


def test_garbage_of_a_store_that_holds_nothing_is_nothing(store: ArtifactStore) -> None:
    """A first start has no folder yet, and that is no error."""
    assert store.garbage((), older_than_s=2e9) == ()


def test_the_limit_is_the_designed_one_or_its_stated_raise() -> None:
    """64 MiB: a revision with the models of all its groups; whoever raises it meets this line."""
    assert MAX_ARRAY_FILE_BYTES == 64 * 1024**2
