"""From a manifest to a `Watch`, and from a changed manifest to its successor: what is kept, and what is learnt anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from foreshock.core.errors import TooManySeries
from foreshock.detectors.rules import Rules
from foreshock.engine.cohort import Cohort
from foreshock.engine.schedule import Rhythm, phase_s
from foreshock.engine.watch import Watch
from foreshock.features.schema import Schema
from foreshock.lifecycle.train import rules_of
from foreshock.manifests.detector import AnomalyDetector, DetectorSpec, fingerprint
from foreshock.manifests.tenancy import confined
from foreshock.prometheus.settings import Datasource

_K = TypeVar("_K")
_V = TypeVar("_V")
_Key = tuple[int, int, int, tuple[int, ...], str]
_MOST_SHARED = 100_000


@dataclass(slots=True)
class Cohorts:
    """Detectors that are shaped alike share a cohort, and those that say the same share the values that say it."""

    by_shape: dict[_Key, Cohort] = field(default_factory=dict)
    _schemas: dict[Schema, Schema] = field(default_factory=dict)
    _rules: dict[object, Rules] = field(default_factory=dict)

    def forget_empty(self) -> None:
        """Let go of the rings of shapes that nobody has any more."""
        for key in [key for key, cohort in self.by_shape.items() if cohort.is_empty]:
            del self.by_shape[key]

    def schema(self, spec: DetectorSpec) -> Schema:
        """What vectors of this detector are computed from."""
        schema = Schema(tuple(metric.name for metric in spec.named_metrics), spec.step, spec.detection_window)
        return _shared(self._schemas, schema, schema)

    def rules(self, spec: DetectorSpec) -> Rules:
        """What the manifest says about its metrics, as arrays."""
        key = tuple(metric.model_copy(update={"name": "", "query": ""}) for metric in spec.named_metrics)
        found = self._rules.get(key)
        return found if found is not None else _shared(self._rules, key, rules_of(spec.named_metrics))


def _shared(shelf: dict[_K, _V], key: _K, value: _V) -> _V:
    if len(shelf) >= _MOST_SHARED:
        shelf.clear()
    return shelf.setdefault(key, value)


def watch_of(detector: AnomalyDetector, source: Datasource, cohorts: Cohorts, sinks: tuple[str, ...]) -> Watch:
    """One detector as the engine runs it, in the cohort of those that are shaped alike.

    Its queries are those that are sent: restricted to its namespace where the datasource tells them apart.

    Raises:
        UserError: the datasource does not serve its namespace, or a query cannot be restricted to it.

    """
    detector = confined(detector, source)
    spec = detector.spec
    schema = cohorts.schema(spec)
    interval_s = -(-spec.interval // spec.step) * spec.step  # windows end on the step
    queries = tuple(metric.query for metric in spec.named_metrics)
    offset_s = spec.query_offset if spec.query_offset is not None else int(source.query_offset_s)
    rhythm = Rhythm(interval_s, phase_s(source.name, queries, interval_s, spec.step), offset_s)
    loads = tuple(k for k, metric in enumerate(spec.named_metrics) if metric.role == "load")
    key = (len(schema.metrics), schema.step_s, schema.window_s, loads, spec.algorithm)
    cohort = cohorts.by_shape.get(key)
    if cohort is None:
        cohort = cohorts.by_shape[key] = Cohort(schema)
    watch = Watch(detector, schema, cohorts.rules(spec), rhythm, cohort, sinks)
    watch.graph_url = source.external_url or source.url
    return watch


def successor(
    old: Watch, detector: AnomalyDetector, source: Datasource, cohorts: Cohorts, sinks: tuple[str, ...]
) -> tuple[Watch, bool]:
    """The watch of a changed manifest, and whether what it knows is all that there is to learn.

    The alert goes on, since its state belongs to the subject. The models go on judging where they judge the same
    queries in the same schema; where anything that they were trained on changed, a new one is trained meanwhile.
    """
    new = watch_of(detector, source, cohorts, sinks)
    spec, before = new.spec, old.spec
    same_queries = [metric.query for metric in spec.named_metrics] == [metric.query for metric in before.named_metrics]
    fits = new.schema == old.schema and same_queries and set(spec.group_by) == set(before.group_by)
    if fits:
        for group, row in old.row_of_group.items():
            model, revision = old.cohort.models[row], old.cohort.revisions[row]
            try:
                place = new.row_of(dict(group))
            except TooManySeries:  # `max_groups` became smaller; the next cycle says so
                break
            if model is not None and revision is not None:
                new.cohort.install(place, model, revision)
    same_line = spec.model_version == before.model_version
    return new, fits and same_line and fingerprint(spec) == fingerprint(before)
