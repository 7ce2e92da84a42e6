"""The objects of a cluster that tell what changed around a service: of each only what is compared or said. Pure.

Equal parts are one object: five thousand pods of a hundred Deployments share a hundred sets of labels. The pod template
is compared by its digest, so that no value of an environment variable is kept, and no Secret is ever read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from foreshock.core.clock import parse_instant
from foreshock.operator.watch import Kind

_APPS = "/apis/apps/v1"
DEPLOYMENTS = Kind("Deployment", _APPS, "deployments", is_built_in=True)
STATEFUL_SETS = Kind("StatefulSet", _APPS, "statefulsets", is_built_in=True)
DAEMON_SETS = Kind("DaemonSet", _APPS, "daemonsets", is_built_in=True)
REPLICA_SETS = Kind("ReplicaSet", _APPS, "replicasets", is_built_in=True)
AUTOSCALERS = Kind(
    "HorizontalPodAutoscaler", "/apis/autoscaling/v2", "horizontalpodautoscalers", is_built_in=True
)  # fmt: skip
PODS = Kind("Pod", "/api/v1", "pods", is_built_in=True)
SERVICES = Kind("Service", "/api/v1", "services", is_built_in=True)
WARNINGS = Kind("Event", "/api/v1", "events", is_built_in=True, query=(("fieldSelector", "type=Warning"),))
NODES = Kind("Node", "/api/v1", "nodes", is_built_in=True)
CONFIG_MAPS = Kind("ConfigMap", "/api/v1", "configmaps", is_built_in=True, is_metadata_only=True)

Labels = tuple[tuple[str, str], ...]
_REVISION: Final = "deployment.kubernetes.io/revision"
_RESTARTED: Final = "kubectl.kubernetes.io/restartedAt"
_HASHES: Final = frozenset({"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name"})
_UNDER_WAY: Final = frozenset({"NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetUpdated"})
_MOST_SHARED = 20_000
_MOST_PARTS = 32  # containers, names or marks of one template that are told apart
_MESSAGE_CHARS = 160
_T = TypeVar("_T")
_shelf: dict[object, object] = {}


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template: what can be said about it, and a digest of all of it."""

    labels: Labels
    images: Labels  # container, image
    memory: Labels  # container, limit
    marks: Labels  # annotations that are checksums of configuration
    names: frozenset[str]  # "ConfigMap settings", "Secret login": what it refers to
    restarted: str  # when `kubectl rollout restart` was said
    digest: bytes


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or DaemonSet."""

    kind: str
    namespace: str
    name: str
    created_s: float
    replicas: int | None  # wanted; None where the nodes decide
    selector: Labels
    template: Template
    is_rolling: bool
    settled_s: float | None  # when its rollout was complete, as its controller says

    @property
    def who(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Revision:
    """A ReplicaSet of a Deployment: one revision of it."""

    namespace: str
    name: str
    deployment: str
    number: int
    created_s: float
    template: Template


@dataclass(frozen=True, slots=True)
class Container:
    """How one container of a pod ended last."""

    name: str
    restarts: int
    ended_s: float
    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: where it runs, and the containers that were restarted."""

    namespace: str
    name: str
    labels: Labels
    node: str
    restarted: tuple[Container, ...] = ()


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler."""

    namespace: str
    name: str
    target: str  # "Deployment checkout"
    most: int
    wanted: int
    scaled_s: float | None
    limited_s: float | None  # since when it would like more than it may have


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning Event."""

    namespace: str
    kind: str
    name: str
    reason: str
    message: str
    times: int
    at_s: float


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node: since when each of its conditions is as it is; bad ones have `is_bad`."""

    created_s: float
    conditions: tuple[tuple[str, bool, float], ...]  # type, is_bad, since


@dataclass(frozen=True, slots=True)
class Chosen:
    """A Service: which pods it chooses."""

    selector: Labels


@dataclass(frozen=True, slots=True)
class Version:
    """An object of which only the version is known."""

    version: str


def workload(kind: str, document: Mapping[str, Any]) -> Workload:
    """Keep of a Deployment, StatefulSet or DaemonSet what is needed; items of a list do not say their kind."""
    metadata, spec, status = _parts(document)
    is_rolling, settled_s = _rollout_of(kind, metadata, spec, status)
    replicas = None if kind == DAEMON_SETS.name else int(spec.get("replicas", 1) or 0)
    return Workload(
        kind, *_place(metadata), _instant(metadata.get("creationTimestamp")) or 0.0, replicas,
        _labels((spec.get("selector") or {}).get("matchLabels")), template(spec.get("template") or {}),
        is_rolling, settled_s,
    )  # fmt: skip


def _rollout_of(
    kind: str, metadata: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any]
) -> tuple[bool, float | None]:
    """Whether new pods replace old ones now, as `kubectl rollout status` sees it, and when the last such time ended."""
    behind = int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0)
    if kind == STATEFUL_SETS.name:
        replicas, updated = int(spec.get("replicas", 1) or 0), int(status.get("updatedReplicas") or 0)
        is_other = status.get("updateRevision", "") != status.get("currentRevision", "")
        return is_other and updated < replicas, None
    if kind == DAEMON_SETS.name:
        wanted, updated = int(status.get("desiredNumberScheduled") or 0), int(status.get("updatedNumberScheduled") or 0)
        return not behind and updated < wanted, None
    for each in status.get("conditions") or ():
        if each.get("type") == "Progressing":
            reason = each.get("reason")
            if reason == "NewReplicaSetAvailable":
                return False, _instant(each.get("lastUpdateTime"))
            return reason in _UNDER_WAY, None
    return False, None


def revision(document: Mapping[str, Any]) -> Revision | None:
    """Keep of a ReplicaSet what is needed; None where it is no Deployment's."""
    metadata, spec, _ = _parts(document)
    owner = next((each for each in metadata.get("ownerReferences") or () if each.get("kind") == "Deployment"), None)
    number = str((metadata.get("annotations") or {}).get(_REVISION, ""))
    if owner is None or not number.isdigit():
        return None
    created_s = _instant(metadata.get("creationTimestamp")) or 0.0
    return Revision(
        *_place(metadata), sys.intern(str(owner.get("name", ""))), int(number), created_s,
        template(spec.get("template") or {}),
    )  # fmt: skip


def template(document: Mapping[str, Any]) -> Template:
    """What can be said about a pod template. Its environment is in the digest alone: values may be secret."""
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())][:_MOST_PARTS]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _HASHES}
    whole = json.dumps([labels, annotations, spec], sort_keys=True, separators=(",", ":"))
    return _shared(
        Template(
            _labels(labels),
            _pairs((each.get("name", ""), each.get("image", "")) for each in containers),
            _pairs(
                (each.get("name", ""), ((each.get("resources") or {}).get("limits") or {}).get("memory", "no limit"))
                for each in containers
            ),
            _pairs((key, value) for key, value in sorted(annotations.items()) if _is_checksum(key)),
            _shared(frozenset(sorted(_names(spec, containers))[:_MOST_PARTS])),
            str(annotations.get(_RESTARTED, "")),
            hashlib.blake2b(whole.encode(), digest_size=8).digest(),
        )
    )


def _is_checksum(annotation: str) -> bool:
    """Whether an annotation is a digest of configuration, by the conventions of Helm, Kustomize and reloaders."""
    words = annotation.lower()
    return "checksum" in words or words.endswith(("-hash", "/hash", ".hash")) or "last-reloaded" in words


def _names(spec: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The ConfigMaps and Secrets that a pod spec refers to, by kind and name."""
    for volume in spec.get("volumes") or ():
        for source in [volume, *((volume.get("projected") or {}).get("sources") or ())]:
            config_map, secret = source.get("configMap") or {}, source.get("secret") or {}
            yield from (f"ConfigMap {config_map['name']}",) if config_map.get("name") else ()
            name = secret.get("secretName") or secret.get("name")
            yield from (f"Secret {name}",) if name else ()
    for container in containers:
        for each in container.get("envFrom") or ():
            yield from _referred(each.get("configMapRef"), each.get("secretRef"))
        for each in container.get("env") or ():
            source = each.get("valueFrom") or {}
            yield from _referred(source.get("configMapKeyRef"), source.get("secretKeyRef"))


def _referred(config_map: Mapping[str, Any] | None, secret: Mapping[str, Any] | None) -> Iterable[str]:
    for kind, reference in (("ConfigMap", config_map), ("Secret", secret)):
        if reference and reference.get("name"):
            yield f"{kind} {reference['name']}"


def pod(document: Mapping[str, Any]) -> Pod:
    """Keep of a pod what is needed."""
    metadata, spec, status = _parts(document)
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    restarted = []
    for each in statuses[:_MOST_PARTS]:
        ended = (each.get("lastState") or {}).get("terminated") or (each.get("state") or {}).get("terminated")
        ended_s = _instant(ended.get("finishedAt")) if ended else None
        if ended and ended_s is not None and (int(each.get("restartCount") or 0) or ended.get("exitCode")):
            restarted.append(
                Container(
                    sys.intern(str(each.get("name", ""))), int(each.get("restartCount") or 0), ended_s,
                    sys.intern(str(ended.get("reason", ""))), int(ended.get("exitCode") or 0),
                )
            )  # fmt: skip
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _HASHES}
    return Pod(*_place(metadata), _labels(labels), sys.intern(str(spec.get("nodeName", ""))), tuple(restarted))


def autoscaler(document: Mapping[str, Any]) -> Autoscaler:
    """Keep of a HorizontalPodAutoscaler what is needed."""
    metadata, spec, status = _parts(document)
    target = spec.get("scaleTargetRef") or {}
    limits = (each for each in status.get("conditions") or () if each.get("type") == "ScalingLimited")
    limited: Mapping[str, Any] = next(limits, {})
    is_limited = (limited.get("status"), limited.get("reason")) == ("True", "TooManyReplicas")
    return Autoscaler(
        *_place(metadata), f"{target.get('kind', '')} {target.get('name', '')}", int(spec.get("maxReplicas") or 0),
        int(status.get("desiredReplicas") or 0), _instant(status.get("lastScaleTime")),
        _instant(limited.get("lastTransitionTime")) if is_limited else None,
    )  # fmt: skip


def warned(document: Mapping[str, Any]) -> Warned:
    """Keep of an Event what is needed."""
    about = document.get("involvedObject") or {}
    series = document.get("series") or {}
    stamps = (
        series.get("lastObservedTime"), document.get("lastTimestamp"), document.get("eventTime"),
        document.get("firstTimestamp"), (document.get("metadata") or {}).get("creationTimestamp"),
    )  # fmt: skip
    at_s = next((instant for stamp in stamps if (instant := _instant(stamp)) is not None), 0.0)
    message = " ".join(str(document.get("message", "")).split())[:_MESSAGE_CHARS]
    return Warned(
        sys.intern(str(about.get("namespace", ""))), sys.intern(str(about.get("kind", ""))), str(about.get("name", "")),
        sys.intern(str(document.get("reason", ""))), _shared(message),
        int(series.get("count") or document.get("count") or 1), at_s,
    )  # fmt: skip


def node(document: Mapping[str, Any]) -> NodeState:
    """Keep of a node what is needed: whether it is ready, and under which pressure."""
    metadata, _, status = _parts(document)
    conditions = []
    for each in status.get("conditions") or ():
        kind, is_true = str(each.get("type", "")), each.get("status") == "True"
        if kind == "Ready" or kind.endswith("Pressure"):
            since_s = _instant(each.get("lastTransitionTime")) or 0.0
            conditions.append((sys.intern(kind), is_true != (kind == "Ready"), since_s))
    return NodeState(_instant(metadata.get("creationTimestamp")) or 0.0, tuple(conditions))


def service(document: Mapping[str, Any]) -> Chosen:
    """Keep of a Service what is needed."""
    return Chosen(_labels((document.get("spec") or {}).get("selector")))


def version(document: Mapping[str, Any]) -> Version:
    """Keep of an object its version."""
    return Version(str((document.get("metadata") or {}).get("resourceVersion", "")))


def _parts(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    return document["metadata"], document.get("spec") or {}, document.get("status") or {}


def _place(metadata: Mapping[str, Any]) -> tuple[str, str]:
    return sys.intern(str(metadata.get("namespace", ""))), str(metadata.get("name", ""))


def _labels(labels: Mapping[str, Any] | None) -> Labels:
    return _pairs(sorted((labels or {}).items())[:_MOST_PARTS])


def _pairs(pairs: Iterable[tuple[Any, Any]]) -> Labels:
    return _shared(tuple(_shared((str(key), str(value))) for key, value in pairs))


def _instant(stamp: object) -> float | None:
    try:
        return parse_instant(str(stamp)) if stamp else None
    except ValueError:
        return None


def _shared(value: _T) -> _T:
    """The same value, one object for all who say it."""
    if len(_shelf) > _MOST_SHARED:
        _shelf.clear()
    return _shelf.setdefault(value, value)  # type: ignore[return-value]
