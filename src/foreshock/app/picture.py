"""The picture of an alert as files: SVG, PNG, and a page that holds it."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import resvg_py

from foreshock.app.explain import Explained, Told
from foreshock.core.clock import parse_instant
from foreshock.core.errors import UserError
from foreshock.core.frame import Frame
from foreshock.detectors.model import Model
from foreshock.diagnosis.card import SHOWN_METRICS, Card, draw
from foreshock.diagnosis.report import ReportMetric
from foreshock.engine.decide import decide
from foreshock.engine.evidence import BAND
from foreshock.engine.facts import facts_of
from foreshock.engine.rebuild import rules_of

SHARPNESS = 2  # pixels of the PNG for one of the SVG: readable on a screen of today


def write_figure(explained: Explained, folder: Path) -> list[Path]:
    """Write the picture of the worst window that was kept; nothing where no samples were.

    Raises:
        UserError: the folder cannot be written.

    """
    told = next((each for each in (explained.peak, explained.told) if each is not None and card_of(each)), None)
    card = None if told is None else card_of(told)
    if card is None:
        return []
    svg = draw(card)
    name = f"alert-{explained.told.data.incident[:12]}"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(card.subject)}</title></head>"
        f'<body style="margin:0;background:#111217">{svg}</body></html>\n'
    )
    files = [folder / f"{name}{suffix}" for suffix in (".svg", ".png", ".html")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, (svg.encode(), png(svg), page.encode()), strict=True):
            file.write_bytes(content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another --out.") from error
    return files


def png(svg: str) -> bytes:
    """The picture in pixels, with the fonts of this machine."""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=SHARPNESS))


def card_of(told: Told) -> Card | None:
    """What the picture shows of one window; None where its samples or its model are gone."""
    rebuilt, model, data = told.rebuilt, told.model, told.data
    if rebuilt is None or model is None or rebuilt.frame is None or data.evidence is None or not data.contributions:
        return None
    assert rebuilt.expected is not None
    assert rebuilt.usual is not None
    frame, reach = rebuilt.frame, BAND * rebuilt.usual
    columns = [frame.metrics.index(one.metric) for one in rebuilt.contributions[:SHOWN_METRICS] if one.share >= 0.1]
    window = data.training_window
    return Card(
        subject=data.detector + "".join(f" {name}={value}" for name, value in data.group.items()),
        service=data.service,
        severity=data.severity,
        score=data.score,
        at_s=float(frame.end_s),
        window_s=float(model.schema.window_s),
        sentence=data.summary,
        times_s=frame.times_s.astype(np.float64),
        scores=_scores(told, model, frame),
        metrics=tuple(
            ReportMetric(
                frame.metrics[k], frame.values[:, k], rebuilt.expected[:, k],
                rebuilt.expected[:, k] - reach[:, k], rebuilt.expected[:, k] + reach[:, k],
            )
            for k in columns
        ),
        contributions=rebuilt.contributions,
        model=data.model.revision if data.model is not None else "",
        training_s=None if window is None else (parse_instant(window.start), parse_instant(window.end)),
    )  # fmt: skip


def _scores(told: Told, model: Model, frame: Frame) -> np.ndarray:
    """The score of every window that lies in the stored samples; of what is absent or out of range that of the rule."""
    replay = told.data.evidence.replay if told.data.evidence is not None else None
    scores = np.full(frame.n_times, np.nan)
    first = min(frame.n_times - 1, model.schema.window_steps)
    if replay is not None:
        rules = rules_of(replay, len(frame.metrics))
        facts = facts_of(model, rules, model.vectors(frame, first), frame, first)
        scores[first:] = decide(facts).scores
    return scores
