"""The CustomResourceDefinitions: the engine's own models as structural schemas that refuse with sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from foreshock.manifests import anomaly, detector, model
from foreshock.manifests.anomaly import AnomalySpec, AnomalyStatus
from foreshock.manifests.conditions import DetectorStatus
from foreshock.manifests.detector import DetectorSpec
from foreshock.manifests.fields import CEL_RULES
from foreshock.manifests.model import ModelSpec, ModelStatus
from foreshock.manifests.rules import RULES, Cel

GROUP, VERSION = detector.API_VERSION.split("/")
Schema = dict[str, Any]

# Lists of named things merge under server-side apply; what must not repeat is a set; the others are replaced as a whole
_LIST_TYPES: Mapping[tuple[str, str], Schema] = {
    ("DetectorSpec", "metrics"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ("DetectorSpec", "group_by"): {"x-kubernetes-list-type": "set"},
    ("DetectorSpec", "seasonality"): {"x-kubernetes-list-type": "set"},
    ("DetectorSpec", "sinks"): {"x-kubernetes-list-type": "set"},
    ("DetectorStatus", "conditions"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ("AnomalyStatus", "group"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
}
_KEPT = (
    "type", "format", "description", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems",
    "maxItems", "required",
)  # fmt: skip

_NOTHING: tuple[Any, ...] = (None, "", [])


@dataclass(frozen=True, slots=True)
class _Kind:
    kind: str
    plural: str
    short: str
    what: str  # the description of the kind
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[tuple[str, str, str, str], ...]  # name, type, path, description
    selectable: tuple[str, ...]
    rules: tuple[Cel, ...]
    wide: tuple[str, ...] = ()  # columns that `kubectl get -o wide` adds


def _condition(kind: str, part: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{part}'


_AGE = ("Age", "date", ".metadata.creationTimestamp", "How long it exists.")

_KINDS = (
    _Kind(
        detector.KIND,
        "anomalydetectors",
        "ad",
        "A service to watch: Foreshock learns what is normal for it from Prometheus, and alerts when it leaves that. "
        "Fields of the spec are written in snake_case, those of the status in camelCase.",
        DetectorSpec,
        DetectorStatus,
        (
            ("Service", "string", ".spec.target_service", "The service that is watched."),
            ("Severity", "string", ".spec.alert_severity", "How urgent its alerts are."),
            ("Model", "string", ".status.activeModel", "The revision that judges."),
            ("Ready", "string", _condition("Ready", "status"), "Whether it is judged and would alert."),
            ("Reason", "string", _condition("Ready", "reason"), "Why it is ready or not."),
            ("Anomalous", "string", _condition("Anomalous", "status"), "Whether something is wrong now."),
            _AGE,
        ),
        (".spec.target_service", ".spec.alert_severity", ".spec.algorithm"),
        (
            *(cel for rule in RULES for cel in rule.cel),
            Cel(
                "target_service",
                "self == oldSelf",
                "target_service is immutable; create another AnomalyDetector for another service.",
            ),
        ),
    ),
    _Kind(
        model.KIND,
        "anomalymodels",
        "am",
        "One trained revision of a detector's line of models. Foreshock makes it; nobody else has to write one.",
        ModelSpec,
        ModelStatus,
        (
            ("Detector", "string", ".spec.detector", "The detector that it was trained for."),
            ("Version", "string", ".spec.version", "The line of models."),
            ("Revision", "integer", ".spec.revision", "The training within the line."),
            ("Stage", "string", ".status.stage", "Where it stands."),
            ("Rows", "integer", ".status.rowsUsed", "Rows of history that taught."),
            _AGE,
        ),
        (".spec.detector", ".spec.version", ".status.stage"),
        (Cel("", "self == oldSelf", "A revision never changes; train another one."),),
    ),
    _Kind(
        anomaly.KIND,
        "anomalies",
        "an",
        "One incident: when, how bad, and why. Set spec.verdict to say what it was.",
        AnomalySpec,
        AnomalyStatus,
        (
            ("Service", "string", ".status.service", "The service that was anomalous."),
            ("Severity", "string", ".status.severity", "How urgent it was."),
            ("State", "string", ".status.state", "Whether it goes on."),
            ("Score", "number", ".status.peakScore", "The largest score; 1 is the threshold."),
            ("Metric", "string", ".status.contributions[0].metric", "The metric that moved most."),
            ("Verdict", "string", ".spec.verdict", "What people said it was."),
            _AGE,
            ("Started", "date", ".status.startedAt", "How long ago it began."),
            ("Origin", "string", ".status.likelyOrigin", "Where it began most likely, if others are anomalous too."),
        ),
        (".spec.detector", ".spec.verdict", ".status.state", ".status.severity"),
        (
            Cel("detector", "self == oldSelf", "detector is immutable; an incident belongs to one detector."),
            Cel("incident", "self == oldSelf", "incident is immutable; it is the identity of this resource."),
        ),
        wide=("Started", "Origin"),
    ),
)


def definitions() -> tuple[Schema, ...]:
    """The three CustomResourceDefinitions, ready to be applied."""
    return tuple(_definition(kind) for kind in _KINDS)


def as_yaml(documents: tuple[Schema, ...]) -> str:
    """Documents as one YAML stream that says where it comes from."""
    written = (yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110) for each in documents)
    return "".join(f"---\n# Generated by `foreshock crd`.\n{text}" for text in written)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - anchors would be harder to read than repetition
        return True


def _definition(kind: _Kind) -> Schema:
    spec = _object(kind.spec)
    for rule in kind.rules:
        place = _below(spec, rule.at)
        entry = {"rule": rule.rule, "message": rule.message}
        if rule.blamed:
            entry["fieldPath"] = f".{rule.blamed}"
        place.setdefault("x-kubernetes-validations", []).append(entry)
    columns = [
        {"name": name, "type": of, "jsonPath": path, "description": description}
        | ({"priority": 1} if name in kind.wide else {})
        for name, of, path, description in kind.columns
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "foreshock", "app.kubernetes.io/part-of": "foreshock"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["foreshock"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": path} for path in kind.selectable],
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": _root(kind, spec)},
                }
            ],
        },
    }


def _root(kind: _Kind, spec: Schema) -> Schema:
    return {
        "type": "object",
        "description": kind.what,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{detector.API_VERSION}."},
            "kind": {"type": "string", "description": f"{kind.kind}."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _object(kind.status) | {"description": f"{_first_line(kind.status)} Foreshock alone writes it."},
        },
    }


def _below(schema: Schema, path: str) -> Schema:
    """The part of a schema at a path such as `metrics[].valid_range`; the whole for the empty path."""
    for part in filter(None, path.split(".")):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    return schema


def _object(of: type[BaseModel]) -> Schema:
    """The structural schema of a model, with every default that is more than "none" in it."""
    whole = of.model_json_schema()
    return _structural(whole, whole.get("$defs", {}), of.__name__, "")


def _structural(node: Schema, definitions: Schema, owner: str, field: str) -> Schema:
    """A JSON schema of pydantic's without references, unions with null, titles, and what CRDs have no word for."""
    node = _resolved(node, definitions)
    result = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "exclusiveMinimum" in node:  # a boolean beside `minimum` in the dialect of OpenAPI 3.0
        result |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in node:
        name = node.get("title", owner)
        fields = _fields(name)
        result["properties"] = {}
        for key, part in node["properties"].items():
            inner = _structural(part, definitions, name, key)
            result["properties"][key] = inner | dict(_default(fields[key]))
    if "items" in node:
        result["items"] = _structural(node["items"], definitions, owner, field)
        result |= _LIST_TYPES.get((owner, field), {"x-kubernetes-list-type": "atomic"})
    if CEL_RULES in node:
        result["x-kubernetes-validations"] = [
            {"rule": each["rule"], "message": each["message"].replace("{field}", field)} for each in node[CEL_RULES]
        ]
    return result


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """The node itself in place of a reference or of "this or null"; what stands beside either wins."""
    if "$ref" in node:
        inner = definitions[node["$ref"].rpartition("/")[2]]
    elif "anyOf" in node:
        (inner,) = (each for each in node["anyOf"] if each.get("type") != "null")
    else:
        return node
    beside = {key: value for key, value in node.items() if key not in {"$ref", "anyOf", "title"}}
    return {**_resolved(inner, definitions), **beside}


def _default(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    """The default as people would write it; where it is nothing ("" or an empty list), absence says the same."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return
    whole: Any = Annotated[(field.annotation, ..., *field.metadata)]  # built at run time; ... says nothing
    written = _without_nothing(TypeAdapter(whole).dump_python(value, mode="json"))
    if written not in _NOTHING:
        yield "default", written


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(each) for key, each in value.items() if each not in _NOTHING}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fields(name: str) -> dict[str, FieldInfo]:
    """The fields of the model of that name, as they are written in YAML."""
    (of,) = (each for each in _subclasses(detector.Model) if each.__name__ == name)
    return {field.alias or key: field for key, field in of.model_fields.items()}


def _subclasses(of: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def _first_line(of: type[BaseModel]) -> str:
    return (of.__doc__ or "").strip().splitlines()[0]
