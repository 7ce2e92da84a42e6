"""One self-contained HTML page about a backtest: every metric in its normal band, the score under it, the alerts.

The page loads nothing and runs no script. Whatever comes from a manifest or a datasource is escaped.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
import numpy as np
from markupsafe import Markup, escape

from foreshock.core.frame import Array
from foreshock.core.verdicts import Contribution
from foreshock.diagnosis.figure import (
    HEIGHT,
    WIDTH,
    Span,
    Tick,
    TimeAxis,
    ValueAxis,
    axis_of_metric,
    axis_of_scores,
    band_path,
    line_path,
    runs,
)
from foreshock.diagnosis.quantities import duration, number, quantity, unit_of

THRESHOLD = 1.0
OPEN_CHARTS = 12  # more metrics than these are folded away
NAMED_CONTRIBUTIONS = 6
LISTED_ALERTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class ReportMetric:
    """One metric at the instants of its detector; all arrays (n_times,), in its unit, NaN where nothing is known."""

    name: str
    values: Array
    expected: Array
    lower: Array
    upper: Array
    unit_hint: str = ""


@dataclass(frozen=True, slots=True)
class ReportAlert:
    """One alert, in UTC seconds; `ended_at_s` is None where it fires at the end. Contributions largest first."""

    started_at_s: float
    ended_at_s: float | None
    peak_score: float
    severity: str
    contributions: tuple[Contribution, ...]
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class ReportDetector:
    """One subject: `scores` (n_times,) at `times_s` (n_times,), NaN where the verdict was inconclusive."""

    subject: str
    service: str
    severity: str
    times_s: Array
    scores: Array
    metrics: tuple[ReportMetric, ...]
    alerts: tuple[ReportAlert, ...]
    model: Mapping[str, str]
    queries: Mapping[str, str]


def render(title: str, from_s: float, to_s: float, detectors: Sequence[ReportDetector], generated_at_s: float) -> str:
    """The page as text, UTF-8; equal input gives equal bytes.

    Raises:
        ValueError: the period is empty, or an array is not as long as the times of its detector.

    """
    if to_s <= from_s:
        raise ValueError(f"the period from {from_s} to {to_s} is empty")
    axis = TimeAxis(float(from_s), float(to_s))
    return _TEMPLATE.render(
        title=title,
        period=f"{_instant(from_s, year=True)} to {_instant(to_s, year=True)} UTC",
        length=duration(to_s - from_s),
        generated=_instant(generated_at_s, year=True),
        summary=_summary(detectors, to_s - from_s),
        facts=_facts(detectors),
        ticks=axis.ticks(),
        sections=[_section(position, detector, axis) for position, detector in enumerate(detectors, start=1)],
        width=f"{WIDTH:.0f}",
        height=f"{HEIGHT:.0f}",
        open_charts=OPEN_CHARTS,
    )


@dataclass(frozen=True, slots=True)
class _Chart:
    """One plot as the template draws it."""

    name: str
    extent: str
    description: str
    kind: str  # metric or score
    line: str
    expected: str
    band: str
    marks: list[Tick]
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class _Bar:
    metric: str
    percent: str
    width: float


@dataclass(frozen=True, slots=True)
class _AlertCard:
    number: int
    anchor: str
    severity: str
    span: Span
    when: str
    length: str
    peak: str
    sentence: str
    bars: list[_Bar]
    others: str


@dataclass(frozen=True, slots=True)
class _Section:
    anchor: str
    subject: str
    service: str
    severity: str
    silent: str
    alerts: list[_AlertCard]
    unlisted: int
    inconclusive: list[Span]
    inconclusive_share: str
    charts: list[_Chart]
    score: _Chart
    model: Mapping[str, str]
    queries: Mapping[str, str]


def _section(position: int, detector: ReportDetector, axis: TimeAxis) -> _Section:
    for metric in detector.metrics:
        lengths = {array.shape for array in (metric.values, metric.expected, metric.lower, metric.upper)}
        if lengths != {detector.times_s.shape}:
            raise ValueError(f"{detector.subject}: {metric.name} is not as long as the times of its detector")
    if detector.scores.shape != detector.times_s.shape:
        raise ValueError(f"{detector.subject}: the scores are not as long as the times")
    times_s = detector.times_s.astype(np.float64)
    unknown = np.isnan(detector.scores)
    return _Section(
        anchor=f"detector-{position}",
        subject=detector.subject,
        service=detector.service,
        severity=_known_severity(detector.severity),
        silent=_silence(detector),
        alerts=[
            _alert_card(position, count, alert, axis)
            for count, alert in enumerate(detector.alerts[:LISTED_ALERTS], start=1)
        ],
        unlisted=max(0, len(detector.alerts) - LISTED_ALERTS),
        inconclusive=_spans(times_s, unknown, axis),
        inconclusive_share=f"{number(100 * float(unknown.mean()))} %" if unknown.any() else "",
        charts=[_metric_chart(metric, times_s, axis) for metric in detector.metrics],
        score=_score_chart(detector.scores, times_s, axis),
        model=detector.model,
        queries=detector.queries,
    )


def _spans(times_s: Array, mask: np.ndarray, axis: TimeAxis) -> list[Span]:
    """The stretches of a mask, each verdict reaching back to the one before."""
    step_s = float(np.median(np.diff(times_s))) if times_s.size > 1 else 60.0
    return [axis.span(times_s[first] - step_s, times_s[last]) for first, last in runs(mask)]


def _metric_chart(metric: ReportMetric, times_s: Array, axis: TimeAxis) -> _Chart:
    unit = metric.unit_hint or unit_of(metric.name)
    values = axis_of_metric(metric.values, metric.lower, metric.upper)
    measured = metric.values[np.isfinite(metric.values)]
    extent = "no samples"
    if measured.size:
        lowest, highest = quantity(float(measured.min()), unit), quantity(float(measured.max()), unit)
        extent = lowest if lowest == highest else f"{lowest} to {highest}"
    return _Chart(
        name=metric.name,
        extent=extent,
        description=f"{metric.name} over time with its normal band: {extent}",
        kind="metric",
        line=line_path(times_s, metric.values, axis, values),
        expected=line_path(times_s, metric.expected, axis, values),
        band=band_path(times_s, metric.lower, metric.upper, axis, values),
        marks=[Tick(values.percent(value), quantity(value, unit)) for value in values.ticks(3)],
    )


def _score_chart(scores: Array, times_s: Array, axis: TimeAxis) -> _Chart:
    values: ValueAxis = axis_of_scores(scores)
    conclusive = scores[np.isfinite(scores)]
    extent = f"highest {number(float(conclusive.max()))}" if conclusive.size else "nothing was conclusive"
    marks = [value for value in values.ticks() if value != THRESHOLD]
    return _Chart(
        name="score",
        extent=extent + (", logarithmic scale" if values.logarithmic else ""),
        description=f"Anomaly score over time, alert threshold 1.0: {extent}",
        kind="score",
        line=line_path(times_s, scores, axis, values),
        expected="",
        band="",
        marks=[Tick(values.percent(value), number(value)) for value in marks],
        threshold=values.percent(THRESHOLD),
    )


def _alert_card(position: int, count: int, alert: ReportAlert, axis: TimeAxis) -> _AlertCard:
    end_s = axis.to_s if alert.ended_at_s is None else alert.ended_at_s
    named = alert.contributions[:NAMED_CONTRIBUTIONS]
    rest = alert.contributions[NAMED_CONTRIBUTIONS:]
    share_of_rest = sum(one.share for one in rest)
    return _AlertCard(
        number=count,
        anchor=f"alert-{position}-{count}",
        severity=_known_severity(alert.severity),
        span=axis.span(alert.started_at_s, end_s),
        when=_when(alert),
        length=duration(end_s - alert.started_at_s),
        peak=number(alert.peak_score),
        sentence=alert.sentence,
        bars=[_Bar(one.metric, _percent(one.share), round(100 * min(1.0, max(0.0, one.share)), 2)) for one in named],
        others=f"{len(rest)} more metrics share {_percent(share_of_rest)}" if rest else "",
    )


def _when(alert: ReportAlert) -> str:
    start = _instant(alert.started_at_s)
    if alert.ended_at_s is None:
        return f"{start}, still firing"
    day, _, clock = _instant(alert.ended_at_s).partition(", ")
    return f"{start} to {clock if start.startswith(f'{day},') else f'{day}, {clock}'}"


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _silence(detector: ReportDetector) -> str:
    """What is said where there are no alerts."""
    conclusive = detector.scores[np.isfinite(detector.scores)]
    if not conclusive.size:
        return "Nothing could be said in this period: no window was conclusive."
    return f"No alert in this period. The highest score was {number(float(conclusive.max()))}."


def _summary(detectors: Sequence[ReportDetector], length_s: float) -> str:
    """One or two sentences: how many alerts, which was first, and who stayed silent."""
    found = [(alert, detector) for detector in detectors for alert in detector.alerts]
    watched = f"{_counted(len(detectors), 'detector')} in {duration(length_s)}"
    if not found:
        return f"No alert on {watched}."
    first, detector = min(found, key=lambda pair: pair[0].started_at_s)
    leader = f", led by {first.contributions[0].metric}" if first.contributions else ""
    opening = "The first" if len(found) > 1 else "It"
    return (
        f"{_counted(len(found), 'alert')} on {watched}. "
        f"{opening} fired on {detector.subject} at {_instant(first.started_at_s)} UTC{leader}."
    )


def _facts(detectors: Sequence[ReportDetector]) -> list[tuple[str, str]]:
    """The figures under the summary."""
    windows = sum(detector.scores.size for detector in detectors)
    unknown = sum(int(np.isnan(detector.scores).sum()) for detector in detectors)
    anomalous = sum(int((detector.scores >= THRESHOLD).sum()) for detector in detectors)
    share = f"{number(100 * unknown / windows)} %" if windows else "0 %"
    return [
        ("Alerts", f"{sum(len(detector.alerts) for detector in detectors):,}"),
        ("Windows judged", f"{windows:,}"),
        ("Anomalous windows", f"{anomalous:,}"),
        ("Inconclusive", share),
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _instant(instant_s: float, *, year: bool = False) -> str:
    moment = datetime.fromtimestamp(instant_s, UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M}" if year else f"{moment.day} {moment:%b, %H:%M}"


def _known_severity(severity: str) -> str:
    """The severity as the name of a style: an unknown one looks like a warning."""
    return severity if severity in {"critical", "warning", "info"} else "warning"


def _breakable(text: str) -> Markup:
    """Escaped, and long names may break behind an underscore or a slash."""
    return Markup(re.sub(r"(?<=[_/])", "<wbr>", str(escape(text))))  # noqa: S704 - escaped; only <wbr> is added


def _template() -> jinja2.Template:
    text = importlib.resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    return environment.from_string(text)


_TEMPLATE = _template()
