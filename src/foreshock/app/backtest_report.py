"""What a backtest says: its facts as plain values for JSON, each alert in a sentence, and the HTML report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from foreshock.app.backtest import Backtest
from foreshock.core.clock import rfc3339
from foreshock.core.errors import ForeshockError
from foreshock.core.frame import Array
from foreshock.core.verdicts import Anomalous, Cause, Contribution, Normal, Verdict
from foreshock.diagnosis.narrative import Observation, observe, sentence
from foreshock.diagnosis.report import ReportAlert, ReportDetector, ReportMetric, render
from foreshock.lifecycle.replay import Alert, Replay
from foreshock.manifests.detector import DetectorSpec

BAND = 3.0  # usual deviations on either side of the expected value
MOST_SECTIONS = 100  # subjects in one page, those that would have alerted before the silent ones
_STORY_ROWS = 20_000  # how far back a sentence looks


@dataclass(frozen=True, slots=True)
class ToldAlert:
    """One alert with whose it is and what people would have read."""

    replay: Replay
    alert: Alert
    sentence: str


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """How many windows were judged how."""

    normal: int
    anomalous: int
    inconclusive: int

    @property
    def total(self) -> int:
        return self.normal + self.anomalous + self.inconclusive


def verdict_counts(backtest: Backtest) -> VerdictCounts:
    """The verdicts of all groups together."""
    verdicts: list[Verdict] = [each.verdict for replay in backtest.replays for each in replay.judgements]
    normal = sum(isinstance(verdict, Normal) for verdict in verdicts)
    anomalous = sum(isinstance(verdict, Anomalous) for verdict in verdicts)
    return VerdictCounts(normal, anomalous, len(verdicts) - normal - anomalous)


def told_alerts(backtest: Backtest) -> tuple[ToldAlert, ...]:
    """The alerts of all groups in the order of time."""
    told = [
        ToldAlert(replay, alert, _story(backtest.manifest.spec, replay, alert))
        for replay in backtest.replays
        for alert in replay.alerts
    ]
    return tuple(sorted(told, key=lambda each: (each.alert.started_at_s, each.replay.subject.group)))


def as_facts(backtest: Backtest) -> dict[str, Any]:
    """One entry of `detectors` in the JSON output; with `error` where the detector could not be backtested."""
    counts, subject = verdict_counts(backtest), backtest.manifest.subject
    alerts = sorted(
        ((replay, alert) for replay in backtest.replays for alert in replay.alerts),
        key=lambda pair: (pair[1].started_at_s, pair[0].subject.group),
    )
    facts: dict[str, Any] = {
        "namespace": subject.namespace,
        "name": subject.name,
        "verdicts": {
            "normal": counts.normal,
            "anomalous": counts.anomalous,
            "inconclusive": counts.inconclusive,
        },
        "alerts": [_alert_facts(*pair) for pair in alerts],
    }
    if backtest.failure is not None:
        facts["error"] = error_facts(backtest.failure)
    return facts


def error_facts(error: ForeshockError) -> dict[str, str]:
    """An error as programs read it."""
    return {"reason": error.reason, "message": str(error)}


def _alert_facts(replay: Replay, alert: Alert) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "started_at": rfc3339(alert.started_at_s),
        "ended_at": None if alert.ended_at_s is None else rfc3339(alert.ended_at_s),
        "severity": alert.severity,
        "peak_score": round(alert.peak_score, 6),
        "contributions": [{"metric": one.metric, "share": round(one.share, 6)} for one in alert.contributions],
    }
    if replay.subject.group:
        facts["group"] = dict(replay.subject.group)
    return facts


def trained(replay: Replay) -> tuple[int, int] | None:
    """From when to when the newest model learnt, UTC seconds; None where no model was trained."""
    spec_steps = np.flatnonzero(np.isfinite(replay.frame.values).any(axis=1))
    if not replay.n_trainings or not len(spec_steps):
        return None
    times_s = replay.frame.times_s
    return int(times_s[spec_steps[0]]), int(times_s[replay.first_row])


def report(backtests: Sequence[Backtest], generated_at_s: float) -> str:
    """The HTML page about every subject that was backtested, the alerting ones first where there are too many.

    Raises:
        ValueError: nothing was backtested.
    """
    played = [(backtest, replay) for backtest in backtests for replay in backtest.replays]
    if not played:
        raise ValueError("nothing was backtested")
    if len(played) > MOST_SECTIONS:
        played.sort(key=lambda pair: -len(pair[1].alerts))
    names = [backtest.manifest.subject.name for backtest in backtests]
    title = f"Backtest of {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    sections = [_section(*pair) for pair in islice(played, MOST_SECTIONS)]
    from_s = min(float(section.times_s[0]) for section in sections)
    to_s = max(float(section.times_s[-1]) for section in sections)
    return render(title, from_s, max(to_s, from_s + 1.0), sections, generated_at_s)


def _section(backtest: Backtest, replay: Replay) -> ReportDetector:
    spec, first = backtest.manifest.spec, replay.first_row
    every = max(1, spec.interval // spec.step)
    shown = slice(None, None, every)
    judged = replay.scores[shown]
    return ReportDetector(
        subject=str(replay.subject),
        service=spec.target_service,
        severity=spec.alert_severity,
        times_s=replay.frame.times_s[first:][shown].astype(np.float64),
        scores=judged,
        metrics=tuple(_metrics(replay, shown)),
        alerts=tuple(
            ReportAlert(
                alert.started_at_s, alert.ended_at_s, alert.peak_score, alert.severity, alert.contributions,
                _story(spec, replay, alert),
            )
            for alert in replay.alerts
        ),
        model=_model_facts(spec, replay),
        queries={metric.name: metric.query for metric in spec.named_metrics},
    )  # fmt: skip


def _metrics(replay: Replay, shown: slice) -> Iterator[ReportMetric]:
    for column, name in enumerate(replay.frame.metrics):
        expected, lower, upper = _band(replay, column)
        values = replay.frame.values[replay.first_row :, column]
        yield ReportMetric(name, values[shown], expected[shown], lower[shown], upper[shown])


def _band(replay: Replay, column: int) -> tuple[Array, Array, Array]:
    expected, usual = replay.expected[:, column], replay.usual[:, column]
    return expected, expected - BAND * usual, expected + BAND * usual


def _model_facts(spec: DetectorSpec, replay: Replay) -> dict[str, str]:
    facts = {"version": spec.model_line, "algorithm": spec.algorithm, "trainings": str(replay.n_trainings)}
    learnt = trained(replay)
    if learnt is not None:
        facts["first trained on"] = f"{rfc3339(learnt[0])} to {rfc3339(learnt[1])}"
    facts["false alarm budget"] = str(spec.false_alarm_budget)
    if replay.asked:
        facts["windows that the throttle let through"] = f"{replay.let_through} of {replay.asked}"
    return facts


# --- an alert in words ----------------------------------------------------------------------------------------------


def _story(spec: DetectorSpec, replay: Replay, alert: Alert) -> str:
    """What somebody would say who looked at the graphs at the alert's peak."""
    last = (alert.peak_at_s - replay.frame.start_s) // replay.frame.step_s - replay.first_row
    observations = [_observation(replay, one, last) for one in alert.contributions]
    if not observations:
        return f"{spec.target_service} left its normal band."
    return sentence(observations, _cause(replay, alert))


def _observation(replay: Replay, one: Contribution, last: int) -> Observation:
    column = replay.frame.metrics.index(one.metric)
    rows = slice(max(0, last + 1 - _STORY_ROWS), last + 1)
    expected, lower, upper = _band(replay, column)
    return observe(
        one.metric,
        one.share,
        replay.frame.times_s[replay.first_row :][rows].astype(np.float64),
        replay.frame.values[replay.first_row :, column][rows],
        expected=expected[rows],
        lower=lower[rows],
        upper=upper[rows],
    )


def _cause(replay: Replay, alert: Alert) -> Cause:
    said = next(each.verdict for each in replay.judgements if each.at_s == alert.peak_at_s)
    return said.cause if isinstance(said, Anomalous) else Cause.SCORE
