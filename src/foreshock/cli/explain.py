"""`foreshock explain`: an alert from its own evidence, judged again."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from foreshock.alerting.event import AnomalyData
from foreshock.app.explain import Explained, Told, explain_event, explain_incident
from foreshock.app.picture import write_figure
from foreshock.app.settings import Overrides, load_settings
from foreshock.app.wiring import open_artifacts
from foreshock.cli.models import open_history
from foreshock.cli.output import Output, OutputOption, console, print_json
from foreshock.diagnosis.quantities import number, quantity, unit_of

NAME = "explain"
_BAR = 20
_FEATURES = 8
_NAME_WIDTH = 34


def command(
    alert: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="An incident's id or its beginning, an event's file, or -.", show_default=False
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    database: Annotated[str | None, typer.Option(help="Where the state is kept.", show_default=False)] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="The folder or bucket of the models.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the figure: SVG, PNG and a page.", show_default=False)
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say why an alert fired: judge its stored window again by its model, and show what the score came from.

    Nothing is asked of Prometheus. Exit code 1 where the score could not be reproduced.

    For example:

        foreshock explain 1f325062

        foreshock explain 1f325062 --out explained

        kafka-console-consumer ... --max-messages 1 | foreshock explain -
    """
    settings = load_settings(config, os.environ, Overrides(None, database, artifacts), needs_prometheus=False)
    store = open_artifacts(settings)
    if alert == "-":
        explained = explain_event(sys.stdin.buffer, store)
    elif (file := Path(alert)).is_file():
        with file.open("rb") as stream:
            explained = explain_event(stream, store)
    else:
        history = open_history(config, database)
        try:
            explained = explain_incident(alert, history, store)
        finally:
            history.close()
    files = [] if out is None else write_figure(explained, out)
    if output is Output.JSON:
        print_json(_document(explained, files))
    else:
        _print(explained, files)
    return 0 if explained.is_reproduced else 1


# --- for people -----------------------------------------------------------------------------------------------------


def _print(explained: Explained, files: list[Path]) -> None:
    out, data = console(), explained.told.data
    style = {"critical": "bold red", "warning": "bold yellow"}.get(data.severity, "bold cyan")
    group = "".join(f" {name}={value}" for name, value in data.group.items())
    out.print(Text.assemble((data.severity, style), f"  {data.detector}{group}  ({data.service})"), soft_wrap=True)
    ended = f", {data.status} {data.ended_at}" if data.ended_at else ""
    out.print(f"incident {data.incident}, since {data.started_at}{ended}", soft_wrap=True)
    out.print()
    _wrapped(out, data.summary or "Nothing was said of it.")
    _heading(out, "Score")
    for name, told in _windows(explained):
        good = told.is_reproduced
        line = f"{name:<9}{number(told.data.score):>8} against {number(told.data.threshold)} at {_at(told)}: "
        mark = ("reproduced bit for bit", "green") if good else (told.outcome, "bold red")
        out.print(Text.assemble(line, mark), soft_wrap=True)
    _heading(out, "Who contributed")
    for one in data.contributions[:_FEATURES]:
        bar = "█" * round(_BAR * one.share)
        out.print(
            f"{_short(one.metric)} {one.share:>4.0%} {bar:<{_BAR}} {_observed(data, one.metric)}".rstrip(),
            soft_wrap=True,
        )
    _evidence(out, data)
    _lists(out, data)
    for file in files:
        out.print(f"Figure: {file}", soft_wrap=True)


def _evidence(out: Console, data: AnomalyData) -> None:
    if data.evidence is None:
        return
    if data.evidence.feature_contributions:
        _heading(out, "By feature: observed, expected")
    for share in data.evidence.feature_contributions[:_FEATURES]:
        observed, expected = data.features.get(share.feature), data.evidence.expected.get(share.feature)
        out.print(
            f"{_short(share.feature)} {share.share:>4.0%}   {_number(observed):>9} {_number(expected):>9}",
            soft_wrap=True,
        )
    if data.evidence.broken_pairs:
        _heading(out, "Broken relations: correlation before, now")
    for pair in data.evidence.broken_pairs:
        out.print(
            f"{_short(f'{pair.metric} and {pair.other}')}        {pair.before:>9.2f} {pair.now:>9.2f}", soft_wrap=True
        )
    thin = {name: share for name, share in data.evidence.data_availability.items() if share < 1.0}
    if thin:
        _heading(out, "Measured of the window")
    for name, measured in thin.items():
        out.print(f"{_short(name)} {measured:>4.0%}", soft_wrap=True)


def _lists(out: Console, data: AnomalyData) -> None:
    for title, lines in (("What changed", data.changes), ("Neighbours", data.neighbours)):
        if lines:
            _heading(out, title)
        for line in lines:
            _wrapped(out, line, indent="  ")
    _heading(out, "Model")
    for line in _model_lines(data):
        _wrapped(out, line, indent="  ")
    if data.queries:
        first = data.queries[0]
        _heading(out, f"Queries, {first.start} to {first.end}, step {first.step} s")
    for query in data.queries:
        _wrapped(out, f"{query.metric}: {query.query}", indent="  ")
    if data.evidence is not None and (graph := data.evidence.links.get("graph")):
        out.print(f"Graph: {graph}", soft_wrap=True)


def _model_lines(data: AnomalyData) -> Iterator[str]:
    if data.model is not None:
        yield f"{data.model.revision}, sha256 {data.model.digest[:16]}…"
    if data.training_window is not None:
        yield f"trained on {data.training_window.start} to {data.training_window.end}"
    bundle = data.evidence
    if bundle is not None and bundle.training is not None:
        left = ", ".join(f"{count:,} {reason}" for reason, count in bundle.training.rows_excluded.items())
        yield f"{bundle.training.rows_used:,} rows used" + (f"; left out: {left}" if left else "")
    if bundle is not None and bundle.calibration is not None:
        yield f"1.0 spends a false-alarm budget of {bundle.calibration.false_alarm_budget} ({bundle.calibration.tail})"
        loudest = sorted(bundle.calibration.channels, key=lambda each: -each.score)
        yield "channels: " + ", ".join(f"{each.channel} {number(each.score)}" for each in loudest)


def _windows(explained: Explained) -> Iterator[tuple[str, Told]]:
    yield explained.told.data.status, explained.told
    if explained.peak is not None:
        yield "peak", explained.peak


def _at(told: Told) -> str:
    return told.data.queries[0].end if told.data.queries else told.data.peak.at


def _observed(data: AnomalyData, metric: str) -> str:
    """`112 ms where 41 ms is normal`, of the last minutes."""
    expected, gap = data.features.get(f"{metric}.expected_recent"), data.features.get(f"{metric}.gap_recent")
    if expected is None or gap is None:
        return ""
    unit = unit_of(metric)
    return f"{quantity(expected + gap, unit)}, {quantity(expected, unit)} expected"


def _number(value: float | None) -> str:
    return "unknown" if value is None else number(value)


def _short(name: str) -> str:
    short = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
    return f"  {short:<{_NAME_WIDTH}}"


def _heading(out: Console, title: str) -> None:
    out.print()
    out.print(Text(title, style="bold"), soft_wrap=True)


def _wrapped(out: Console, text: str, indent: str = "") -> None:
    for place, line in enumerate(textwrap.wrap(text, max(40, out.width - len(indent) - 2), break_long_words=False)):
        out.print(indent + ("  " if place and indent else "") + line, soft_wrap=True)


# --- for programs ---------------------------------------------------------------------------------------------------


def _document(explained: Explained, files: list[Path]) -> dict[str, Any]:
    return {
        "incident": explained.told.data.incident,
        "reproduced": explained.is_reproduced,
        "windows": [
            {
                "window": name,
                "at": _at(told),
                "score": told.data.score,
                "rebuilt_score": None if told.rebuilt is None else told.rebuilt.score,
                "reproduced": told.is_reproduced,
                "outcome": told.outcome,
            }
            for name, told in _windows(explained)
        ],
        "event": explained.event.model_dump(mode="json"),
        "files": [str(file) for file in files],
    }
