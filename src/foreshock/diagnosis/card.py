"""One alert as a picture: what moved in its normal band, the score, who contributed, what the model learnt from.

A standalone SVG, 800 pixels wide, without a script, a style sheet or a link, that every renderer draws alike.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from foreshock.core.frame import Array
from foreshock.core.verdicts import Contribution
from foreshock.diagnosis.figure import TimeAxis, ValueAxis, axis_of_metric, axis_of_scores, band_path, line_path
from foreshock.diagnosis.quantities import duration, number, quantity, unit_of
from foreshock.diagnosis.report import ReportMetric

WIDTH = 800
SHOWN_METRICS = 3
SHOWN_CONTRIBUTIONS = 5
_LEFT, _RIGHT, _PAD = 76, 20, 20
_PLOT = WIDTH - _LEFT - _RIGHT
_METRIC_HEIGHT, _SCORE_HEIGHT = 104, 64
_LABEL_ROOM = 18.0  # percent of the height of the score's plot
_LEAST_SHARE = 0.005
_LINE_CHARS = 104  # of the story, at 14 pixels

_PAGE, _PANEL, _EDGE, _GRID = "#111217", "#181b1f", "#2a2d34", "#26292f"
_TEXT, _MUTED = "#e4e6eb", "#9a9ea8"
_LINE, _BAND, _EXPECTED, _SCORE = "#73bf69", "#5794f2", "#8ab8ff", "#b877d9"
_SEVERITY = {"critical": "#f2495c", "warning": "#ff9830", "info": "#5794f2"}
_FONT = "Inter, Roboto, Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """What the picture shows; arrays are (n_times,), `scores` NaN where the window was not full yet."""

    subject: str
    service: str
    severity: str
    score: float
    at_s: float  # end of the window that was judged
    window_s: float
    sentence: str
    times_s: Array
    scores: Array
    metrics: tuple[ReportMetric, ...]  # the one that contributed most first
    contributions: tuple[Contribution, ...]
    model: str
    training_s: tuple[float, float] | None


def draw(card: Card) -> str:
    """The picture as SVG text; equal input gives equal bytes."""
    pen = _Pen()
    _head(pen, card)
    axis = TimeAxis(float(card.times_s[0]), float(card.times_s[-1]))
    for metric in card.metrics[:SHOWN_METRICS]:
        _metric(pen, card, metric, axis)
    _scores(pen, card, axis)
    _contributions(pen, card)
    _training(pen, card)
    height = pen.y + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="{_FONT}" role="img" aria-label={quoteattr(_clean(card.sentence or card.subject))}>'
        f'<rect width="{WIDTH}" height="{height}" fill="{_PAGE}"/>{"".join(pen.parts)}</svg>\n'
    )


class _Pen:
    """Collects shapes from the top down; `y` is where the next one goes."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = _PAD

    def text(self, x: float, y: float, said: str, *, size: int = 12, fill: str = _MUTED, more: str = "") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" {more}>{escape(_clean(said))}</text>'
        )

    def rect(self, x: float, y: float, width: float, height: float, fill: str, more: str = "") -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(0.0, width):g}" height="{height:g}" fill="{fill}" {more}/>'
        )

    def path(self, x: float, y: float, shape: str, more: str) -> None:
        if shape:
            self.parts.append(f'<path transform="translate({x:g} {y:g})" d="{shape}" {more}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> None:
        self.parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{stroke}" {more}/>')


def _head(pen: _Pen, card: Card) -> None:
    color = _SEVERITY.get(card.severity, _SEVERITY["warning"])
    badge = 14 + 8 * len(card.severity)
    pen.rect(_PAD, pen.y, badge, 22, color, 'rx="4"')
    pen.text(
        _PAD + badge / 2, pen.y + 15, card.severity.upper(), size=11, fill=_PAGE,
        more='text-anchor="middle" font-weight="700" letter-spacing="0.6"',
    )  # fmt: skip
    pen.text(_PAD + badge + 12, pen.y + 17, _short(card.subject, 44), size=17, fill=_TEXT, more='font-weight="600"')
    pen.text(
        WIDTH - _PAD,
        pen.y + 17,
        f"score {number(card.score)}",
        size=17,
        fill=color,
        more='text-anchor="end" font-weight="600"',
    )
    pen.y += 42
    pen.text(_PAD, pen.y, f"{_short(card.service, 60)} · {_instant(card.at_s)} UTC · 1.0 is the threshold")
    pen.y += 24
    for line in textwrap.wrap(card.sentence, _LINE_CHARS)[:4]:
        pen.text(_PAD, pen.y, line, size=14, fill=_TEXT)
        pen.y += 20
    pen.y += 6


def _panel(pen: _Pen, name: str, note: str, height: int) -> float:
    """A panel's frame and title; where its plot begins."""
    pen.rect(_PAD / 2, pen.y, WIDTH - _PAD, height + 58, _PANEL, f'rx="6" stroke="{_EDGE}"')
    pen.text(_PAD, pen.y + 20, _short(name, 60), size=13, fill=_TEXT, more='font-weight="600"')
    pen.text(WIDTH - _PAD, pen.y + 20, note, more='text-anchor="end"')
    return pen.y + 32


def _frame(
    pen: _Pen, card: Card, axis: TimeAxis, values: ValueAxis, top: float, height: int, marks: list[tuple[float, str]]
) -> None:
    window = axis.span(card.at_s - card.window_s, card.at_s)
    color = _SEVERITY.get(card.severity, _SEVERITY["warning"])
    pen.rect(_LEFT + _PLOT * window.left / 100, top, _PLOT * window.width / 100, height, color, 'opacity="0.10"')
    for value, said in marks:
        y = top + height * values.percent(value) / 100
        pen.line(_LEFT, y, _LEFT + _PLOT, y, _GRID)
        pen.text(_LEFT - 8, y + 4, said, size=11, more='text-anchor="end"')
    for tick in axis.ticks(8):
        x = _LEFT + _PLOT * tick.percent / 100
        pen.line(x, top, x, top + height, _GRID)
        pen.text(
            x, top + height + 16, tick.text, size=11, more=f'text-anchor="{"end" if tick.percent > 97 else "middle"}"'
        )


def _metric(pen: _Pen, card: Card, metric: ReportMetric, axis: TimeAxis) -> None:
    unit = metric.unit_hint or unit_of(metric.name)
    values = axis_of_metric(metric.values, metric.lower, metric.upper)
    seen, expected = metric.values[np.isfinite(metric.values)], metric.expected[np.isfinite(metric.expected)]
    now = quantity(float(seen[-1]), unit) if seen.size else "no samples"
    normal = f", {quantity(float(expected[-1]), unit)} expected" if expected.size else ""
    top = _panel(pen, metric.name, now + normal, _METRIC_HEIGHT)
    marks = [(value, quantity(value, unit)) for value in values.ticks(3)]
    _frame(pen, card, axis, values, top, _METRIC_HEIGHT, marks)
    box = (float(_PLOT), float(_METRIC_HEIGHT))
    band = band_path(card.times_s, metric.lower, metric.upper, axis, values, box)
    pen.path(_LEFT, top, band, f'fill="{_BAND}" opacity="0.20"')
    usual = line_path(card.times_s, metric.expected, axis, values, box)
    pen.path(
        _LEFT, top, usual, f'fill="none" stroke="{_EXPECTED}" stroke-width="1" stroke-dasharray="4 4" opacity="0.8"'
    )
    line = line_path(card.times_s, metric.values, axis, values, box)
    pen.path(
        _LEFT,
        top,
        line,
        f'fill="none" stroke="{_LINE}" stroke-width="1.6" stroke-linejoin="round" stroke-linecap="round"',
    )
    pen.y += _METRIC_HEIGHT + 66


def _scores(pen: _Pen, card: Card, axis: TimeAxis) -> None:
    known = np.isfinite(card.scores)
    if not known.any():
        return
    values = axis_of_scores(card.scores)
    top = _panel(pen, "score", "judged again from the stored samples", _SCORE_HEIGHT)
    limit = values.percent(1.0)  # a label beside that of the threshold would lie on it
    marks = [(value, number(value)) for value in values.ticks(2) if abs(values.percent(value) - limit) > _LABEL_ROOM]
    _frame(pen, card, axis, values, top, _SCORE_HEIGHT, marks)
    y = top + _SCORE_HEIGHT * limit / 100
    pen.line(_LEFT, y, _LEFT + _PLOT, y, _SEVERITY["critical"], 'stroke-dasharray="6 4"')
    pen.text(_LEFT - 8, y + 4, "1.0", size=11, fill=_SEVERITY["critical"], more='text-anchor="end"')
    line = line_path(card.times_s, card.scores, axis, values, (float(_PLOT), float(_SCORE_HEIGHT)))
    pen.path(_LEFT, top, line, f'fill="none" stroke="{_SCORE}" stroke-width="1.6" stroke-linejoin="round"')
    pen.y += _SCORE_HEIGHT + 66


def _contributions(pen: _Pen, card: Card) -> None:
    named = [one for one in card.contributions if one.share >= _LEAST_SHARE]
    shown, rest = named[:SHOWN_CONTRIBUTIONS], named[SHOWN_CONTRIBUTIONS:]
    if not shown:
        return
    height = 24 * len(shown) + 36
    pen.rect(_PAD / 2, pen.y, WIDTH - _PAD, height, _PANEL, f'rx="6" stroke="{_EDGE}"')
    pen.text(_PAD, pen.y + 20, "contributions", size=13, fill=_TEXT, more='font-weight="600"')
    if rest:
        others = f"{len(rest)} more share {100 * sum(one.share for one in rest):.0f} %"
        pen.text(WIDTH - _PAD, pen.y + 20, others, more='text-anchor="end"')
    left, width = 300, WIDTH - 300 - 80
    for place, one in enumerate(shown):
        y = pen.y + 32 + 24 * place
        pen.text(_PAD, y + 12, _short(one.metric, 38), fill=_TEXT)
        pen.rect(left, y + 2, width, 12, _GRID, 'rx="3"')
        pen.rect(left, y + 2, max(2.0, width * one.share), 12, _LINE if place else "#ff9830", 'rx="3"')
        pen.text(WIDTH - _PAD, y + 12, f"{100 * one.share:.0f} %", fill=_TEXT, more='text-anchor="end"')
    pen.y += height + 8


def _training(pen: _Pen, card: Card) -> None:
    """A line of time from the first row that taught to the alert, each in its place."""
    if card.training_s is None:
        return
    first, last = card.training_s
    end = max(card.at_s, last)
    scale = _PLOT / max(end - first, 1.0)
    pen.rect(_PAD / 2, pen.y, WIDTH - _PAD, 66, _PANEL, f'rx="6" stroke="{_EDGE}"')
    pen.text(_PAD, pen.y + 20, "training window", size=13, fill=_TEXT, more='font-weight="600"')
    pen.text(
        WIDTH - _PAD,
        pen.y + 20,
        f"{_short(card.model, 40)} learnt from {duration(last - first)}",
        more='text-anchor="end"',
    )
    y = pen.y + 32
    pen.rect(_LEFT, y, _PLOT, 8, _GRID, 'rx="4"')
    pen.rect(_LEFT, y, scale * (last - first), 8, _BAND, 'rx="4"')
    pen.rect(
        _LEFT + scale * (card.at_s - first) - 3,
        y - 4,
        3,
        16,
        _SEVERITY.get(card.severity, _SEVERITY["warning"]),
        'rx="1"',
    )
    pen.text(_LEFT, y + 24, _instant(first), size=11)
    pen.text(_LEFT + _PLOT, y + 24, f"alert {_instant(card.at_s)}", size=11, more='text-anchor="end"')
    pen.y += 74


def _instant(instant_s: float) -> str:
    moment = datetime.fromtimestamp(instant_s, UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _clean(text: str) -> str:
    """Without the characters that no XML may hold."""
    return "".join(each for each in text if each >= " " and not "\ud800" <= each <= "\udfff")
