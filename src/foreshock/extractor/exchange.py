"""Between rings and wire: which due detectors travel in one request, and where its answer goes. No I/O."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ExtractorUnavailable
from foreshock.core.frame import Array
from foreshock.core.verdicts import Ignorance
from foreshock.engine.cohort import Cohort, Described
from foreshock.engine.gather import Failure, Gathered
from foreshock.engine.watch import Watch
from foreshock.extractor.rows import Rows, ShapedRows, Taken
from foreshock.extractor.wire import VERSION, ExtractionAnswer, GroupFound, Load, unpack
from foreshock.features.schema import STATISTICS

Due = list[tuple[Watch, int]]
_MOST_PLANS = 64


class Exchange:
    """One request: detectors of one datasource that lack the same instants; used again while they stay the same."""

    def __init__(self, datasource: str, step_s: int, n_fresh: int) -> None:
        self._datasource, self._step_s, self._n_fresh = datasource, step_s, n_fresh
        self._at_s = 0
        self._shapes: dict[tuple[int, int], ShapedRows] = {}
        self._load = Load()

    @property
    def watches(self) -> list[Watch]:
        """Every detector of the request."""
        return [watch for rows in self._shapes.values() for watch in rows.watches]

    @property
    def due(self) -> Due:
        """The same with the instant that they are due at."""
        return [(watch, self._at_s) for watch in self.watches]

    def takes(self, watch: Watch) -> bool:
        """Add a detector, unless the request would be more than an extractor takes."""
        n_rows = len(watch.row_of_group)
        most_rows = max(watch.spec.max_groups, n_rows) if watch.spec.group_by else 1
        load = self._load + Load.of(watch.schema, self._n_fresh, n_rows=n_rows, most_rows=most_rows)
        if load.is_too_much:
            return False
        self._load = load
        self._shapes.setdefault((watch.schema.window_s, len(watch.metrics)), ShapedRows()).add(watch)
        return True

    def move_to(self, at_s: int) -> None:
        """Ask for the samples up to this instant, by the models of now."""
        self._at_s = at_s
        for rows in self._shapes.values():
            rows.refresh()

    def body(self, deadline_s: float) -> bytes:
        """The request as JSON; the rings are read now."""
        head = {
            "version": VERSION,
            "datasource": self._datasource,
            "step_s": self._step_s,
            "from_s": self._from_s,
            "at_s": self._at_s,
            "deadline_s": round(min(deadline_s, 600.0), 3),
        }
        parts = [json.dumps(head)[:-1].encode(), b',"shapes":[']
        for number, ((window_s, _), rows) in enumerate(self._shapes.items()):
            n_held = rows.watches[0].schema.context_steps - self._n_fresh
            start = f'{"," if number else ""}{{"window_s":{window_s},"detectors":{rows.detectors_json},"held":"'
            parts += [start.encode(), rows.held(n_held), b'"}']
        return b"".join([*parts, b"]}"])

    def put(self, answer: ExtractionAnswer, gathered: Gathered) -> list[Taken]:
        """Bring an answer to the rings, and hand its vectors on.

        Raises:
            ExtractorUnavailable: the answer does not belong to this request; nothing of it was used.

        """
        arrays = [*self._checked(answer)]
        for failure in answer.failures:
            watch = self._watch(failure.shape, failure.detector)
            gathered.failures.setdefault(watch, Failure(Ignorance(failure.reason), failure.message))
        for warning in answer.degraded:
            gathered.degraded.setdefault(self._watch(warning.shape, warning.detector), warning.message)
        taken: list[Taken] = []
        unusable = {model.digest for model in answer.unusable}
        for rows, said, (samples, vectors, gaps) in zip(self._shapes.values(), answer.shapes, arrays, strict=True):
            rows.put(samples, said.found, self._from_s, gathered)
            taken += rows.take(vectors, gaps, gathered, unusable)
        return taken

    @property
    def _from_s(self) -> int:
        return self._at_s - (self._n_fresh - 1) * self._step_s

    def _checked(self, answer: ExtractionAnswer) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """The arrays of each shape, where every size and position is that of the request."""
        try:
            for said in (*answer.failures, *answer.degraded):
                self._watch(said.shape, said.detector)
            for ((_, n_metrics), rows), one in zip(self._shapes.items(), answer.shapes, strict=True):
                for found in one.found:
                    _check_found(found, rows.watches[found.detector])
                modelled = len(rows.modelled)
                yield (
                    unpack(one.samples, "<f4", (len(rows.rows) + len(one.found), self._n_fresh, n_metrics)),
                    unpack(one.vectors, "<f8", (modelled, n_metrics, len(STATISTICS))),
                    unpack(one.gaps, "<f8", (modelled, n_metrics)),
                )
        except (ValueError, IndexError) as error:
            raise ExtractorUnavailable("the extractor answers another request than the one that was asked") from error

    def _watch(self, shape: int, detector: int) -> Watch:
        return list(self._shapes.values())[shape].watches[detector]


class Planner:
    """Puts due detectors into requests, and remembers how while the same ones are due together."""

    def __init__(self, datasource: str) -> None:
        self._datasource = datasource
        self._plans: dict[Hashable, tuple[list[Exchange], list[Watch]]] = {}

    def forget(self) -> None:
        """Detectors came or went."""
        self._plans.clear()

    def plan(self, due: Sequence[tuple[Watch, int]]) -> tuple[list[Exchange], Due]:
        """The requests that bring `due` up to date, and what is too large to travel or lacks nothing."""
        batches: dict[tuple[int, int, int], list[Watch]] = defaultdict(list)
        for watch, at_s in due:
            batches[watch.schema.step_s, watch.missing_from_s(at_s), at_s].append(watch)
        exchanges: list[Exchange] = []
        rest: Due = []
        for (step_s, from_s, at_s), watches in batches.items():
            if from_s > at_s:
                rest += [(watch, at_s) for watch in watches]
                continue
            planned, left = self._planned(step_s, (at_s - from_s) // step_s + 1, watches)
            for exchange in planned:
                exchange.move_to(at_s)
            exchanges += planned
            rest += [(watch, at_s) for watch in left]
        return exchanges, rest

    def _planned(self, step_s: int, n_fresh: int, watches: list[Watch]) -> tuple[list[Exchange], list[Watch]]:
        key = (n_fresh, sum(watch.generation for watch in watches), *watches)
        if (known := self._plans.get(key)) is not None:
            return known
        exchanges: list[Exchange] = []
        left: list[Watch] = []
        current: Exchange | None = None
        for watch in sorted(watches, key=lambda each: each.metrics[0].query):  # those who share a query stay together
            if current is not None and current.takes(watch):
                continue
            fresh = Exchange(self._datasource, step_s, n_fresh)
            if fresh.takes(watch):
                current = fresh
                exchanges.append(fresh)
            else:
                left.append(watch)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[key] = exchanges, left
        return exchanges, left


def described_by(taken: Sequence[Taken]) -> dict[Cohort, Described]:
    """One block a cohort, without rows whose model was replaced while the answer was under way."""
    parts: dict[Cohort, list[tuple[Rows, Array, Array]]] = defaultdict(list)
    for one in taken:
        revisions = (one.cohort.revisions[row] for row in one.rows)
        keep = np.array(
            [
                revision is not None and revision.digest == digest
                for revision, digest in zip(revisions, one.digests, strict=True)
            ]
        )
        parts[one.cohort].append((one.rows[keep], one.vectors[keep], one.gaps[keep]))
    return {
        cohort: Described(*(np.concatenate(column) for column in zip(*each, strict=True)))
        for cohort, each in parts.items()
    }


def _check_found(found: GroupFound, watch: Watch) -> None:
    if not watch.spec.group_by or len(found.labels) != len(watch.spec.group_by):
        raise ValueError("no such group")
