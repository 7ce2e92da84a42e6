"""`foreshock backtest MANIFEST`: what would have fired, from the production code path on what Prometheus holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.core.clock import rfc3339
from foreshock.core.errors import ForeshockError
from foreshock.core.frame import Frame
from foreshock.core.verdicts import Anomalous, Cause, Inconclusive
from foreshock.diagnosis.report import ReportAlert, ReportDetector, ReportMetric
from foreshock.engine.evidence import BAND, story
from foreshock.engine.gather import MetricSource
from foreshock.engine.groups import frames_of
from foreshock.lifecycle.replay import Alert, Replay, replay
from foreshock.manifests.detector import AnomalyDetector
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.responses import Matrix


@dataclass(frozen=True, slots=True)
class Backtested:
    """One detector's answer: a replay a group, or why there is none."""

    detector: AnomalyDetector
    replays: tuple[Replay, ...] = ()
    error: ForeshockError | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of the contract (design.md section 3); alerts of all groups in order of time."""
        said = [judgement.verdict for each in self.replays for judgement in each.judgements]
        n_anomalous = sum(isinstance(verdict, Anomalous) for verdict in said)
        n_inconclusive = sum(isinstance(verdict, Inconclusive) for verdict in said)
        alerts = sorted(
            ((alert, each) for each in self.replays for alert in each.alerts), key=lambda pair: pair[0].started_at_s
        )
        entry: dict[str, Any] = {
            "namespace": self.detector.metadata.namespace,
            "name": self.detector.metadata.name,
            "verdicts": {
                "normal": len(said) - n_anomalous - n_inconclusive,
                "anomalous": n_anomalous,
                "inconclusive": n_inconclusive,
            },
            "alerts": [_alert_json(alert, each) for alert, each in alerts],
        }
        if self.error is not None:
            entry["error"] = {"reason": self.error.reason, "message": str(self.error)}
        return entry


def _alert_json(alert: Alert, played: Replay) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "started_at": rfc3339(alert.started_at_s),
        "ended_at": None if alert.ended_at_s is None else rfc3339(alert.ended_at_s),
        "severity": alert.severity,
        "peak_score": alert.peak_score,
        "contributions": [{"metric": each.metric, "share": each.share} for each in alert.contributions],
    }
    if played.subject.group:
        entry["group"] = dict(played.subject.group)
    return entry


async def backtest(
    source: MetricSource,
    detectors: Sequence[AnomalyDetector],
    from_s: float,
    to_s: float,
    *,
    cluster: str,
    advance: Callable[[str, float], None] = lambda _what, _share: None,
) -> list[Backtested]:
    """Relive `[from_s, to_s]` for every detector; what is wrong with one does not stop the others.

    `advance` hears which detector is being worked on, and which share of it is done.
    """
    results, answers = [], dict[RangeQuery, Matrix]()
    for detector in detectors:
        name = detector.subject.detector
        advance(name, 0.0)
        try:
            frames = await _history(source, detector, from_s, to_s, answers)
            replays = tuple(
                replay(
                    detector, frame, from_s, group=group, n_groups=len(frames), cluster=cluster,
                    progress=lambda share, name=name: advance(name, share),  # type: ignore[misc]
                )
                for group, frame in frames.items()
            )  # fmt: skip
            results.append(Backtested(detector, replays))
        except ForeshockError as error:
            results.append(Backtested(detector, error=error))
        advance(name, 1.0)
    return results


async def _history(
    source: MetricSource, detector: AnomalyDetector, from_s: float, to_s: float, answers: dict[RangeQuery, Matrix]
) -> dict[tuple[tuple[str, str], ...], Frame]:
    """The training window before `from_s` and what follows; equal queries of several detectors are asked once."""
    spec, matrices = detector.spec, []
    for metric in spec.named_metrics:
        query = RangeQuery.aligned(metric.query, from_s - spec.training.window, to_s, spec.step)
        if query not in answers:
            answers[query] = await source.range(query)
        matrices.append(answers[query])
    frames = frames_of(detector, matrices)
    if not frames:  # a query that returns nothing is a fact about every window, not an error
        query = RangeQuery.aligned("", from_s - spec.training.window, to_s, spec.step)
        names = tuple(metric.name for metric in spec.named_metrics)
        frames[()] = Frame(query.start_s, spec.step, names, np.full((query.n_times, len(names)), np.nan))
    return frames


def sentence_of(alert: Alert, played: Replay) -> str:
    """What an engineer would say at the moment when the alert fired."""
    if not played.models or not alert.contributions:
        return ""
    end = int(np.searchsorted(played.frame.times_s, alert.fired_at_s, side="right"))
    schema = played.models[0].schema
    window = played.frame.rows(max(0, end - schema.context_steps), end)
    cause = next(
        (j.verdict.cause for j in played.judgements if j.at_s == alert.fired_at_s and isinstance(j.verdict, Anomalous)),
        Cause.SCORE,
    )
    return story(played.models[0], window, alert.contributions, cause)


def report_of(result: Backtested) -> list[ReportDetector]:
    """What the HTML report shows of one detector, a section a group."""
    return [_section(result.detector, each) for each in result.replays]


def _section(detector: AnomalyDetector, played: Replay) -> ReportDetector:
    rows = slice(played.first_row, played.frame.n_times)
    reach = BAND * played.usual
    return ReportDetector(
        subject=str(played.subject),
        service=detector.spec.target_service,
        severity=detector.spec.alert_severity,
        times_s=played.frame.times_s[rows].astype(np.float64),
        scores=played.scores,
        metrics=tuple(
            ReportMetric(
                name,
                played.frame.values[rows, k],
                played.expected[:, k],
                played.expected[:, k] - reach[:, k],
                played.expected[:, k] + reach[:, k],
                "",
            )
            for k, name in enumerate(played.frame.metrics)
        ),
        alerts=tuple(
            ReportAlert(
                alert.started_at_s,
                alert.ended_at_s,
                alert.peak_score,
                alert.severity,
                alert.contributions,
                sentence_of(alert, played),
            )
            for alert in played.alerts
        ),
        model={"algorithm": detector.spec.algorithm, "trainings": str(played.n_trainings)},
        queries={metric.name: metric.query for metric in detector.spec.named_metrics},
    )
