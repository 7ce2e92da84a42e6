"""A real operator with nothing but the chart's rights, in a cluster whose tenants share a Prometheus."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.charts.release import MINIMAL, of_kind, text
from tests.servers.kubernetes import ControlPlane, new_namespace
from tests.servers.operators import start_operator, stop_all, wait_for
from tests.servers.prometheus import NewPrometheus

from foreshock.operator.resources import ANOMALIES, DETECTORS, EVENTS, MODELS

_RBAC = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def _detector(name: str, query: str) -> dict[str, Any]:
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": name},
        "spec": {
            "target_service": "checkout",
            "metrics": [{"name": "pool_wait", "query": query}, {"name": "errors", "query": "errors"}],
            "detection_window": "10m",
            "query_offset": "0s",
            "training": {"window": "2d", "warm_up": "1d"},
            "keep_firing_for": "1h",
        },
    }


def test_the_operator_lives_on_what_the_chart_grants_it(
    kubernetes: ControlPlane, new_prometheus: NewPrometheus, tmp_path: Path
) -> None:
    """It leads, learns, reports and alerts with the real token of its account; a neighbour's series stay unread."""
    ours, theirs, release = new_namespace(kubernetes), new_namespace(kubernetes), f"r{time.time_ns() % 10**8}"
    values = {**MINIMAL, "watchNamespaces": [ours]}  # the least: a Role where a ClusterRole might hide what is missing
    objects = of_kind(text(values, namespace=ours, release=release), *_RBAC)
    kubernetes.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    now_s, random = int(time.time()) // 60 * 60, np.random.default_rng(9)
    times_s = np.arange(now_s - 2 * 86_400, now_s + 1800, 60)
    usual = 40.0 + random.normal(0, 2, len(times_s))
    errors = 0.01 + random.normal(0, 0.001, len(times_s))
    broken = usual + np.where(times_s > now_s - 3600, 300.0, 0.0)
    series = {
        f'pool_wait{{namespace="{ours}"}}': broken,
        f'pool_wait{{namespace="{theirs}"}}': usual,
        f'errors{{namespace="{ours}"}}': errors,
        f'errors{{namespace="{theirs}"}}': errors,
    }
    server = new_prometheus(
        {key: [(float(t), float(v)) for t, v in zip(times_s, each, strict=True)] for key, each in series.items()}
    )
    settings = {
        "datasources": [{"name": "default", "url": server.url, "namespace_label": "namespace"}],
        "database": f"sqlite:///{tmp_path}/state.db",
        "artifacts": str(tmp_path / "models"),
    }
    for each in (
        _detector("bare", "pool_wait"),
        _detector("curious", f'pool_wait{{namespace="{theirs}"}}'),
    ):
        kubernetes.kubectl("apply", "-n", ours, "-f", "-", stdin=json.dumps(each))
    account = kubernetes.service_account(ours, f"{release}-foreshock")
    operator = start_operator(tmp_path / "operator", settings, kubernetes, namespace=ours, kubeconfig=account)

    def items(kind: Any) -> list[dict[str, Any]]:
        return list(kubernetes.request("GET", kind.path(ours))["items"])

    def condition(name: str, kind: str) -> dict[str, Any]:
        status = kubernetes.request("GET", DETECTORS.path(ours, name)).get("status", {})
        return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})

    def until(what: Any, because: str) -> None:
        wait_for(what, within_s=180, because=because, of=[operator])

    try:
        until(lambda: condition("bare", "Anomalous").get("status") == "True", "the fault was not seen")
        until(lambda: [each for each in items(MODELS) if each.get("status", {}).get("stage") == "Active"], "no model")
        until(lambda: [each for each in items(ANOMALIES) if each.get("status")], "no anomaly")
        until(lambda: [each for each in items(EVENTS) if each["reason"] == "Anomalous"], "no event")
        until(lambda: condition("curious", "Ready").get("status") == "False", "another's series are not refused")
        assert f'asks for namespace="{theirs}"' in condition("curious", "Ready")["message"]
        sent = [each["query"] for each in operator.events[0]["data"]["queries"]]
        assert sent == [f'{name}{{namespace="{ours}"}}' for name in ("pool_wait", "errors")]
    finally:
        stop_all([operator])
        kinds = "clusterrole,clusterrolebinding"
        kubernetes.kubectl("delete", kinds, "-l", f"app.kubernetes.io/instance={release}", "--ignore-not-found")
        for namespace in (ours, theirs):
            kubernetes.request("DELETE", f"/api/v1/namespaces/{namespace}")
    assert "forbidden" not in operator.log.lower()
    assert " 403" not in operator.log
