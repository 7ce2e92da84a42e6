"""What a manifest may read: its queries as they are sent, and what the administrator objects to. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from foreshock.core.errors import QueryRejected, UserError
from foreshock.manifests.detector import AnomalyDetector, DetectorSpec
from foreshock.manifests.problems import Broken
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.tenancy import confine


def confined(detector: AnomalyDetector, source: Datasource) -> AnomalyDetector:
    """The manifest with its queries as they are sent: restricted to its namespace where the datasource says so.

    Everything downstream reads the queries of the result, so that evidence, reports and training show and use what was
    asked. `target_service` and everything else that a user writes stay out of them.

    Raises:
        UserError: the datasource does not serve the namespace, or a query cannot be restricted (QueryRejected).

    """
    label, namespace = source.namespace_label, detector.metadata.namespace
    if not source.serves(namespace):
        raise UserError(_not_served(source, namespace))
    if label is None:
        return detector
    spec = detector.spec
    values: dict[str, Any] = {name: getattr(spec, name) for name in DetectorSpec.model_fields}
    if spec.prometheus_query is not None:
        values["prometheus_query"] = confine(spec.prometheus_query, label, namespace)
    values["metrics"] = tuple(
        metric.model_copy(update={"query": confine(metric.query, label, namespace)}) for metric in spec.metrics
    )
    # built anew, since a copy would keep the cached metrics; what was read once is not validated twice
    return detector.model_copy(update={"spec": DetectorSpec.model_construct(spec.model_fields_set, **values)})


def objections(detector: AnomalyDetector, source: Datasource) -> Iterator[Broken]:
    """Why a manifest may not read from a datasource, with the path of what names it or asks for it."""
    namespace, spec = detector.metadata.namespace, detector.spec
    if not source.serves(namespace):
        yield Broken("spec.datasource", _not_served(source, namespace))
        return
    if source.namespace_label is None:
        return
    queries = {f"spec.metrics[{index}].query": metric.query for index, metric in enumerate(spec.metrics)}
    if spec.prometheus_query is not None:
        queries["spec.prometheus_query"] = spec.prometheus_query
    for path, query in queries.items():
        try:
            confine(query, source.namespace_label, namespace)
        except QueryRejected as error:
            yield Broken(path, f"{str(error)[:1].upper()}{str(error)[1:]}.")


def _not_served(source: Datasource, namespace: str) -> str:
    return (
        f"The datasource {source.name!r} does not serve the namespace {namespace}; name one that does, or ask the "
        "administrator to list the namespace there."
    )
