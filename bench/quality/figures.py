"""The report's figures as SVG: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.quality.summary import Honesty, Row, Summary

_WIDTH = 760
_LEAST, _MOST = 0.05, 200.0  # false alarms a week at the two ends of the axis
_LONGEST_NAME = 34
_DOT, _LETTER = 5, 6.2  # radius of a point, and about the width of a letter
_Box = tuple[float, float, float, float]  # left, top, right, bottom
_TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)


def scatter(rows: Sequence[Summary]) -> str:
    """Recall over false alarms a week, both modes: top left is good. Filled is adaptive, hollow frozen."""
    height, left, bottom, top = 340, 46, 36, 10
    plot_w, plot_h = _WIDTH - left - 14, height - bottom - top

    def x(rate: float) -> float:
        share = math.log(min(max(rate, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
        return left + share * plot_w

    def y(recall: float) -> float:
        return top + (1.0 - recall) * plot_h

    parts = [_open(height, "recall over false alarms a week")]
    for tick in _TICKS:
        kind = "limit" if tick == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{top + plot_h}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 20}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{left}" y="{height - 20}">0</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 14}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - 14}" y="{height - 4}" text-anchor="end">false alarms a week</text>')
    shown = [row for row in rows if row.segments]
    points = [(x(row.per_week), y(row.recall)) for row in shown]
    taken = [(at_x - _DOT, at_y - _DOT, at_x + _DOT, at_y + _DOT) for at_x, at_y in points]
    for row, at in sorted(zip(shown, points, strict=True), key=lambda pair: not _is_ours(pair[0])):
        kind = ("own" if _is_ours(row) else "peer") + ("" if row.mode == "adapt" else " hollow")
        said = f"{row.detector} {row.mode}: recall {row.recall:.2f} at {row.per_week:.1f} a week"
        dot = f'class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{_DOT}"'
        parts.append(f"<circle {dot}><title>{escape(said)}</title></circle>")
        parts.append(_label(row.detector, *at, taken))
    return "".join([*parts, "</svg>"])


def _is_ours(row: Summary) -> bool:
    return row.detector.startswith("foreshock")


def _label(name: str, at_x: float, at_y: float, taken: list[_Box]) -> str:
    """A name at the first free place around its point, and none where there is no room: the title has it."""
    width, gap = _LETTER * len(name), _DOT + 4
    for down in (4, -6, 14, -16, 24):
        for anchor, left in (("start", at_x + gap), ("end", at_x - gap - width)):
            box = (left, at_y + down - 9, left + width, at_y + down + 2)
            if left > 0 and left + width < _WIDTH and not any(_meet(box, other) for other in taken):
                taken.append(box)
                x = left if anchor == "start" else left + width
                return (
                    f'<text class="name" x="{x:.1f}" y="{at_y + down:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
                )
    return ""


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def budgets(rows: Sequence[Honesty]) -> str:
    """False alarms as multiples of the budget with their 90 % interval, on a logarithmic axis; 2 is the limit."""
    line_h, left, right, top = 18, 330, 30, 8
    height = top + line_h * len(rows) + 34
    low, high = 0.05, 50.0

    def x(ratio: float) -> float:
        share = math.log(min(max(ratio, low), high) / low) / math.log(high / low)
        return left + share * (_WIDTH - left - right)

    parts = [_open(height, "budget honesty")]
    for tick in (0.1, 0.3, 1, 2, 3, 10, 30):
        kind = "limit" if tick == 2 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 34}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 20}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - right}" y="{height - 4}" text-anchor="end">times the budget</text>')
    for place, row in enumerate(rows):
        at = top + line_h * (place + 0.5)
        one = row.summary
        kind = "kept" if row.kept else "broken"
        name = f"{one.dataset}  {one.detector} {one.mode}  {one.budget}"
        parts.append(f'<text class="name" x="{left - 10}" y="{at + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="{kind}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x(row.ratio):.1f}" cy="{at:.1f}" r="4"/>')
    return "".join([*parts, "</svg>"])


def strips(rows: Sequence[Row]) -> str:
    """The judged time of each case: labelled segments found or missed above the line, false alarms below it."""
    rows = [row for row in rows if not row["refusal"]]
    line_h, left, top = 20, 230, 6
    height = top + line_h * len(rows) + 8
    width = _WIDTH - left - 10
    parts = [_open(height, "segments and false alarms over time")]
    for place, row in enumerate(rows):
        at, scale = top + line_h * place + line_h / 2, width / row["judged_s"]
        name = escape(_short(row["case"]))
        parts.append(
            f'<text class="name" x="{left - 10}" y="{at + 4:.1f}" text-anchor="end">{name}</text>'
            f'<line class="grid" x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        for start, end, hit in zip(row["starts_s"], row["ends_s"], row["found_each"], strict=True):
            kind = "found" if hit else "missed"
            parts.append(_bar(kind, left + start * scale, (end - start) * scale, at - 8, 7))
        for start, end in zip(row["episodes_s"], row["episode_ends_s"], strict=True):
            parts.append(_bar("false", left + start * scale, (end - start) * scale, at + 1, 7))
    return "".join([*parts, "</svg>"])


def _short(name: str) -> str:
    """The end of a long name: cases of one family begin alike."""
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def _bar(kind: str, x: float, width: float, y: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(2.0, width):.1f}" height="{height}"/>'


def _open(height: float, said: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(said)}">'
