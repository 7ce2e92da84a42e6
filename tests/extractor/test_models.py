"""Models are kept by digest while there is room, and one that cannot be read is never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.extractor.fleet import detectors
from tests.servers.s3 import S3

from foreshock.app.settings import Settings
from foreshock.app.wiring import open_artifacts
from foreshock.core.errors import ArtifactDamaged, ArtifactMissing
from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.model import dump
from foreshock.extractor.models import ModelCache
from foreshock.lifecycle.train import train_revision
from foreshock.store.artifacts import ArtifactStore

ROWS = 400


class Counted:
    """A real store that says how often it was read."""

    def __init__(self, folder: Path) -> None:
        self.store, self.reads = ArtifactStore(folder), 0

    def get(self, digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
        self.reads += 1
        return self.store.get(digest)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with three models, and their digests."""
    folder = tmp_path_factory.mktemp("models")
    values = as_samples(40 + np.random.default_rng(5).normal(size=(ROWS, 1)))
    frame = Frame(0, 60, ("wait",), values)
    model = train_revision(detectors()[0].spec, frame, np.zeros(ROWS, np.bool_), provisional=True)
    arrays, facts = dump(model)
    store = ArtifactStore(folder)
    return folder, [store.put(arrays, {"model": facts, "number": number}) for number in range(3)]


def test_models_are_read_from_a_bucket_too(stored: tuple[Path, list[str]], s3: S3) -> None:
    """The same digest, the same model, whatever kind of store holds it."""
    folder, (digest, *_) = stored
    settings = Settings.model_validate({"artifacts": f"s3://{s3.new_bucket()}", "s3": s3.settings})
    document, arrays = ArtifactStore(folder).get(digest)
    assert open_artifacts(settings).put(arrays, document) == digest
    one, other = ModelCache(ArtifactStore(folder), 2**30), ModelCache(open_artifacts(settings), 2**30)
    assert other.get(digest).schema == one.get(digest).schema
    assert other.size_bytes == one.size_bytes


def test_a_model_is_read_once_and_the_least_recently_used_one_leaves(stored: tuple[Path, list[str]]) -> None:
    """Room for two: the third takes the place of the one that nobody asked for since."""
    folder, (first, second, third) = stored
    one = ModelCache(ArtifactStore(folder), 2**30)
    one.get(first)
    counted = Counted(folder)
    cache = ModelCache(counted, 2 * one.size_bytes)
    for digest in (first, second, first, second, first):
        cache.get(digest)
    assert (counted.reads, cache.reads) == (2, 2)
    cache.get(third)
    assert cache.size_bytes == 2 * one.size_bytes
    cache.get(first)
    assert counted.reads == 3
    cache.get(second)
    assert counted.reads == 4


def test_what_scores_is_not_kept(stored: tuple[Path, list[str]]) -> None:
    """Most of a model is the forest, which is the engine's."""
    folder, (digest, *_) = stored
    cache = ModelCache(ArtifactStore(folder), 2**30)
    model = cache.get(digest)
    assert model.ensemble.channels == ()
    assert cache.size_bytes >= model.baseline.weekly.nbytes  # counted as it lies in memory, zeros and all


def test_what_cannot_be_read_raises_each_time_and_takes_no_room(tmp_path: Path) -> None:
    """Missing now may be there in a minute; what is no model says so."""
    cache = ModelCache(ArtifactStore(tmp_path), 2**30)
    for _ in range(2):
        with pytest.raises(ArtifactMissing):
            cache.get("ab" * 32)
    other = ArtifactStore(tmp_path).put({"x": np.zeros(3)}, {"kind": "something else"})
    with pytest.raises(ArtifactDamaged, match="is not that of a model"):
        cache.get(other)
    assert cache.size_bytes == 0
