"""The models that vectors need, read from the artifact store by digest and kept while there is room. Never written."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ArtifactDamaged
from foreshock.detectors.model import Model, load


class ReadsArtifacts(Protocol):
    """The port to the artifact store: to read is all that an extractor may."""

    def get(self, digest: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]: ...


class ModelCache:
    """At most `limit_bytes` of arrays, the least recently used ones leave first; safe to use from several threads.

    A digest says all about its model, so that nothing here can be out of date.
    """

    def __init__(self, artifacts: ReadsArtifacts, limit_bytes: int) -> None:
        self._artifacts, self._limit_bytes = artifacts, limit_bytes
        self._models: OrderedDict[str, tuple[Model, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size_bytes = self.reads = 0

    def get(self, digest: str) -> Model:
        """The model of this digest, without its channels: it describes, and cannot score.

        Raises:
            ArtifactDamaged, ArtifactMissing, StoreUnavailable: as the store says.

        """
        with self._lock:
            if (kept := self._models.get(digest)) is not None:
                self._models.move_to_end(digest)
                return kept[0]
            self.reads += 1
        model, size_bytes = self._read(digest)
        with self._lock:
            if digest not in self._models:
                self._models[digest] = (model, size_bytes)
                self.size_bytes += size_bytes
            while self.size_bytes > self._limit_bytes:
                _, (_, freed_bytes) = self._models.popitem(last=False)
                self.size_bytes -= freed_bytes
        return model

    def _read(self, digest: str) -> tuple[Model, int]:
        document, arrays = self._artifacts.get(digest)
        facts = document.get("model")
        if not isinstance(facts, Mapping):
            raise ArtifactDamaged(f"Artifact {digest} is not that of a model: train the model again.")
        return _describing(load(arrays, facts))


def _describing(model: Model) -> tuple[Model, int]:
    """The part of a model that describes windows, and its size; what scores them, most of it, is the engine's."""
    light = replace(model, ensemble=replace(model.ensemble, channels=(), calibrations=()))
    arrays = (getattr(model.baseline, each.name) for each in fields(model.baseline))
    return light, sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
