"""Compile or load the kernels before the first request: seconds that nobody should wait for an answer."""

from __future__ import annotations

import numpy as np

from foreshock.core.frame import Frame, as_samples
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.model import dump, load
from foreshock.detectors.rules import Rules
from foreshock.lifecycle.train import train_revision
from foreshock.manifests.detector import API_VERSION, KIND, AnomalyDetector
from foreshock.store.artifact_format import decode_arrays, decode_manifest, encode

_ROWS = 240


def warm_up() -> None:
    """Describe one window by a small model that was stored and read back: with the very types that requests bring."""
    manifest = AnomalyDetector.model_validate({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "warm-up"},
        "spec": {
            "target_service": "warm-up", "prometheus_query": "up", "algorithm": "level", "detection_window": "10m",
            "training": {"warm_up": "10m", "window": "4h"},
        },
    })  # fmt: skip
    values = as_samples(np.sin(np.arange(_ROWS, dtype=np.float64))[:, None])
    frame = Frame(0, manifest.spec.step, (manifest.spec.named_metrics[0].name,), values)
    arrays, facts = dump(train_revision(manifest.spec, frame, np.zeros(_ROWS, np.bool_)))
    stored = encode(arrays, {"model": facts})
    promise = decode_manifest(stored.manifest, stored.digest)
    model = load(decode_arrays(promise, stored.arrays), facts)
    fleet = Fleet.of([model], [Rules.none(1)])
    ring = values[None, -model.schema.context_steps :].copy()
    fleet.vectors(ring, np.array([frame.end_s]), np.array([0]))
