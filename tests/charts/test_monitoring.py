"""The rules and the dashboard of the chart: sound for promtool, firing when they should, about metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.release import CHART, FULL, ROOT, of_kind, text
from tests.servers.binaries import require

from foreshock.core import telemetry
from foreshock.core.verdicts import Ignorance
from foreshock.prometheus.promql import parse, selectors

_SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
_KNOWN = {
    metric.name + suffix: metric
    for metric in (*telemetry.METRICS, *telemetry.EXTRACTOR_METRICS)
    for suffix in _SUFFIXES[metric.kind]
}


def _groups() -> dict[str, Any]:
    (rule,) = of_kind(text(FULL), "PrometheusRule")
    return dict(rule["spec"])


# Read without Helm, since tests are collected where it may not be built yet; that Helm renders the same is a test
_WRITTEN = (CHART / "files/rules.yaml").read_text()
for _name, _value in {
    "JOB": "fs-foreshock",
    "NAMESPACE": "monitoring",
    "RUNBOOKS": "docs/runbooks",
}.items():
    _WRITTEN = _WRITTEN.replace(_name, _value)
ALERTS = [rule for group in yaml.safe_load(_WRITTEN)["groups"] for rule in group["rules"]]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rendered rules as promtool reads them, beside a copy of their tests."""
    require("promtool", package="prometheus")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(_groups()))
    shutil.copy(ROOT / "tests/charts/rules.test.yaml", tmp_path)
    return file


def test_helm_renders_the_rules_as_they_are_written() -> None:
    """With the names of the release in the place of the placeholders, and nothing else changed."""
    assert [rule for group in _groups()["groups"] for rule in group["rules"]] == ALERTS


def test_promtool_checks_the_rules(rules: Path) -> None:
    """Syntax, templates and labels."""
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_runs_the_tests_of_the_rules(rules: Path) -> None:
    """Synthetic series and virtual time: each alert fires when it should, and on a quiet day none does."""
    done = subprocess.run(
        ["promtool", "test", "rules", rules.with_name("rules.test.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    """An alert that is added without a test fails here."""
    cases = yaml.safe_load((ROOT / "tests/charts/rules.test.yaml").read_text())
    fired = {
        check["alertname"]
        for case in cases["tests"]
        for check in case.get("alert_rule_test", ())
        if check.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_what_and_what_to_do(rule: dict[str, Any]) -> None:
    """Severity, summary, description, and a page in docs/runbooks under the address that it names."""
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    address = rule["annotations"]["runbook_url"]
    assert address == f"docs/runbooks/{rule['alert']}.md"  # no address was given, and none is made up
    page = ROOT / "docs/runbooks" / f"{rule['alert']}.md"
    assert page.read_text().startswith(f"# {rule['alert']}\n")
    for heading in ("## What it means", "## What to look at", "## What to do"):
        assert heading in page.read_text(), page


def test_every_runbook_belongs_to_an_alert() -> None:
    """A page about an alert that is gone misleads."""
    pages = {page.stem for page in (ROOT / "docs/runbooks").glob("Foreshock*.md")}
    assert pages == {rule["alert"] for rule in ALERTS}


def _dashboard() -> dict[str, Any]:
    found = [each for each in of_kind(text(FULL), "ConfigMap") if "foreshock.json" in each["data"]]
    assert [each["metadata"]["labels"]["grafana_dashboard"] for each in found] == ["1"]
    return dict(json.loads(found[0]["data"]["foreshock.json"]))


def _expressions() -> list[str]:
    shown = [target["expr"] for panel in _dashboard()["panels"] for target in panel.get("targets", ())]
    return [rule["expr"] for rule in ALERTS] + [expr.replace("$__rate_interval", "5m") for expr in shown]


def test_rules_and_dashboard_ask_for_metrics_and_labels_that_exist() -> None:
    """Each metric is in the one list, each label that is tested or grouped by is one of the metric or of the target."""
    of_target = {"job", "namespace", "pod", "instance", "le"}
    for expression in _expressions():
        for selector in selectors(parse(expression)):
            name = str(selector.name)
            assert name == "up" or name in _KNOWN, (name, expression)
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= of_target | set(_KNOWN[name].labels if name in _KNOWN else ()), expression
        known = {label for metric in _KNOWN.values() for label in metric.labels}
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",") if label.strip()} <= known | of_target, expression


def test_the_verdicts_in_the_rules_are_those_that_are_counted() -> None:
    """A value that no code writes would never fire."""
    verdicts = set(re.findall(r'verdict="(\w+)"', " ".join(_expressions())))
    assert verdicts <= {"normal", "anomalous", "inconclusive"}
    reasons = set(re.findall(r'reason="(\w+)"', " ".join(_expressions())))
    assert reasons <= {reason.value for reason in Ignorance}
