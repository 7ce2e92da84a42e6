"""What every artifact store must pass: in and out, wrong digests, torn writes, two writers of one digest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.core.errors import ArtifactDamaged, ArtifactMissing
from foreshock.store.artifacts import ArtifactStore

STORES: dict[str, Callable[[Path], ArtifactStore]] = {"folder": lambda path: ArtifactStore(path / "models")}
DOCUMENT: dict[str, Any] = {
    "algorithm": "level",
    "calibration": [0.1, 0.2, 1e-300],
    "nested": {"none": None, "yes": True},
}


def model(n: int, size: int = 1_000) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(n)
    return {"a": generator.normal(size=size), "b": generator.integers(0, 9, size=(3, size), dtype=np.int32)}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return STORES[request.param](tmp_path)


def test_what_goes_in_comes_out(store: ArtifactStore) -> None:
    """The document is equal and every array has the same bits."""
    digest = store.put(model(1), DOCUMENT)
    document, arrays = store.get(digest)
    assert document == DOCUMENT
    for name, array in model(1).items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()


def test_equal_models_have_one_address_and_different_ones_two(store: ArtifactStore) -> None:
    """The address is of the content: it does not depend on when or how often it was put."""
    assert store.put(model(1), DOCUMENT) == store.put(model(1), DOCUMENT)
    assert store.put(model(1), DOCUMENT) != store.put(model(2), DOCUMENT)
    assert store.put(model(1), DOCUMENT) != store.put(model(1), DOCUMENT | {"calibration": [0.1]})


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_a_wrong_digest_is_refused(store: ArtifactStore, digest: str) -> None:
    """An address that nobody wrote leads to nothing, and to no other model."""
    store.put(model(1), DOCUMENT)
    with pytest.raises((ArtifactMissing, ArtifactDamaged)):
        store.get(digest)


def test_two_writers_of_one_digest_agree(store: ArtifactStore) -> None:
    """Eight threads put the same model at once; all return one digest, and every read in between is whole."""
    expected = store.put(model(3), DOCUMENT)
    with ThreadPoolExecutor(8) as threads:
        digests = [threads.submit(store.put, model(n % 2), DOCUMENT) for n in range(16)]
        reads = [threads.submit(store.get, expected) for _ in range(8)]
        assert len({one.result() for one in digests}) == 2
        assert all(one.result()[0] == DOCUMENT for one in reads)


WRITER = """
import sys
from tests.conformance.test_stores import DOCUMENT, STORES, model
from pathlib import Path
store = STORES[sys.argv[1]](Path(sys.argv[2]))
n = 0
while True:
    print(store.put(model(n, 20_000), DOCUMENT), flush=True)
    n += 1
"""


@pytest.mark.parametrize("name", STORES)
def test_a_torn_write_is_never_seen(name: str, tmp_path: Path) -> None:
    """A writer is killed in the middle of its work: every digest it reported reads back, and others go on."""
    store = STORES[name](tmp_path)
    for lines_before_the_kill in (1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, name, str(tmp_path)],
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
