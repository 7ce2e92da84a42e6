"""One request, from the datasource to the vectors, by the engine's own gathering and description."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ArtifactDamaged, ForeshockError
from foreshock.core.frame import Array
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.model import Model
from foreshock.detectors.rules import Rules
from foreshock.engine.gather import Gathered
from foreshock.engine.watch import Watch
from foreshock.extractor.layout import LaidShape, Layout, rows_with_model
from foreshock.extractor.models import ModelCache
from foreshock.extractor.wire import (
    ExtractionAnswer,
    ExtractionRequest,
    FailureSaid,
    GroupFound,
    ModelUnusable,
    ShapeAnswer,
    ShapeAsked,
    pack,
)
from foreshock.features.schema import STATISTICS

MAX_MESSAGE_LENGTH = 2_000


class DroppedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(slots=True)
class _Work:
    """What the describing thread needs and finds."""

    models: ModelCache
    stop: threading.Event
    unusable: dict[str, ModelUnusable]


async def extract(asked: ExtractionRequest, layout: Layout, models: ModelCache) -> bytes:
    """The answer as JSON; cancelled where nobody waits for it, and then the layout is not to be used again."""
    due = layout.begin(asked)
    gathered = await layout.gatherer.gather(due)
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_answer, asked, layout, gathered, _Work(models, stop, {}))
    finally:
        stop.set()  # a thread cannot be cancelled: it looks before each row


def _answer(asked: ExtractionRequest, layout: Layout, gathered: Gathered, work: _Work) -> bytes:
    shapes, failures, degraded = [], [], []
    for k, (shape, laid) in enumerate(zip(asked.shapes, layout.shapes, strict=True)):
        shapes.append(_answer_shape(asked, shape, laid, gathered, work))
        for i, watch in enumerate(laid.watches):
            if (failure := gathered.failures.get(watch)) is not None:
                failures.append(_said(k, i, failure.reason.value, failure.message))
            elif (warning := gathered.degraded.get(watch)) is not None:
                degraded.append(_said(k, i, "PartialResponse", warning))
    answer = ExtractionAnswer(
        shapes=tuple(shapes),
        failures=tuple(failures),
        degraded=tuple(degraded),
        unusable=tuple(work.unusable.values()),
    )
    return answer.model_dump_json().encode()


def _answer_shape(
    asked: ExtractionRequest, shape: ShapeAsked, laid: LaidShape, gathered: Gathered, work: _Work
) -> ShapeAnswer:
    ring = laid.cohort.ring[: len(laid.cohort.subjects)]
    rows = rows_with_model(shape)
    described = np.full((laid.n_known, shape.n_metrics, len(STATISTICS)), np.nan)
    for fleet, members in _blocks(asked, shape, laid, work):
        if work.stop.is_set():
            raise DroppedError
        ends_s = np.full(len(members), asked.at_s)
        described[members], _ = fleet.vectors(ring[members], ends_s, np.arange(len(members)))
    failed = [row for watch in laid.watches if watch in gathered.failures for row in watch.row_of_group.values()]
    described[[row for row in failed if row < laid.n_known]] = np.nan
    return ShapeAnswer(
        found=_found(shape, laid.watches, laid.n_known),
        samples=pack(ring[:, asked.n_held(shape) :], "<f4"),
        vectors=pack(described[rows], "<f8"),
        gaps=pack(_gaps(ring[rows]), "<f8"),
    )


def _blocks(
    asked: ExtractionRequest, shape: ShapeAsked, laid: LaidShape, work: _Work
) -> Sequence[tuple[Fleet, NDArray[np.int64]]]:
    """The models of the rows as blocks, packed again when one of them changed or could not be read."""
    digests = shape.digests
    if digests == laid.digests:
        return laid.blocks
    alike: dict[bytes, tuple[list[Model], list[int]]] = {}
    for row, digest in enumerate(digests):
        if work.stop.is_set():
            raise DroppedError
        model = _model(digest, asked, shape, work)
        if model is not None:
            models, rows = alike.setdefault(model.baseline.loads.tobytes(), ([], []))
            models.append(model)
            rows.append(row)
    none = Rules.none(shape.n_metrics)
    blocks = tuple((Fleet.of(models, [none] * len(models)), np.array(rows)) for models, rows in alike.values())
    if not work.unusable:
        laid.digests, laid.blocks = digests, blocks
    return blocks


def _model(digest: str | None, asked: ExtractionRequest, shape: ShapeAsked, work: _Work) -> Model | None:
    """The model of a row, or None where it cannot be used, which is said once a digest."""
    if digest is None or digest in work.unusable:
        return None
    try:
        model = work.models.get(digest)
        schema = model.schema
        if (schema.step_s, schema.window_s, len(schema.metrics)) != (asked.step_s, shape.window_s, shape.n_metrics):
            raise ArtifactDamaged(f"Model {digest} was trained on another step, window or number of metrics.")
    except ForeshockError as error:
        message = str(error)[:MAX_MESSAGE_LENGTH]
        work.unusable[digest] = ModelUnusable(digest=digest, reason=error.reason, message=message)
        return None
    return model


def _gaps(ring: Array) -> Array:
    """Steps since the newest sample of each metric, as `Fleet.vectors` counts them; all of them where there is none."""
    newest_first = np.isfinite(ring)[:, ::-1]
    steps = np.where(newest_first.any(axis=1), newest_first.argmax(axis=1), ring.shape[1])
    return np.asarray(steps, dtype=np.float64)


def _found(shape: ShapeAsked, watches: Sequence[Watch], n_known: int) -> tuple[GroupFound, ...]:
    """The rows that gathering added, in the order of the rings."""
    found = {
        row: GroupFound(detector=place, labels=tuple(value for _, value in group))
        for place, watch in enumerate(watches)
        if shape.detectors[place].group_by
        for group, row in watch.row_of_group.items()
        if row >= n_known
    }
    return tuple(found[row] for row in sorted(found))


def _said(shape: int, detector: int, reason: str, message: str) -> FailureSaid:
    return FailureSaid.model_validate({
        "shape": shape, "detector": detector, "reason": reason, "message": message[:MAX_MESSAGE_LENGTH],
    })  # fmt: skip
