"""Objects of a cluster as the API server has them, written by hand: there is no kubelet that would."""

from __future__ import annotations

from typing import Any

from foreshock.core.clock import rfc3339


def template(image: str = "shop/checkout:1.4.1", *, app: str = "checkout", **more: Any) -> dict[str, Any]:
    """A pod template of one container; `more` is annotations, refers_to (a ConfigMap), env, memory."""
    container: dict[str, Any] = {"name": "app", "image": image}
    if "memory" in more:
        container["resources"] = {"limits": {"memory": more["memory"]}}
    if "refers_to" in more:
        container["envFrom"] = [{"configMapRef": {"name": more["refers_to"]}}]
    if "env" in more:
        container["env"] = [{"name": name, "value": value} for name, value in more["env"].items()]
    return {
        "metadata": {"labels": {"app": app}, "annotations": more.get("annotations", {})},
        "spec": {"containers": [container]},
    }


def workload(kind: str = "Deployment", name: str = "checkout", replicas: int = 3, **more: Any) -> dict[str, Any]:
    """A Deployment, StatefulSet or DaemonSet."""
    made = more.pop("template", None) or template(**more)
    spec: dict[str, Any] = {"selector": {"matchLabels": made["metadata"]["labels"]}, "template": made}
    if kind != "DaemonSet":
        spec["replicas"] = replicas
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def replica_set(number: int, owner: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A revision of a Deployment that exists already."""
    made = more.pop("template", None) or template(**more)
    made["metadata"]["labels"] = {**made["metadata"]["labels"], "pod-template-hash": f"h{number}"}
    metadata = owner["metadata"]
    reference = {
        "apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "controller": True,
        "uid": metadata.get("uid", "u"),
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-h{number}",
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "labels": made["metadata"]["labels"],
            "ownerReferences": [reference],
        },
        "spec": {"replicas": 0, "selector": {"matchLabels": made["metadata"]["labels"]}, "template": made},
    }


def pod(name: str, *, app: str = "checkout", node: str = "n1") -> dict[str, Any]:
    """A pod on a node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "shop/checkout:1.4.1"}]},
    }


def ended(at_s: float, *, restarts: int = 1, reason: str = "OOMKilled", code: int = 137) -> dict[str, Any]:
    """The status of a pod whose container was restarted."""
    last = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": rfc3339(int(at_s))}}
    return {
        "phase": "Running",
        "containerStatuses": [
            {
                "name": "app", "restartCount": restarts, "lastState": last, "ready": True, "image": "i", "imageID": "i",
                "state": {"running": {}},
            }
        ],
    }  # fmt: skip


def service(name: str = "checkout", **selector: str) -> dict[str, Any]:
    """A Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": 80}]},
    }


def warning(about: str, at_s: float, *, kind: str = "Pod", reason: str = "BackOff", count: int = 4) -> dict[str, Any]:
    """A warning Event."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.{reason.lower()}"},
        "involvedObject": {"kind": kind, "name": about},
        "type": "Warning",
        "reason": reason,
        "message": "Back-off restarting failed container",
        "count": count,
        "lastTimestamp": rfc3339(int(at_s)),
    }


def node(name: str, *, ready: bool, since_s: float) -> dict[str, Any]:
    """A node with its status."""
    condition = {
        "type": "Ready", "status": "True" if ready else "Unknown", "reason": "r", "message": "m",
        "lastTransitionTime": rfc3339(int(since_s)), "lastHeartbeatTime": rfc3339(int(since_s)),
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": [condition]}}
