"""The chart as Helm renders it, for the values of a test, and what is found in it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.servers.kubernetes import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/foreshock"
KUBERNETES = "1.34.10"  # a Helm that was built without a release's flags would claim 1.20

MINIMAL: Mapping[str, Any] = {"settings": {"datasources": [{"name": "default", "url": "http://prometheus:9090"}]}}
FULL: Mapping[str, Any] = {
    "replicas": 2,
    "database": {"kind": "postgresql", "postgresql": {"host": "pg.db", "passwordSecret": {"name": "pg-password"}}},
    "settings": {
        "datasources": [
            {
                "name": "default",
                "url": "https://prometheus.example.org",
                "namespace_label": "namespace",
                "bearer_token_file": "/run/secrets/foreshock/prometheus/token",
            }
        ],
        "sinks": [
            {
                "name": "hook",
                "type": "webhook",
                "url": "https://hooks.example.org:8443/x",
                "secret_file": "/run/secrets/foreshock/hook/secret",
            }
        ],
        "default_sinks": ["hook"],
    },
    "secretMounts": [
        {"name": "prometheus", "secretName": "prometheus-login", "extractor": True},
        {"name": "hook", "secretName": "alert-hook"},
    ],
    "extractor": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
}
LISTED: Mapping[str, Any] = {**MINIMAL, "watchNamespaces": ["shop", "bank"], "state": {"persistence": False}}
BUCKET: Mapping[str, Any] = {
    **FULL,
    "models": {
        "url": "s3://models/foreshock",
        "s3": {"endpoint": "https://s3.example.org:9000", "region": "eu-central-1"},
        "credentialsSecret": {"name": "bucket-login"},
    },
}
VALUES: Mapping[str, Mapping[str, Any]] = {"minimal": MINIMAL, "full": FULL, "listed": LISTED, "bucket": BUCKET}

Document = dict[str, Any]


def helm(*arguments: str, values: Mapping[str, Any] = MINIMAL) -> subprocess.CompletedProcess[str]:
    """Run helm without a cluster, and with these values as the last arguments."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        own = {f"HELM_{kind}_HOME": folder for kind in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [binaries() / "helm", *arguments, "--values", file],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **own},
        )  # fmt: skip


def text(values: Mapping[str, Any] = MINIMAL, *, release: str = "fs", namespace: str = "monitoring") -> str:
    """The rendered chart."""
    done = helm("template", release, str(CHART), "-n", namespace, "--kube-version", KUBERNETES, values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(values: Mapping[str, Any]) -> str:
    """What Helm says to values that it refuses."""
    done = helm("template", "fs", str(CHART), "--kube-version", KUBERNETES, values=values)
    assert done.returncode != 0, "these values were accepted"
    return done.stderr


def documents(rendered: str) -> list[Document]:
    """Every object of a rendered chart."""
    return [document for document in yaml.safe_load_all(rendered) if document]


def of_kind(rendered: str, *kinds: str) -> list[Document]:
    """Those of some kinds."""
    return [document for document in documents(rendered) if document["kind"] in kinds]


def pod_specs(rendered: str) -> dict[str, Document]:
    """The specification of every pod that the chart would start, by the name of what starts it."""
    found = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(rendered, "Deployment")}
    return found | {each["metadata"]["name"]: each["spec"] for each in of_kind(rendered, "Pod")}
