"""What follows from the fixed part of a request alone: the watches and rings that the engine's own gathering fills.

Building them for a thousand detectors takes longer than answering does, and an asker sends the same fixed part every
minute: so the last ones are kept. Nothing that was read is: every request begins with empty rings.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from foreshock.core.errors import InvalidManifest
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.rules import Rules
from foreshock.engine.cohort import Cohort
from foreshock.engine.gather import Gatherer, MetricSource
from foreshock.engine.schedule import Rhythm
from foreshock.engine.watch import Watch
from foreshock.extractor.wire import DetectorAsked, ExtractionRequest, ShapeAsked, unpack
from foreshock.manifests.detector import API_VERSION, KIND, AnomalyDetector
from foreshock.manifests.problems import problems_of
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix

_LEAST_WARM_UP_S, _LEAST_TRAINING_S = 600, 3600  # what a manifest must say at least; nothing is trained here


class OneAtATime:
    """A source that asks its queries one after another, until the deadline of the request that it serves.

    So an asker with n requests in flight causes at most n queries, however many extractors there are.
    """

    def __init__(self, source: MetricSource, monotonic_s: Callable[[], float]) -> None:
        self._source, self._monotonic_s = source, monotonic_s
        self.ends_at_s = 0.0
        self._turn = asyncio.Lock()

    def left_s(self) -> float:
        """Until the deadline."""
        return max(0.0, self.ends_at_s - self._monotonic_s())

    async def range(self, query: RangeQuery, *, deadline_s: float | None = None) -> Matrix:
        """As the source's own; `deadline_s` may only shorten the time."""
        async with self._turn:
            left_s = self.left_s()
            return await self._source.range(query, deadline_s=left_s if deadline_s is None else min(left_s, deadline_s))


@dataclass(slots=True, eq=False)
class LaidShape:
    """The rings of one shape, a row each: the known rows first, in the order of the request.

    `blocks` are the models of the rows of `digests`, packed by those that have the same loads, with their rows.
    """

    cohort: Cohort
    watches: tuple[Watch, ...]
    n_known: int
    digests: tuple[str | None, ...] = ()
    blocks: tuple[tuple[Fleet, NDArray[np.int64]], ...] = ()


class Layout:
    """Used by one request at a time."""

    def __init__(self, asked: ExtractionRequest, source: OneAtATime) -> None:
        self.source = source
        self.shapes = tuple(_lay(asked, k, shape) for k, shape in enumerate(asked.shapes))
        self.gatherer = Gatherer(source, timeout_s=lambda _: source.left_s())

    def begin(self, asked: ExtractionRequest) -> list[tuple[Watch, int]]:
        """Empty the rings, fill in what the asker holds, and say what is due."""
        for shape, laid in zip(asked.shapes, self.shapes, strict=True):
            ring, n_held = laid.cohort.ring, asked.n_held(shape)
            ring[:] = np.nan
            laid.cohort.ends_s[: laid.n_known] = asked.at_s
            rows = rows_with_model(shape)
            ring[rows, :n_held] = unpack(shape.held, "<f4", (len(rows), n_held, shape.n_metrics))
            for watch in laid.watches:
                watch.judged_at_s, watch.filled_to_s = asked.at_s, asked.from_s - asked.step_s
        return [(watch, asked.at_s) for laid in self.shapes for watch in laid.watches]

    @property
    def is_as_asked(self) -> bool:
        """Whether no row was added: one that the asker does not know yet must be found anew each time."""
        return all(len(laid.cohort.subjects) == laid.n_known for laid in self.shapes)

    @property
    def size_bytes(self) -> int:
        blocks = (block for laid in self.shapes for block, _ in laid.blocks)
        return sum(laid.cohort.ring.nbytes for laid in self.shapes) + sum(
            array.nbytes for block in blocks for array in block.baselines.values()
        )


class LayoutCache:
    """At most `limit_bytes` of rings and packed models, the least recently used ones leave first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._layouts: OrderedDict[Hashable, Layout] = OrderedDict()
        self.size_bytes = 0

    def take(self, key: Hashable) -> Layout | None:
        """The layout of this key, which is then the taker's own."""
        layout = self._layouts.pop(key, None)
        if layout is not None:
            self.size_bytes -= layout.size_bytes
        return layout

    def give(self, key: Hashable, layout: Layout) -> None:
        """Keep a layout for the next request."""
        if not layout.is_as_asked or key in self._layouts:
            return
        self._layouts[key] = layout
        self.size_bytes += layout.size_bytes
        while self.size_bytes > self._limit_bytes:
            _, dropped = self._layouts.popitem(last=False)
            self.size_bytes -= dropped.size_bytes


def key_of(asked: ExtractionRequest) -> Hashable:
    """The fixed part of a request: everything but instants, samples and models."""
    return (
        asked.datasource,
        asked.step_s,
        tuple((shape.window_s, tuple(map(_fixed, shape.detectors))) for shape in asked.shapes),
    )


def rows_with_model(shape: ShapeAsked) -> list[int]:
    """The known rows that want a vector."""
    return [row for row, digest in enumerate(shape.digests) if digest is not None]


def _fixed(detector: DetectorAsked) -> Hashable:
    metrics = tuple((metric.name, metric.query) for metric in detector.metrics)
    groups = tuple(group.labels for group in detector.groups)
    return detector.name, metrics, detector.group_by, detector.max_groups, groups


def _lay(asked: ExtractionRequest, number: int, shape: ShapeAsked) -> LaidShape:
    schema = asked.schema_of(shape)
    cohort, rules = Cohort(schema), Rules.none(shape.n_metrics)
    watches = []
    for place, detector in enumerate(shape.detectors):
        manifest = _manifest(asked, shape, detector, f"shapes[{number}].detectors[{place}]")
        rhythm = Rhythm(manifest.spec.interval, 0, 0)
        watch = Watch(manifest, schema, rules, rhythm, cohort, ())
        if detector.group_by:
            for group in detector.groups:
                watch.row_of(dict(zip(detector.label_names, group.labels, strict=True)))
        watches.append(watch)
    return LaidShape(cohort, tuple(watches), len(cohort.subjects))


def _manifest(asked: ExtractionRequest, shape: ShapeAsked, detector: DetectorAsked, path: str) -> AnomalyDetector:
    """The detector as a manifest, so that the engine's own code gathers for it.

    Raises:
        InvalidManifest: a query or a name is wrong, with its path in the request.

    """
    namespace, _, name = detector.name.partition("/")
    least = {
        "warm_up": f"{max(_LEAST_WARM_UP_S, shape.window_s)}s",
        "window": f"{max(_LEAST_TRAINING_S, shape.window_s)}s",
    }
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "target_service": name,
            "metrics": [{"name": metric.name, "query": metric.query} for metric in detector.metrics],
            "group_by": list(detector.group_by),
            "max_groups": detector.max_groups,
            "step": f"{asked.step_s}s",
            "detection_window": f"{shape.window_s}s",
            "training": least,
        },
    }
    try:
        return AnomalyDetector.model_validate(document)
    except ValidationError as error:
        raise InvalidManifest(tuple(problems_of(error, AnomalyDetector, document, file=path))) from error
