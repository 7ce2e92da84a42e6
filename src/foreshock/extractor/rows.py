"""The rows of one shape on the engine's side: in which order they travel, by which models, and where answers go."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import TooManySeries
from foreshock.core.frame import Array
from foreshock.core.verdicts import Ignorance
from foreshock.engine.cohort import Cohort
from foreshock.engine.gather import Failure, Gathered
from foreshock.engine.groups import Group
from foreshock.engine.watch import Watch
from foreshock.extractor.wire import GroupFound, pack

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Vectors and gaps of some rows of one cohort, each by the model of its digest."""

    cohort: Cohort
    rows: Rows
    digests: tuple[str, ...]
    vectors: Array
    gaps: Array


@dataclass(slots=True, eq=False)
class ShapedRows:
    """Detectors of one window and one number of metrics, with their known rows one after another.

    What follows from the manifests and the models is written once and again when a model changes: writing it takes
    longer than everything else that a cycle does here.
    """

    watches: list[Watch] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # of each row: position among `watches`
    groups: list[Group] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # in the ring of `cohorts`
    cohorts: list[Cohort] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    modelled: list[int] = field(default_factory=list)  # places of rows that have a model
    detectors_json: str = ""
    _places: dict[Cohort, tuple[Rows, Rows]] = field(default_factory=dict)  # within `modelled`, and ring rows

    def add(self, watch: Watch) -> None:
        """One more detector."""
        self.watches.append(watch)
        for group, row in watch.row_of_group.items():
            self.owners.append(len(self.watches) - 1)
            self.groups.append(group)
            self.rows.append(row)
            self.cohorts.append(watch.cohort)

    def refresh(self) -> None:
        """Look which models judge now."""
        revisions = [cohort.revisions[row] for cohort, row in zip(self.cohorts, self.rows, strict=True)]
        digests = [None if revision is None else revision.digest for revision in revisions]
        if digests == self.digests and self.detectors_json:
            return
        self.digests = digests
        self.modelled = [place for place, digest in enumerate(digests) if digest is not None]
        self._places = self._by_cohort(self.modelled)
        self.detectors_json = json.dumps(self._detectors(), separators=(",", ":"))

    def held(self, n_held: int) -> bytes:
        """In base64: the first samples of the rings of rows that have a model, which reading rounded to float32."""
        n_metrics = len(self.watches[0].metrics)
        held = np.empty((len(self.modelled), n_held, n_metrics), np.float32)
        for cohort, (mine, ring_rows) in self._places.items():
            held[mine] = cohort.ring[ring_rows, :n_held]
        return base64.b64encode(pack(held, "<f4"))

    def put(self, samples: NDArray[Any], found: Sequence[GroupFound], from_s: int, gathered: Gathered) -> None:
        """Write samples into the rings: those of known rows first, then of rows that the extractor found.

        A detector that failed keeps what it has.
        """
        watches, ring_rows = [self.watches[owner] for owner in self.owners], list(self.rows)
        for each in found:
            watch = self.watches[each.detector]
            watches.append(watch)
            try:
                ring_rows.append(watch.row_of(dict(zip(sorted(watch.spec.group_by), each.labels, strict=True))))
            except TooManySeries as error:
                ring_rows.append(-1)
                gathered.failures.setdefault(watch, Failure(Ignorance.TOO_MANY_SERIES, str(error)))
        by_cohort: dict[Cohort, list[int]] = defaultdict(list)
        for place, watch in enumerate(watches):
            if watch not in gathered.failures:
                by_cohort[watch.cohort].append(place)
        n_metrics = samples.shape[2]
        for cohort, places in by_cohort.items():
            series = samples[places].astype(np.float64).transpose(0, 2, 1).reshape(-1, samples.shape[1])
            rows = np.repeat(np.array([ring_rows[place] for place in places]), n_metrics)
            cohort.put(rows, np.tile(np.arange(n_metrics), len(places)), from_s, series)

    def take(
        self, vectors: NDArray[Any], gaps: NDArray[Any], gathered: Gathered, unusable: Collection[str]
    ) -> Iterator[Taken]:
        """The vectors by cohort, without those of failed detectors and of models that the extractor cannot use."""
        kept = [
            (number, place)
            for number, place in enumerate(self.modelled)
            if self.digests[place] not in unusable and self.watches[self.owners[place]] not in gathered.failures
        ]
        for cohort, (mine, ring_rows) in self._by_cohort([place for _, place in kept]).items():
            numbers = np.array([kept[k][0] for k in mine])
            digests = tuple(self.digests[kept[k][1]] or "" for k in mine)
            yield Taken(cohort, ring_rows, digests, vectors[numbers], gaps[numbers])

    def _by_cohort(self, places: Sequence[int]) -> dict[Cohort, tuple[Rows, Rows]]:
        """Positions within `places`, and rows of the ring, by cohort."""
        found: dict[Cohort, tuple[list[int], list[int]]] = {}
        for k, place in enumerate(places):
            mine, ring_rows = found.setdefault(self.cohorts[place], ([], []))
            mine.append(k)
            ring_rows.append(self.rows[place])
        return {cohort: (np.array(mine), np.array(ring_rows)) for cohort, (mine, ring_rows) in found.items()}

    def _detectors(self) -> list[dict[str, Any]]:
        groups: list[list[dict[str, Any]]] = [[] for _ in self.watches]
        for owner, group, digest in zip(self.owners, self.groups, self.digests, strict=True):
            groups[owner].append({"labels": [value for _, value in group], "model": digest})
        return [_detector(watch, own) for watch, own in zip(self.watches, groups, strict=True)]


def _detector(watch: Watch, groups: list[dict[str, Any]]) -> dict[str, Any]:
    detector: dict[str, Any] = {
        "name": watch.subject.detector,
        "metrics": [{"name": metric.name, "query": metric.query} for metric in watch.metrics],
        "groups": groups,
    }
    if watch.spec.group_by:
        detector |= {"group_by": list(watch.spec.group_by), "max_groups": watch.spec.max_groups}
    return detector
