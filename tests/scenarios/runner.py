"""Runs a scenario, in memory or through a real Prometheus and the command line, and says which promises broke."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tests.scenarios.language import Scenario
from tests.scenarios.promises import SeenAlert, broken_alerts, broken_verdicts
from tests.scenarios.series import START_S, frame_of

from foreshock.app.shop import Series, openmetrics_lines
from foreshock.core.clock import parse_instant, rfc3339
from foreshock.core.verdicts import Judgement
from foreshock.lifecycle.replay import replay
from foreshock.manifests.detector import AnomalyDetector

BACKTEST_TIMEOUT_S = 300


def manifest_of(scenario: Scenario) -> dict[str, Any]:
    """The manifest that the scenario stands for: each series is a metric, queried by its name and its scenario."""
    metrics = [
        {"name": name, "query": f'{name}{{scenario="{scenario.name}"}}', **scenario.metric_fields.get(name, {})}
        for name in scenario.metrics
    ]
    return {
        "apiVersion": "devopsroles.com/v1",
        "kind": "AnomalyDetector",
        "metadata": {"name": scenario.name.replace("_", "-")},
        "spec": {"target_service": scenario.name.replace("_", "-"), "metrics": metrics, **scenario.spec},
    }


def run_in_memory(scenario: Scenario) -> tuple[list[Judgement], list[SeenAlert]]:
    """Judge the scenario with the production engine on its own frame."""
    manifest = AnomalyDetector.model_validate(manifest_of(scenario))
    played = replay(manifest, frame_of(scenario), START_S + scenario.train_until_s)
    alerts = [
        SeenAlert(alert.started_at_s, alert.ended_at_s, next((one.metric for one in alert.contributions), None))
        for alert in played.alerts
    ]
    return list(played.judgements), alerts


def broken_promises(scenario: Scenario, judgements: list[Judgement], alerts: list[SeenAlert]) -> list[str]:
    """Every promise of the scenario that was not kept, in words."""
    return [*broken_verdicts(scenario, judgements), *broken_alerts(scenario, alerts)]


def write_openmetrics(scenario: Scenario, path: Path) -> None:
    """The scenario's series as a file for `promtool tsdb create-blocks-from openmetrics`."""
    frame, labels = frame_of(scenario), (("scenario", scenario.name),)
    series = tuple(
        Series(
            name,
            "gauge",
            "A series of a scenario.",
            labels,
            frame.times_s,
            np.ascontiguousarray(frame.values[:, column]),
        )
        for column, name in enumerate(frame.metrics)
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(openmetrics_lines(series))


def run_on_prometheus(scenario: Scenario, url: str, folder: Path) -> list[str]:
    """Backtest the scenario with the command line against a Prometheus that holds its series; the broken promises.

    The command prints alerts and counts of verdicts, no single verdict: of `at` and `by` it is checked that such a
    verdict occurred at all.
    """
    manifest = folder / f"{scenario.name}.yaml"
    manifest.write_text(yaml.safe_dump(manifest_of(scenario)), encoding="utf-8")
    end_s = frame_of(scenario).end_s
    command = [
        str(Path(sys.executable).with_name("foreshock")),
        *("backtest", str(manifest), "--prometheus", url, "--output", "json"),
        *("--from", rfc3339(START_S + scenario.train_until_s), "--to", rfc3339(end_s)),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BACKTEST_TIMEOUT_S, check=False)
    if done.returncode != 0:
        return [f"{scenario.name}: foreshock backtest ended with {done.returncode}: {done.stderr.strip()}"]
    (detector,) = json.loads(done.stdout)["detectors"]
    return [*_missing_verdicts(scenario, detector["verdicts"]), *broken_alerts(scenario, _alerts(detector))]


def _alerts(detector: dict[str, Any]) -> list[SeenAlert]:
    return [
        SeenAlert(
            parse_instant(alert["started_at"]),
            None if alert["ended_at"] is None else parse_instant(alert["ended_at"]),
            next((one["metric"] for one in alert["contributions"]), None),
        )
        for alert in detector["alerts"]
    ]


def _missing_verdicts(scenario: Scenario, counts: dict[str, int]) -> Iterator[str]:
    for promise in scenario.verdicts:
        if not counts[promise.verdict]:
            yield f"{scenario.name}:{promise.line}: no window was {promise.verdict} among {counts}"
