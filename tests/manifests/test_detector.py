"""What an `AnomalyDetector` accepts, what it says to everything else, and what makes a model stale."""

# ruff: noqa: E501 - the sentences of the tables stand as users read them

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreshock.manifests.detector import AnomalyDetector, DetectorSpec, fingerprint
from foreshock.manifests.fields import Budget
from foreshock.manifests.files import load_each

GIVEN: dict[str, Any] = {
    "apiVersion": "devopsroles.com/v1",
    "kind": "AnomalyDetector",
    "metadata": {"name": "payment-service-monitor"},
    "spec": {
        "target_service": "payment-api",
        "prometheus_query": 'sum(rate(http_requests_total{job="payment-api"}[15m]))',
        "model_version": "v2.1.0",
        "detection_window": "1h",
        "alert_severity": "critical",
    },
}

UP = {"name": "a", "query": "up"}
MUST_BE_DURATION = "must be a duration such as 90s, 15m, 1h or 1d12h, not"
KUBERNETES_NAME = (
    "name must be a Kubernetes name: at most 253 lower-case letters, digits, '-' and '.', beginning and ending with a "
    "letter or a digit, not"
)
NEVER_A_URL = (
    "takes names the administrator configured; a manifest never carries a URL. Put the address into the settings file."
)
EITHER_OR = "Set either schedule and duration, or start and end."
CRON = "schedule must be five cron fields (minute, hour, day of month, month, day of week):"
BUDGET = "false_alarm_budget must be a number of incidents, '/' and a duration, such as 1/7d: 1 to 1000 incidents in 1h to 365d, not"
INSTANT = "must be an instant with its offset, such as 2026-11-23T09:00:00Z"
SEASONS = "seasonality knows the periods 1d and 7d; write [1d], [7d], [1d, 7d], or [] for none."


def spec(**fields: Any) -> dict[str, Any]:
    """The given manifest with other fields in its spec."""
    return {"spec": fields}


def metric(**fields: Any) -> dict[str, Any]:
    """The given manifest with one named metric instead of its query."""
    return {"spec": {"prometheus_query": None, "metrics": [{**UP, **fields}]}}


def changed(change: dict[str, Any], value: dict[str, Any] = GIVEN) -> dict[str, Any]:
    """A copy with a change merged into it; None removes."""
    result = copy.deepcopy(value)
    for name, new in change.items():
        if new is None:
            result.pop(name, None)
        elif isinstance(new, dict) and isinstance(result.get(name), dict):
            result[name] = changed(new, result[name])
        else:
            result[name] = copy.deepcopy(new)
    return result


# (what is changed in the given manifest, the path of the problem, its sentence)
INVALID: tuple[tuple[dict[str, Any], str, str], ...] = (
    (
        {"apiVersion": "devopsroles.com/v2"},
        "apiVersion",
        "apiVersion must be devopsroles.com/v1, not 'devopsroles.com/v2'.",
    ),
    ({"kind": "AnomalyDetektor"}, "kind", "kind must be AnomalyDetector, not 'AnomalyDetektor'."),
    ({"metadata": None}, "metadata", "Set metadata; it is required."),
    ({"spec": None}, "spec", "Set spec; it is required."),
    ({"spec": 3}, "spec", "spec must be a mapping of fields to values, not a number."),
    ({"metadata": {"name": None}}, "metadata.name", "Set name; it is required."),
    ({"metadata": {"name": "Payment_API"}}, "metadata.name", f"{KUBERNETES_NAME} 'Payment_API'."),
    ({"metadata": {"name": "a" * 254}}, "metadata.name", f"{KUBERNETES_NAME} '{'a' * 56}...."),
    ({"metadata": {"name": "a\n"}}, "metadata.name", f"{KUBERNETES_NAME} 'a\\n'."),
    (
        {"metadata": {"namespace": "a.b"}},
        "metadata.namespace",
        "namespace must be a Kubernetes namespace: at most 63 lower-case letters, digits and '-', beginning and ending with a letter or a digit, not 'a.b'.",
    ),
    ({"metadata": {"nmae": "x"}}, "metadata.nmae", "Unknown field 'nmae'; did you mean 'name'?"),
    ({"metadata": {"labels": ["a"]}}, "metadata.labels", "labels must be a mapping of names to values, not a list."),
    (spec(target_service=None), "spec.target_service", "Set target_service; it is required."),
    (spec(target_service=""), "spec.target_service", "target_service must be 1 to 253 printable characters, not ''."),
    (
        spec(target_service="a\nb"),
        "spec.target_service",
        "target_service must be 1 to 253 printable characters, not 'a\\nb'.",
    ),
    (spec(target_service=7), "spec.target_service", "target_service must be text (put it in quotes), not a number."),
    (
        spec(prometheus_query=None, promethues_query="up"),
        "spec.promethues_query",
        "Unknown field 'promethues_query'; did you mean 'prometheus_query'?",
    ),
    (spec(alertSeverity="info"), "spec.alertSeverity", "Unknown field 'alertSeverity'; did you mean 'alert_severity'?"),
    (
        spec(throttle={"zzz": 1}),
        "spec.throttle.zzz",
        "Unknown field 'zzz'; remove it, or use one of sigma, force_every.",
    ),
    (spec(prometheus_query=None), "spec", "Set exactly one of metrics and prometheus_query."),
    (spec(prometheus_query=None, metrics=[]), "spec", "Set exactly one of metrics and prometheus_query."),
    (spec(metrics=[UP]), "spec", "Set exactly one of metrics and prometheus_query."),
    (spec(prometheus_query=" "), "spec.prometheus_query", "prometheus_query is empty; write a PromQL expression."),
    (spec(prometheus_query=""), "spec.prometheus_query", "prometheus_query must not be empty."),
    (
        spec(prometheus_query="a" * 8193),
        "spec.prometheus_query",
        "prometheus_query must be at most 8192 characters long.",
    ),
    (
        spec(detection_window="1m"),
        "spec.detection_window",
        "A detection_window of 1m holds fewer than two steps of 1m; lengthen it or shorten step.",
    ),
    (
        spec(detection_window="1h", step="31m"),
        "spec.detection_window",
        "A detection_window of 1h holds fewer than two steps of 31m; lengthen it or shorten step.",
    ),
    (spec(detection_window="1s"), "spec.detection_window", "detection_window must lie between 2s and 30d, not 1s."),
    (spec(detection_window="1y"), "spec.detection_window", f"detection_window {MUST_BE_DURATION} '1y'."),
    (spec(detection_window="1h1d"), "spec.detection_window", f"detection_window {MUST_BE_DURATION} '1h1d'."),
    (
        spec(detection_window=["1h"]),
        "spec.detection_window",
        "detection_window must be a duration such as 90s, 15m, 1h or 1d12h.",
    ),
    (
        spec(detection_window=60),
        "spec.detection_window",
        "detection_window needs a unit: write a duration such as 90s, 15m, 1h or 1d12h, not 60.",
    ),
    (
        spec(detection_window="9" * 31 + "d"),
        "spec.detection_window",
        f"detection_window must be shorter than a century, not '{'9' * 31}d'.",
    ),
    (
        spec(detection_window="7d", step="1s", training={"window": "7d"}),
        "spec.step",
        "detection_window holds 604800 steps, more than the 11000 of one range query; lengthen step or shorten detection_window.",
    ),
    (spec(interval="5s"), "spec.interval", "interval must lie between 1m and 1d, not 5s."),
    (
        spec(interval="2h"),
        "spec.interval",
        "An interval of 2h leaves gaps between windows of 1h that nobody judges; make interval at most detection_window.",
    ),
    (spec(step="0s"), "spec.step", "step must lie between 1s and 1d, not 0s."),
    (spec(query_offset="2d"), "spec.query_offset", "query_offset must lie between 0s and 1d, not 2d."),
    (spec(pending_for="8d"), "spec.pending_for", "pending_for must lie between 0s and 7d, not 8d."),
    (spec(keep_firing_for="8d"), "spec.keep_firing_for", "keep_firing_for must lie between 0s and 7d, not 8d."),
    (
        spec(alert_severity="page"),
        "spec.alert_severity",
        "alert_severity must be critical, warning or info, not 'page'.",
    ),
    (
        spec(model_version="v 2"),
        "spec.model_version",
        "model_version must be at most 63 letters, digits, '.', '_' and '-', such as v2.1.0, or v2.1.0-r3 to pin a revision, not 'v 2'.",
    ),
    (spec(model_version=2.1), "spec.model_version", "model_version must be text (put it in quotes), not a number."),
    (
        spec(algorithm="prophet"),
        "spec.algorithm",
        "algorithm must be ensemble, isolation_forest, correlation, level, forecast or autoencoder, not 'prophet'.",
    ),
    (
        metric(name="9lives"),
        "spec.metrics[0].name",
        "name must be at most 100 letters, digits and '_', and not begin with a digit, not '9lives'.",
    ),
    (metric(query=None), "spec.metrics[0].query", "query must be text (put it in quotes), not empty."),
    (metric(role="traffic"), "spec.metrics[0].role", "role must be health or load, not 'traffic'."),
    (metric(direction="left"), "spec.metrics[0].direction", "direction must be up, down or both, not 'left'."),
    (metric(direction=True), "spec.metrics[0].direction", "direction must be up, down or both, not True."),
    (
        metric(role="load", direction="up"),
        "spec.metrics[0].direction",
        "A metric of role load is never anomalous for being high; use direction down or both, or role health.",
    ),
    (metric(min_deviation=-1), "spec.metrics[0].min_deviation", "min_deviation must be at least 0."),
    (metric(min_deviation=float("nan")), "spec.metrics[0].min_deviation", "min_deviation must be a finite number."),
    (
        metric(min_relative_deviation="5%"),
        "spec.metrics[0].min_relative_deviation",
        "min_relative_deviation must be a number, not text.",
    ),
    (
        metric(min_relative_deviation=-0.1),
        "spec.metrics[0].min_relative_deviation",
        "min_relative_deviation must be at least 0.",
    ),
    (
        metric(valid_range={"min": 1, "max": 1}),
        "spec.metrics[0].valid_range",
        "valid_range needs min below max; 1 is not below 1.",
    ),
    (metric(valid_range={}), "spec.metrics[0].valid_range", "valid_range needs min, max or both."),
    (
        spec(prometheus_query=None, metrics=[UP, UP]),
        "spec.metrics[1].name",
        "The metric name 'a' is taken by metrics[0]; give each metric its own.",
    ),
    (
        spec(prometheus_query=None, metrics=[{"name": f"m{i}", "query": "up"} for i in range(101)]),
        "spec.metrics",
        "metrics must have at most 100 entries, not 101.",
    ),
    (
        spec(group_by=["a-b"]),
        "spec.group_by[0]",
        "group_by takes names of labels: letters, digits and '_', not beginning with a digit, not 'a-b'.",
    ),
    (spec(group_by="pod"), "spec.group_by", "group_by must be a list, not text."),
    (spec(group_by=["a", "a"]), "spec.group_by", "group_by names the label a twice; remove one."),
    (spec(max_groups=0), "spec.max_groups", "max_groups must be at least 1."),
    (spec(max_groups=1.5), "spec.max_groups", "max_groups must be a whole number, not a number."),
    (spec(throttle={"sigma": 0}), "spec.throttle.sigma", "sigma must be greater than 0."),
    (spec(throttle={"sigma": True}), "spec.throttle.sigma", "sigma must be a number, not true or false."),
    (spec(throttle={"force_every": 0}), "spec.throttle.force_every", "force_every must be at least 1."),
    (spec(seasonality=["12h"]), "spec.seasonality[0]", SEASONS),
    (spec(seasonality=[["1d"]]), "spec.seasonality[0]", SEASONS),
    (spec(seasonality=["1d", "1d"]), "spec.seasonality", "seasonality names the period 1d twice; remove one."),
    (
        spec(time_zone="Europe/Atlantis"),
        "spec.time_zone",
        "time_zone must be a name of the time zone database, such as Europe/Berlin or UTC, not 'Europe/Atlantis'.",
    ),
    (
        spec(time_zone="../../etc/passwd"),
        "spec.time_zone",
        "time_zone must be a name of the time zone database, such as Europe/Berlin or UTC, not '../../etc/passwd'.",
    ),
    (
        spec(time_zone="Europe"),
        "spec.time_zone",
        "time_zone must be a name of the time zone database, such as Europe/Berlin or UTC, not 'Europe'.",
    ),
    (spec(training={"window": "30m"}), "spec.training.window", "window must lie between 1h and 400d, not 30m."),
    (
        spec(training={"window": "3d"}),
        "spec.training.warm_up",
        "A warm_up of 7d never fits into a training window of 3d; make warm_up at most training.window.",
    ),
    (
        spec(training={"warm_up": "30m"}),
        "spec.training.warm_up",
        "A warm_up of 30m is shorter than one window of 1h; lengthen warm_up or shorten detection_window.",
    ),
    (
        spec(step="1s", training={"window": "400d"}),
        "spec.training.window",
        "training.window holds 34560000 steps of 1 metrics, more than 20000000 values; lengthen step or shorten training.window.",
    ),
    (
        spec(training={"drift_detection": True}),
        "spec.training.drift_detection",
        "drift_detection must be enabled or disabled, not True.",
    ),
    (
        spec(training={"exclude": [{"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}]}),
        "spec.training.exclude[0]",
        "The exclusion ends before it begins; put start before end.",
    ),
    (
        spec(training={"exclude": [{"start": "2026-01-02", "end": "2026-01-03T00:00:00Z"}]}),
        "spec.training.exclude[0].start",
        f"start {INSTANT}, not '2026-01-02', which could be any time zone's.",
    ),
    (
        spec(training={"exclude": [{"start": "yesterday", "end": "2026-01-03T00:00:00Z"}]}),
        "spec.training.exclude[0].start",
        f"start {INSTANT}, not 'yesterday'.",
    ),
    (
        spec(training={"exclude": [{"start": 1.5, "end": "2026-01-03T00:00:00Z"}]}),
        "spec.training.exclude[0].start",
        f"start {INSTANT}.",
    ),
    (spec(false_alarm_budget="1/y"), "spec.false_alarm_budget", f"{BUDGET} '1/y'."),
    (spec(false_alarm_budget="0/7d"), "spec.false_alarm_budget", f"{BUDGET} '0/7d'."),
    (spec(false_alarm_budget="1/30m"), "spec.false_alarm_budget", f"{BUDGET} '1/30m'."),
    (spec(false_alarm_budget=1), "spec.false_alarm_budget", f"{BUDGET} 1."),
    (spec(sinks=["https://example.org"]), "spec.sinks[0]", f"sinks {NEVER_A_URL}"),
    (
        spec(sinks=["a b"]),
        "spec.sinks[0]",
        "sinks takes names the administrator configured: at most 63 lower-case letters, digits and '-', not 'a b'.",
    ),
    (spec(sinks=["a", "a"]), "spec.sinks", "sinks names the sink a twice; remove one."),
    (spec(datasource="http://prometheus:9090"), "spec.datasource", f"datasource {NEVER_A_URL}"),
    (spec(maintenance=[{}]), "spec.maintenance[0]", EITHER_OR),
    (spec(maintenance=[{"schedule": "0 3 * * 0"}]), "spec.maintenance[0]", EITHER_OR),
    (spec(maintenance=[{"schedule": "0 3 * * 0", "end": "2026-01-01T00:00:00Z"}]), "spec.maintenance[0]", EITHER_OR),
    (
        spec(maintenance=[{"schedule": "0 3 * *", "duration": "1h"}]),
        "spec.maintenance[0].schedule",
        f"{CRON} '0 3 * *' does not have five.",
    ),
    (
        spec(maintenance=[{"schedule": "61 3 * * *", "duration": "1h"}]),
        "spec.maintenance[0].schedule",
        f"{CRON} '61' is not a minute between 0 and 59.",
    ),
    (
        spec(maintenance=[{"schedule": "0 3 * * 0", "duration": "8d"}]),
        "spec.maintenance[0].duration",
        "duration must lie between 1m and 7d, not 8d.",
    ),
    (
        spec(maintenance=[{"start": "2026-01-02T00:00:00Z", "end": "2026-01-02T00:00:00Z"}]),
        "spec.maintenance[0]",
        "The maintenance ends before it begins; put start before end.",
    ),
    (
        spec(maintenance=[{"schedule": "0 3 * * 0", "duration": "1h", "reason": "x" * 257}]),
        "spec.maintenance[0].reason",
        "reason must be at most 256 characters long.",
    ),
    (spec(suspend="true"), "spec.suspend", "suspend must be true or false, not text."),
)


@pytest.mark.parametrize(
    ("change", "path", "sentence"), INVALID, ids=lambda value: value if isinstance(value, str) else None
)
def test_each_invalid_example_has_one_problem_with_its_path_and_sentence(
    tmp_path: Path, change: dict[str, Any], path: str, sentence: str
) -> None:
    """One wrong thing in the given manifest is one problem: where it is, and what to do."""
    file = tmp_path / "detector.yaml"
    file.write_text(yaml.safe_dump(changed(change)))
    loaded = load_each([file])
    assert [(problem.path, problem.message) for problem in loaded.problems] == [(path, sentence)]
    assert loaded.manifests == ()


def test_malformed_promql_is_refused_where_it_is_written(tmp_path: Path) -> None:
    """The problem carries the path of the query, of one metric as well."""
    file = tmp_path / "detector.yaml"
    file.write_text(yaml.safe_dump(changed(metric(query="sum(rate(up[5m])"))))
    assert [problem.path for problem in load_each([file]).problems] == ["spec.metrics[0].query"]


def test_the_given_manifest_has_the_defaults_of_a_careful_sre() -> None:
    """Every default is the one of the design's table."""
    detector = AnomalyDetector.model_validate(GIVEN)
    assert detector.subject.detector == "default/payment-service-monitor"
    assert detector.spec.model_dump(mode="json") == {
        **GIVEN["spec"],
        "metrics": [],
        "group_by": [],
        "max_groups": 1000,
        "algorithm": "ensemble",
        "interval": "1m",
        "step": "1m",
        "query_offset": None,
        "throttle": {"sigma": 2.0, "force_every": 5},
        "seasonality": None,
        "time_zone": "UTC",
        "training": {
            "window": "28d",
            "warm_up": "7d",
            "retrain_interval": "1d",
            "persistence": "12h",
            "shadow": "1h",
            "drift_detection": "enabled",
            "exclude": [],
        },
        "false_alarm_budget": "1/7d",
        "pending_for": "0s",
        "keep_firing_for": "10m",
        "sinks": None,
        "datasource": None,
        "maintenance": [],
        "suspend": False,
    }
    least = DetectorSpec.model_validate({"target_service": "a", "prometheus_query": "up"})
    assert (least.model_version, least.detection_window, least.alert_severity) == ("v1", 3600, "warning")


EVERYTHING: dict[str, Any] = spec(
    prometheus_query=None,
    metrics=[
        {"name": "requests", "query": "up", "role": "load"},
        {
            "name": "hits",
            "query": "up",
            "direction": "down",
            "min_deviation": 1,
            "min_relative_deviation": 0,
            "valid_range": {"min": 0},
        },
    ],
    group_by=["pod", "zone"],
    algorithm="level",
    interval="5m",
    step="30s",
    query_offset="1m",
    throttle={"sigma": 3, "force_every": 1},
    seasonality=["1d", "7d"],
    time_zone="America/New_York",
    training={
        "window": "14d",
        "warm_up": "1d12h",
        "exclude": [{"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T06:00:00+01:00", "reason": "load test"}],
    },
    false_alarm_budget="3/30d",
    sinks=["log", "hook"],
    datasource="main",
    maintenance=[
        {"schedule": "*/15 3-5,22 1 jan-mar SUN", "duration": "2h", "reason": "backup"},
        {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T06:00:00Z"},
    ],
    suspend=True,
) | {
    "metadata": {
        "namespace": "shop",
        "labels": {"team": "payments"},
        "resourceVersion": "12",
        "managedFields": [{"manager": "kubectl"}],
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "status": {"conditions": []},
}


def test_a_manifest_with_everything_is_written_back_as_it_was_read() -> None:
    """What is dumped is read again into an equal value, with durations, instants and budgets in their own grammar."""
    detector = AnomalyDetector.model_validate(changed(EVERYTHING))
    written = detector.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert AnomalyDetector.model_validate(written) == detector
    assert written["spec"]["training"]["warm_up"] == "1d12h"
    assert written["spec"]["training"]["exclude"][0]["end"] == "2026-01-01T05:00:00Z"
    assert written["spec"]["maintenance"][0]["schedule"] == "*/15 3-5,22 1 jan-mar SUN"
    assert detector.spec.seasonality == (86_400, 604_800)
    assert detector.spec.false_alarm_budget == Budget(3, 30 * 86_400)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ('sum(rate(http_requests_total{job="a"}[15m]))', "http_requests_total"),
        ("errors_total / errors_total", "errors_total"),
        ("rate(errors_total[5m]) / rate(requests_total[5m])", "value"),
        ("job:latency:p99", "job_latency_p99"),
        ('{__name__="up"}', "up"),
        ('{__name__=~"up|down"}', "value"),
        ('{job="a"}', "value"),
        ("max_over_time(sum(rate(a_total[5m]))[1h:1m])", "a_total"),
        ("vector(1)", "value"),
    ],
)
def test_a_single_query_is_named_after_the_one_metric_in_it(query: str, name: str) -> None:
    """People read the metric's own name where there is one, and `value` where there is none or several."""
    only = DetectorSpec.model_validate({"target_service": "a", "prometheus_query": query}).named_metrics
    assert [(metric.name, metric.query, metric.role) for metric in only] == [(name, query, "health")]


@pytest.mark.parametrize(
    ("written", "line", "revision"),
    [("v2.1.0", "v2.1.0", None), ("v2.1.0-r3", "v2.1.0", 3), ("r3", "r3", None), ("v1-rc", "v1-rc", None)],
)
def test_a_model_version_may_pin_a_revision_of_its_line(written: str, line: str, revision: int | None) -> None:
    """`-r` and digits at the end name a revision; anything else belongs to the line."""
    model = DetectorSpec.model_validate({"target_service": "a", "prometheus_query": "up", "model_version": written})
    assert (model.model_line, model.pinned_revision) == (line, revision)


def _spec(change: dict[str, Any]) -> DetectorSpec:
    return AnomalyDetector.model_validate(changed(change)).spec


@pytest.mark.parametrize(
    "change",
    [
        spec(prometheus_query="up"),
        spec(step="30s"),
        spec(detection_window="2h"),
        spec(group_by=["pod"]),
        spec(algorithm="level"),
        spec(seasonality=["1d"]),
        spec(seasonality=[]),
        spec(time_zone="Europe/Berlin"),
        spec(training={"window": "14d"}),
        spec(training={"exclude": [{"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}]}),
        spec(false_alarm_budget="1/30d"),
        spec(datasource="other"),
        metric(role="load"),
    ],
)
def test_what_a_model_depends_on_makes_it_stale(change: dict[str, Any]) -> None:
    """The fingerprint differs where training would."""
    assert fingerprint(_spec(change)) != fingerprint(_spec({}))


@pytest.mark.parametrize(
    "change",
    [
        spec(alert_severity="info"),
        spec(sinks=["hook"]),
        spec(suspend=True),
        spec(keep_firing_for="1h"),
        spec(throttle={"sigma": 3}),
        spec(training={"retrain_interval": "12h"}),
        spec(detection_window="60m"),
        spec(maintenance=[{"schedule": "0 3 * * 0", "duration": "1h"}]),
        {"metadata": {"labels": {"a": "b"}}},
    ],
)
def test_what_a_model_does_not_depend_on_keeps_it(change: dict[str, Any]) -> None:
    """The fingerprint stays where only people and sinks would see a difference."""
    assert fingerprint(_spec(change)) == fingerprint(_spec({}))


def test_a_maintenance_is_found_in_the_detectors_time_zone() -> None:
    """02:30 UTC on a Sunday in winter is 03:30 in Berlin, within two hours of 03:00 there; so is 01:30 in summer."""
    change = spec(
        time_zone="Europe/Berlin", maintenance=[{"schedule": "0 3 * * 0", "duration": "2h", "reason": "backup"}]
    )
    detector = _spec(change)
    sunday_s = 1_767_493_800  # 2026-01-04T02:30:00Z
    assert detector.maintenance_in_window(sunday_s) == "backup"
    assert detector.maintenance_in_window(sunday_s + 7200 + detector.detection_window) is None
    in_summer_s = 1_783_215_000  # 2026-07-05T01:30:00Z
    assert detector.maintenance_in_window(in_summer_s) == "backup"
    assert detector.maintenance_in_window(in_summer_s - 3600) is None


@pytest.mark.parametrize(
    ("night", "starts", "ends"),
    [
        ("2026-03-29", "2026-03-28T22:00:00+00:00", "2026-03-29T04:00:00+00:00"),  # the clocks skip an hour
        ("2026-10-25", "2026-10-24T21:00:00+00:00", "2026-10-25T03:00:00+00:00"),  # and show one twice
    ],
)
def test_a_maintenance_lasts_as_long_as_it_says_when_the_clocks_change(night: str, starts: str, ends: str) -> None:
    """Six hours from 23:00 in Berlin are six hours, whatever the clock on the wall shows when they are over."""
    change = spec(time_zone="Europe/Berlin", maintenance=[{"schedule": "0 23 * * 6", "duration": "6h"}])
    noon_s = datetime.fromisoformat(f"{night}T12:00:00+00:00").timestamp()
    ((begin_s, end_s, reason),) = _spec(change).maintenance_spans(noon_s - 86_400, noon_s)
    found = [datetime.fromtimestamp(each, UTC).isoformat() for each in (begin_s, end_s)]
    assert (found, reason) == ([starts, ends], "")


def test_a_window_that_saw_a_maintenance_is_held_until_it_holds_nothing_of_it() -> None:
    """From the first window that ends in it to the last that holds a minute of it; the minute of its end is free."""
    detector = _spec(
        spec(
            detection_window="1h",
            maintenance=[{"start": "2026-01-04T03:00:00Z", "end": "2026-01-04T04:00:00Z"}],
        )
    )
    start_s = 1_767_495_600
    held = [
        minute for minute in range(-120, 300) if detector.maintenance_in_window(start_s + 60 * minute) == "maintenance"
    ]
    assert (held[0], held[-1], len(held)) == (0, 119, 120)


def test_every_field_has_a_description_for_kubectl_explain() -> None:
    """No field of the spec, at any depth, is without its description."""
    schema = AnomalyDetector.model_json_schema()
    specs = {name: part for name, part in schema["$defs"].items() if name != "Metadata"}
    missing = [
        f"{name}.{field}"
        for name, part in specs.items()
        for field, entry in part.get("properties", {}).items()
        if "description" not in entry
    ]
    assert missing == []
