"""What every artifact store must pass: in and out, wrong digests, torn writes, two writers of one digest."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.app.settings import Settings
from foreshock.app.wiring import open_artifacts
from foreshock.core.errors import ArtifactDamaged, ArtifactMissing, StoreUnavailable
from foreshock.store.artifact_format import MAX_MANIFEST_BYTES
from foreshock.store.artifacts import ARRAYS, MANIFEST, Artifacts

STORES = ("folder", "bucket")
DOCUMENT: dict[str, Any] = {
    "algorithm": "level",
    "calibration": [0.1, 0.2, 1e-300],
    "nested": {"none": None, "yes": True},
}
OLD_S = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store of either kind is: what an administrator writes, and the folder in which its files lie."""

    settings: dict[str, Any]
    folder: Path

    def open(self) -> Artifacts:
        return open_artifacts(Settings.model_validate(self.settings))

    def files(self, digest: str) -> list[str]:
        return sorted(path.name for path in (self.folder / digest).iterdir() if not path.name.startswith("."))

    def age(self, digest: str) -> None:
        """Let an artifact have been put long ago."""
        for path in (self.folder / digest, *(self.folder / digest).iterdir()):
            os.utime(path, (OLD_S, OLD_S))


def model(n: int, size: int = 1_000) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(n)
    return {"a": generator.normal(size=size), "b": generator.integers(0, 9, size=(3, size), dtype=np.int32)}


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place({"artifacts": str(tmp_path / "models")}, tmp_path / "models")
    s3 = request.getfixturevalue("s3")
    bucket = s3.new_bucket()
    return Place({"artifacts": f"s3://{bucket}/some/models", "s3": s3.settings}, s3.folder / bucket / "some/models")


@pytest.fixture
def store(place: Place) -> Artifacts:
    return place.open()


def test_what_goes_in_comes_out(store: Artifacts) -> None:
    """The document is equal and every array has the same bits."""
    digest = store.put(model(1), DOCUMENT)
    document, arrays = store.get(digest)
    assert document == DOCUMENT
    for name, array in model(1).items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()


def test_equal_models_have_one_address_and_different_ones_two(store: Artifacts) -> None:
    """The address is of the content: it does not depend on when or how often it was put."""
    assert store.put(model(1), DOCUMENT) == store.put(model(1), DOCUMENT)
    assert store.put(model(1), DOCUMENT) != store.put(model(2), DOCUMENT)
    assert store.put(model(1), DOCUMENT) != store.put(model(1), DOCUMENT | {"calibration": [0.1]})


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_a_wrong_digest_is_refused(store: Artifacts, digest: str) -> None:
    """An address that nobody wrote leads to nothing, and to no other model."""
    store.put(model(1), DOCUMENT)
    with pytest.raises((ArtifactMissing, ArtifactDamaged)):
        store.get(digest)


def test_two_writers_of_one_digest_agree(store: Artifacts) -> None:
    """Eight threads put the same model at once; all return one digest, and every read in between is whole."""
    expected = store.put(model(3), DOCUMENT)
    with ThreadPoolExecutor(8) as threads:
        digests = [threads.submit(store.put, model(n % 2), DOCUMENT) for n in range(16)]
        reads = [threads.submit(store.get, expected) for _ in range(8)]
        assert len({one.result() for one in digests}) == 2
        assert all(one.result()[0] == DOCUMENT for one in reads)


WRITER = """
import json, sys
from tests.conformance.test_stores import DOCUMENT, model
from foreshock.app.settings import Settings
from foreshock.app.wiring import open_artifacts
store = open_artifacts(Settings.model_validate(json.loads(sys.argv[1])))
n = 0
while True:
    print(store.put(model(n, 20_000), DOCUMENT), flush=True)
    n += 1
"""


def test_a_torn_write_is_never_seen(place: Place, store: Artifacts) -> None:
    """A writer is killed in the middle of its work: every digest it reported reads back, and others go on."""
    for lines_before_the_kill in (1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, json.dumps(place.settings)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        reported = [writer.stdout.readline().strip() for _ in range(lines_before_the_kill)]
        writer.kill()
        reported += writer.stdout.read().split()
        writer.stdout.close()
        writer.wait(timeout=10)
        whole = [digest for digest in reported if len(digest) == 64]
        assert len(whole) >= lines_before_the_kill
        for n, digest in enumerate(whole):
            assert store.get(digest)[1]["a"].tobytes() == model(n, 20_000)["a"].tobytes()
    for n in range(len(whole) + 2):  # also the one that the killed writer had begun
        assert store.get(store.put(model(n, 20_000), DOCUMENT))[0] == DOCUMENT


CANARY = "foreshock-canary-must-not-run"
PICKLE = b"cos\nsystem\n(Vtouch " + CANARY.encode() + b"\ntR."  # os.system("touch ..."), were it ever unpickled

DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped byte": lambda data, chance: _flip(data, chance.randrange(len(data)), chance.randrange(1, 256)),
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "empty": lambda _data, _chance: b"",
    "longer": lambda data, _chance: data + b"\0",
    "too large": lambda _data, _chance: b"\0" * (MAX_MANIFEST_BYTES + 1),
    "a pickle": lambda _data, _chance: PICKLE,
    "a pickle of the same size": lambda data, _chance: PICKLE.ljust(len(data), b"\0"),
}


def _flip(data: bytes, position: int, mask: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= mask
    return bytes(changed)


@pytest.mark.parametrize("name", [MANIFEST, ARRAYS])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_kept_aside_and_replaced_by_the_next_training(
    place: Place, store: Artifacts, name: str, damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of it is used or executed, its bytes stay for whoever investigates, and the next training heals it."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        digest = store.put(model(seed), DOCUMENT)
        path = place.folder / digest / name
        bad = DAMAGE[damage](path.read_bytes(), random.Random(seed))
        path.write_bytes(bad)
        with pytest.raises(ArtifactDamaged, match=r"set aside as .*\.damaged-.*train again"):
            store.get(digest)
        (aside,) = (place.folder / digest).glob(f"{name}.damaged-*")
        assert aside.read_bytes() == bad
        with pytest.raises(ArtifactMissing):
            store.get(digest)
        assert store.put(model(seed), DOCUMENT) == digest
        assert store.get(digest)[0] == DOCUMENT
        assert aside.read_bytes() == bad
    assert not Path(CANARY).exists()


def test_putting_over_a_damaged_file_keeps_it_aside(place: Place, store: Artifacts) -> None:
    """A file that bears the name of bytes that it does not hold is not overwritten, even before anyone read it."""
    digest = store.put(model(1), DOCUMENT)
    (place.folder / digest / ARRAYS).write_bytes(b"bad")
    assert store.put(model(1), DOCUMENT) == digest
    (aside,) = (place.folder / digest).glob(f"{ARRAYS}.damaged-*")
    assert aside.read_bytes() == b"bad"
    assert store.get(digest)[0] == DOCUMENT


def test_a_deleted_file_is_missing_and_the_next_training_brings_it_back(place: Place, store: Artifacts) -> None:
    """Each of the two files alone; without its manifest an artifact is none, whatever else is there."""
    for name in (MANIFEST, ARRAYS):
        digest = store.put(model(1), DOCUMENT)
        (place.folder / digest / name).unlink()
        with pytest.raises(ArtifactMissing, match="train again, or restore"):
            store.get(digest)
        assert store.put(model(1), DOCUMENT) == digest
        assert store.get(digest)[0] == DOCUMENT


def test_a_sparse_giant_is_refused_by_its_size(place: Place, store: Artifacts) -> None:
    """A file of a terabyte is refused before a byte of it is read."""
    digest = store.put(model(1), DOCUMENT)
    os.truncate(place.folder / digest / ARRAYS, 1 << 40)
    with pytest.raises(ArtifactDamaged, match="bytes where"):
        store.get(digest)


@pytest.mark.parametrize(
    "address", ["", "../../../etc/passwd", "0" * 63, "0" * 65, "A" * 64, "/" + "0" * 63, "0" * 64 + "\n"]
)
def test_an_address_cannot_lead_elsewhere(store: Artifacts, address: str) -> None:
    """Only 64 lower-case hex digits are an address; anything else never becomes a path or a key."""
    with pytest.raises(ArtifactDamaged, match="64 hex digits"):
        store.get(address)


def test_a_second_put_of_the_same_model_writes_neither_file(place: Place, store: Artifacts) -> None:
    """Immutable means immutable: the files keep their inodes."""
    digest = store.put(model(1), DOCUMENT)
    before = {name: (place.folder / digest / name).stat().st_ino for name in (MANIFEST, ARRAYS)}
    assert store.put(dict(reversed(model(1).items())), DOCUMENT) == digest
    assert {name: (place.folder / digest / name).stat().st_ino for name in before} == before
    assert store.size_bytes(digest) == sum((place.folder / digest / name).stat().st_size for name in before)


def test_garbage_is_what_nobody_names_for_long_enough(place: Place, store: Artifacts) -> None:
    """Live and young artifacts stay, and so does what is not ours; the rest is removed and reported."""
    live, old, young = (store.put({"a": np.array([float(n)])}, {}) for n in range(3))
    (place.folder / "README").write_text("not ours")
    for digest in (live, old):
        place.age(digest)
    assert store.garbage({live}, older_than_s=2_000.0) == (old,)
    assert store.garbage({live}, older_than_s=2_000.0) == ()
    assert (place.folder / "README").exists()
    assert place.files(live) == [ARRAYS, MANIFEST] or place.files(live) == [MANIFEST, ARRAYS]
    with pytest.raises(ArtifactMissing):
        store.get(old)
    store.get(live)
    store.get(young)


def test_putting_or_touching_it_renews_the_grace(place: Place, store: Artifacts) -> None:
    """A model that was trained again, and is not yet recorded, is not collected under the feet of its trainer."""
    digest = store.put(model(1), DOCUMENT)
    place.age(digest)
    store.put(model(1), DOCUMENT)
    assert store.garbage((), older_than_s=2_000.0) == ()
    place.age(digest)
    store.touch([digest, "0" * 64, "../x"])
    assert store.garbage((), older_than_s=2_000.0) == ()
    place.age(digest)
    assert store.garbage((), older_than_s=2_000.0) == (digest,)
    assert store.garbage((), older_than_s=2e9) == ()  # and the artifact that is not there was not made


def test_a_damaged_copy_goes_with_its_artifact(place: Place, store: Artifacts) -> None:
    """What was set aside is looked at for as long as somebody names the artifact, and no longer."""
    digest = store.put(model(1), DOCUMENT)
    (place.folder / digest / ARRAYS).write_bytes(b"bad")
    with pytest.raises(ArtifactDamaged):
        store.get(digest)
    place.age(digest)
    assert store.garbage({digest}, older_than_s=2_000.0) == ()
    assert len(list((place.folder / digest).glob("*.damaged-*"))) == 1
    assert store.garbage((), older_than_s=2_000.0) == (digest,)
    assert not list(place.folder.rglob("*.damaged-*"))


def test_a_store_that_is_not_there_is_unavailable_and_holds_no_garbage(place: Place, tmp_path: Path) -> None:
    """No such artifact: train again. No such folder or bucket: it may come back, and nothing is trained anew for it."""
    gone = "s3://test-not-there/models" if place.settings["artifacts"].startswith("s3") else str(tmp_path / "not-there")
    store = Place({**place.settings, "artifacts": gone}, tmp_path).open()
    with pytest.raises(StoreUnavailable):
        store.get("0" * 64)
