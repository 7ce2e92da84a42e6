"""Between rings and wire: which due detectors travel in one request, and where its answer goes. No I/O."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ExtractorUnavailable, TooManySeries
from foreshock.core.frame import Array
from foreshock.core.verdicts import Ignorance
from foreshock.engine.cohort import Cohort, Described
from foreshock.engine.gather import Failure, Gathered
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.extractor.wire import VERSION, ExtractionAnswer, GroupFound, Load, ShapeAnswer, pack, unpack
from foreshock.features.schema import STATISTICS

Rows = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class _Rows:
    """Known rows of one shape, in the order in which they travel."""

    watches: list[Watch] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # position among `watches`
    groups: list[Group] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)

    def add(self, watch: Watch) -> None:
        self.watches.append(watch)
        for group, row in watch.row_of_group.items():
            revision = watch.cohort.revisions[row] if watch.cohort.models[row] is not None else None
            self.owners.append(len(self.watches) - 1)
            self.groups.append(group)
            self.rows.append(row)
            self.digests.append(revision.digest if revision is not None else None)


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Vectors and gaps of some rows of one cohort, each by the model of its digest."""

    cohort: Cohort
    rows: Rows
    digests: tuple[str, ...]
    vectors: Array
    gaps: Array


class Exchange:
    """One request: detectors of one datasource that lack the same instants."""

    def __init__(self, datasource: str, step_s: int, from_s: int, at_s: int) -> None:
        self._datasource, self.step_s, self.from_s, self.at_s = datasource, step_s, from_s, at_s
        self._shapes: dict[tuple[int, int], _Rows] = {}
        self._load = Load()

    @property
    def n_fresh(self) -> int:
        """Steps that are asked for."""
        return (self.at_s - self.from_s) // self.step_s + 1

    @property
    def watches(self) -> list[Watch]:
        """Every detector of the request."""
        return [watch for rows in self._shapes.values() for watch in rows.watches]

    @property
    def due(self) -> list[tuple[Watch, int]]:
        """The same with the instant that they are due at."""
        return [(watch, self.at_s) for watch in self.watches]

    def takes(self, watch: Watch) -> bool:
        """Add a detector, unless the request would be more than an extractor takes."""
        n_rows = len(watch.row_of_group)
        most_rows = max(watch.spec.max_groups, n_rows) if watch.spec.group_by else 1
        load = self._load + Load.of(watch.schema, self.n_fresh, n_rows=n_rows, most_rows=most_rows)
        if load.is_too_much:
            return False
        self._load = load
        self._shapes.setdefault((watch.schema.window_s, len(watch.metrics)), _Rows()).add(watch)
        return True

    def body(self, deadline_s: float) -> bytes:
        """The request as JSON; the rings are read now."""
        document = {
            "version": VERSION,
            "datasource": self._datasource,
            "step_s": self.step_s,
            "from_s": self.from_s,
            "at_s": self.at_s,
            "deadline_s": round(min(deadline_s, 600.0), 3),
            "shapes": [self._shape(window_s, rows) for (window_s, _), rows in self._shapes.items()],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def _shape(self, window_s: int, rows: _Rows) -> dict[str, Any]:
        groups: list[list[dict[str, Any]]] = [[] for _ in rows.watches]
        for owner, group, digest in zip(rows.owners, rows.groups, rows.digests, strict=True):
            groups[owner].append({"labels": [value for _, value in group], "model": digest})
        detectors = []
        for watch, own in zip(rows.watches, groups, strict=True):
            detector: dict[str, Any] = {
                "name": watch.subject.detector,
                "metrics": [{"name": metric.name, "query": metric.query} for metric in watch.metrics],
                "groups": own,
            }
            if watch.spec.group_by:
                detector |= {"group_by": list(watch.spec.group_by), "max_groups": watch.spec.max_groups}
            detectors.append(detector)
        return {"window_s": window_s, "detectors": detectors, "held": self._held(rows)}

    def _held(self, rows: _Rows) -> str:
        """The samples before `from_s` of the rows that have a model; they were rounded to float32 when read."""
        schema = rows.watches[0].schema
        places = [place for place, digest in enumerate(rows.digests) if digest is not None]
        n_held = schema.context_steps - self.n_fresh
        held = np.empty((len(places), n_held, len(schema.metrics)), np.float32)
        for cohort, (mine, ring_rows) in _by_cohort(rows, places).items():
            held[mine] = cohort.ring[ring_rows, :n_held]
        return base64.b64encode(pack(held, "<f4")).decode("ascii")

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
            self._put_samples(rows, said, samples, gathered)
            taken += _taken(rows, vectors, gaps, gathered, unusable)
        return taken

    def _checked(self, answer: ExtractionAnswer) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """The arrays of each shape, where every size and position is that of the request."""
        try:
            for said in (*answer.failures, *answer.degraded):
                self._watch(said.shape, said.detector)
            for ((_, n_metrics), rows), one in zip(self._shapes.items(), answer.shapes, strict=True):
                for found in one.found:
                    _check_found(found, rows.watches[found.detector])
                modelled = sum(digest is not None for digest in rows.digests)
                yield (
                    unpack(one.samples, "<f4", (len(rows.rows) + len(one.found), self.n_fresh, n_metrics)),
                    unpack(one.vectors, "<f8", (modelled, n_metrics, len(STATISTICS))),
                    unpack(one.gaps, "<f8", (modelled, n_metrics)),
                )
        except (ValueError, IndexError) as error:
            raise ExtractorUnavailable("the extractor answers another request than the one that was asked") from error

    def _watch(self, shape: int, detector: int) -> Watch:
        return list(self._shapes.values())[shape].watches[detector]

    def _put_samples(self, rows: _Rows, said: ShapeAnswer, samples: NDArray[Any], gathered: Gathered) -> None:
        """Known rows first, then those that the extractor found; a detector that failed keeps what it has."""
        watches = [rows.watches[owner] for owner in rows.owners]
        ring_rows = list(rows.rows)
        for found in said.found:
            watch = rows.watches[found.detector]
            names = sorted(watch.spec.group_by)
            watches.append(watch)
            try:
                ring_rows.append(watch.row_of(dict(zip(names, found.labels, strict=True))))
            except TooManySeries as error:
                ring_rows.append(-1)
                gathered.failures.setdefault(watch, Failure(Ignorance.TOO_MANY_SERIES, str(error)))
        by_cohort: dict[Cohort, list[int]] = defaultdict(list)
        for place, watch in enumerate(watches):
            if watch not in gathered.failures:
                by_cohort[watch.cohort].append(place)
        n_metrics = samples.shape[2]
        for cohort, places in by_cohort.items():
            series = samples[places].astype(np.float64).transpose(0, 2, 1).reshape(-1, self.n_fresh)
            cohort.put(
                np.repeat(np.array([ring_rows[place] for place in places]), n_metrics),
                np.tile(np.arange(n_metrics), len(places)),
                self.from_s,
                series,
            )


def exchanges_of(due: Sequence[tuple[Watch, int]], datasource: str) -> tuple[list[Exchange], list[tuple[Watch, int]]]:
    """The requests that bring `due` up to date, and what is too large to travel or lacks nothing."""
    batches: dict[tuple[int, int, int], list[tuple[Watch, int]]] = defaultdict(list)
    for watch, at_s in due:
        batches[watch.schema.step_s, watch.missing_from_s(at_s), at_s].append((watch, at_s))
    exchanges: list[Exchange] = []
    rest: list[tuple[Watch, int]] = []
    for (step_s, from_s, at_s), batch in batches.items():
        if from_s > at_s:
            rest += batch
            continue
        batch.sort(key=lambda each: each[0].metrics[0].query)  # those who share a query travel together
        current: Exchange | None = None
        for watch, _ in batch:
            if current is not None and current.takes(watch):
                continue
            fresh = Exchange(datasource, step_s, from_s, at_s)
            if fresh.takes(watch):
                current = fresh
                exchanges.append(fresh)
            else:
                rest.append((watch, at_s))
    return exchanges, rest


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


def _taken(
    rows: _Rows, vectors: NDArray[Any], gaps: NDArray[Any], gathered: Gathered, unusable: Collection[str]
) -> Iterator[Taken]:
    """The vectors by cohort, without those of failed detectors and of models that the extractor cannot use."""
    number, kept = 0, []
    for place, digest in enumerate(rows.digests):
        if digest is None:
            continue
        if digest not in unusable and rows.watches[rows.owners[place]] not in gathered.failures:
            kept.append((number, place, digest))
        number += 1
    for cohort, (mine, ring_rows) in _by_cohort(rows, [place for _, place, _ in kept]).items():
        numbers = np.array([kept[k][0] for k in mine])
        digests = tuple(kept[k][2] for k in mine)
        yield Taken(cohort, ring_rows, digests, vectors[numbers], gaps[numbers])


def _check_found(found: GroupFound, watch: Watch) -> None:
    if not watch.spec.group_by or len(found.labels) != len(watch.spec.group_by):
        raise ValueError("no such group")


def _by_cohort(rows: _Rows, places: Sequence[int]) -> dict[Cohort, tuple[Rows, Rows]]:
    """Positions within `places`, and rows of the ring, by cohort."""
    found: dict[Cohort, tuple[list[int], list[int]]] = {}
    for k, place in enumerate(places):
        mine, ring_rows = found.setdefault(rows.watches[rows.owners[place]].cohort, ([], []))
        mine.append(k)
        ring_rows.append(rows.rows[place])
    return {cohort: (np.array(mine), np.array(ring_rows)) for cohort, (mine, ring_rows) in found.items()}
