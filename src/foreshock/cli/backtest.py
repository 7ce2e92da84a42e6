"""`foreshock backtest`: what would have fired, on what Prometheus holds or on a Parquet file."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from foreshock.app.backtest import Backtested, backtest, report_of, sentence_of
from foreshock.app.datafile import FileOptions, replay_file, warn, write
from foreshock.app.settings import Overrides, load_settings
from foreshock.cli.output import Output, OutputOption, console, print_error, print_json, progress
from foreshock.core.clock import parse_instant, rfc3339
from foreshock.core.durations import format_duration, parse_duration
from foreshock.core.errors import InvalidSettings, Problem
from foreshock.detectors.ensemble import ALGORITHMS
from foreshock.diagnosis.report import render
from foreshock.manifests.fields import Budget
from foreshock.manifests.files import load
from foreshock.prometheus.client import PrometheusClient

NAME = "backtest"
_DEFAULT_REPORT = Path("foreshock-report.html")


def command(  # noqa: C901 - two forms of one command, each a few lines
    paths: Annotated[
        list[Path], typer.Argument(help="Manifests or folders of them; or one .parquet file.", show_default=False)
    ],
    prometheus: Annotated[str | None, typer.Option(help="URL of the datasource 'default'.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="RFC 3339, Unix seconds, or -1d; default a day before --to.", show_default=False),
    ] = None,
    to: Annotated[str, typer.Option(help="RFC 3339, Unix seconds, now, or -3h.")] = "now",
    report: Annotated[Path | None, typer.Option(help="Where the HTML report goes.", show_default=False)] = None,
    train_rows: Annotated[
        int | None, typer.Option(help="File: rows that the first model learns from.", show_default=False)
    ] = None,
    step: Annotated[
        str | None, typer.Option(help="File: spacing of its rows; default their median.", show_default=False)
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="File: what is judged; default the larger of 1h and 12 steps.", show_default=False),
    ] = None,
    algorithm: Annotated[str, typer.Option(help=f"File: one of {', '.join(ALGORITHMS)}.")] = "ensemble",
    budget: Annotated[str, typer.Option(help="File: false alarms that are accepted.")] = "1/7d",
    ignore: Annotated[
        list[str] | None, typer.Option(help="File: a column that is no metric.", show_default=False)
    ] = None,
    adapt: Annotated[
        bool, typer.Option("--adapt/--frozen", help="File: live on as production does, or keep the first model.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="File: where the scores go.", show_default=False)] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show what would have fired, by the code that runs in production.

    On manifests it trains on the training window before --from, then lives on as production does, prints the timeline
    and writes one HTML report. On a file it needs --train-rows and --out.

    For example:

        foreshock backtest examples/ --prometheus http://127.0.0.1:9090 --from -1d

        foreshock backtest shop.parquet --train-rows 5760 --out scores.parquet
    """
    if len(paths) == 1 and paths[0].suffix == ".parquet":
        if train_rows is None or out is None:
            raise typer.BadParameter("a .parquet file needs --train-rows N and --out OUT.parquet")
        options = FileOptions(
            train_rows, _duration(step, "--step"), _duration(window, "--window"), _algorithm(algorithm),
            _budget(budget), tuple(ignore or ()), adapt,
        )  # fmt: skip
        return _file(paths[0], options, out, output)
    to_s = _instant(to, "--to")
    from_s = to_s - 86_400 if from_ is None else _instant(from_, "--from")
    if from_s >= to_s:
        raise typer.BadParameter("--from must lie before --to")
    settings = load_settings(config, os.environ, Overrides(prometheus=prometheus))
    detectors = [manifest.detector for manifest in load(paths)]
    problems = [
        Problem(detector.subject.detector, each.path, each.sentence)
        for detector in detectors
        for each in settings.objections(detector.spec)
    ]
    if problems:
        raise InvalidSettings(tuple(problems))
    results: list[Backtested] = []
    by_source: dict[str, list[int]] = {}
    for k, detector in enumerate(detectors):
        by_source.setdefault(settings.datasource(detector.spec.datasource).name, []).append(k)

    async def all_of_them() -> None:
        with progress() as bar:
            task = bar.add_task("backtest", total=100 * len(detectors))
            done = 0

            def advance(name: str, share: float) -> None:
                bar.update(task, completed=100 * done + round(100 * share), description=name)

            for name, places in by_source.items():
                async with PrometheusClient(settings.datasource(name)) as client:
                    for k in places:
                        results.extend(
                            await backtest(
                                client, [detectors[k]], from_s, to_s, cluster=settings.cluster, advance=advance
                            )
                        )
                        done += 1

    asyncio.run(all_of_them())
    for result in results:
        if result.error is not None:
            print_error(str(result.error))
    if output is Output.JSON:
        print_json({"detectors": [result.to_json() for result in results]})
    else:
        _show(results, from_s, to_s)
    where = report or (_DEFAULT_REPORT if output is Output.TEXT else None)
    if where is not None and any(result.replays for result in results):
        sections = [section for result in results for section in report_of(result)]
        where.write_text(render("Foreshock backtest", from_s, to_s, sections, time.time()), encoding="utf-8")
        if output is Output.TEXT:
            console().print(f"Report: {where}", soft_wrap=True)
    return 1 if any(result.error is not None for result in results) else 0


def _show(results: list[Backtested], from_s: float, to_s: float) -> None:
    """The timeline, at 80 columns."""
    screen = console()
    screen.print(f"{rfc3339(int(from_s))} to {rfc3339(int(to_s))}", soft_wrap=True)
    for result in results:
        counts = result.to_json()["verdicts"]
        total = max(1, sum(counts.values()))
        screen.print()
        screen.print(Text(result.detector.subject.detector, style="bold"), soft_wrap=True)
        screen.print("  " + ", ".join(f"{count} {verdict} ({count / total:.1%})" for verdict, count in counts.items()))
        if result.error is not None:
            screen.print("  not backtested")
            continue
        alerts = [(alert, played) for played in result.replays for alert in played.alerts]
        if not alerts:
            screen.print("  nothing would have fired")
        for alert, played in sorted(alerts, key=lambda pair: pair[0].started_at_s):
            lasted = (
                "still firing" if alert.ended_at_s is None else format_duration(alert.ended_at_s - alert.started_at_s)
            )
            top = ", ".join(f"{each.metric} {each.share:.0%}" for each in alert.contributions[:3] if each.share >= 0.01)
            screen.print(
                Text.assemble(
                    f"  {rfc3339(alert.started_at_s)}  {lasted:<13}",
                    (f"{alert.severity:<9}", "red"),
                    f"peak {alert.peak_score:.3g}",
                )
            )
            group = f"{played.subject} " if played.subject.group else ""
            for line in textwrap.wrap(f"{group}{top}. {sentence_of(alert, played)}", 74):
                screen.print(f"      {line}", soft_wrap=True)
    screen.print()


def _file(path: Path, options: FileOptions, out: Path, output: Output) -> int:
    began = time.monotonic()
    with progress() as bar:
        task = bar.add_task(path.name, total=100)
        result = replay_file(path, options, lambda share: bar.update(task, completed=round(100 * share)))
    warn(result.notes)
    write(result, options, out)
    played = result.replay
    facts = {
        "file": str(path),
        "out": str(out),
        "rows": result.table.num_rows - options.train_rows,
        "metrics": len(result.metrics),
        "step": format_duration(result.step_s),
        "anomalous_rows": int(played.anomalous.sum()),
        "incidents": len(played.alerts),
        "trainings": played.n_trainings,
        "seconds": round(time.monotonic() - began, 2),
    }
    if output is Output.JSON:
        print_json(facts)
    else:
        for name, value in facts.items():
            console().print(f"{name.replace('_', ' '):<16}{value}", soft_wrap=True)
    return 0


def _instant(text: str, option: str) -> float:
    """UTC seconds of an instant, `now`, `-3h` or `now-3h`."""
    now_s = time.time()
    if text == "now":
        return now_s
    try:
        if text.startswith(("-", "now-")):
            return now_s - parse_duration(text.removeprefix("now").removeprefix("-"))
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error


def _duration(text: str | None, option: str) -> int | None:
    try:
        duration_s = None if text is None else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error
    if duration_s == 0:
        raise typer.BadParameter(f"{option} must be longer than 0")
    return duration_s


def _budget(text: str) -> Budget:
    try:
        return Budget.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"--budget: {error}") from error


def _algorithm(name: str) -> str:
    if name not in ALGORITHMS:
        raise typer.BadParameter(f"--algorithm must be one of {', '.join(ALGORITHMS)}")
    return name
