"""`foreshock backtest`: what would have fired, on what Prometheus holds or on a Parquet file."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from foreshock.app.backtest import Backtested, backtest, first_trained_on, report_of, sentence_of
from foreshock.app.datafile import FileOptions, replay_file, warn, write
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.cli.output import Output, OutputOption, console, print_error, print_json, progress
from foreshock.core.clock import parse_instant, rfc3339
from foreshock.core.durations import format_duration, parse_duration
from foreshock.core.errors import InvalidFile, InvalidManifest, UserError
from foreshock.detectors.ensemble import ALGORITHMS
from foreshock.diagnosis.quantities import duration, number
from foreshock.diagnosis.report import render
from foreshock.lifecycle.replay import Alert, Replay
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.fields import Budget
from foreshock.manifests.files import load_each
from foreshock.manifests.tenancy import confined
from foreshock.prometheus.client import PrometheusClient

NAME = "backtest"
_DEFAULT_REPORT = Path("foreshock-report.html")
_MOST_SHOWN = 50  # alerts of one detector in the timeline; the report and the JSON have more
_OF_FILES = ("train_rows", "step", "window", "algorithm", "budget", "ignore", "adapt", "out")
_OF_MANIFESTS = ("prometheus", "config", "datasource", "from_", "to", "report")


def command(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="MANIFEST", help="Manifests or folders of them; or one .parquet file."),
    ],
    prometheus: Annotated[str | None, typer.Option(help="URL of the datasource 'default'.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    datasource: Annotated[
        str | None, typer.Option(help="Ask this one and not the manifests' own.", show_default=False)
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="RFC 3339, Unix seconds, or -1d; default a day before --to.", show_default=False),
    ] = None,
    to: Annotated[str, typer.Option(help="RFC 3339, Unix seconds, now, or -3h.")] = "now",
    report: Annotated[
        Path | None, typer.Option(help=f"The HTML report; for text {_DEFAULT_REPORT}.", show_default=False)
    ] = None,
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

        foreshock backtest examples/ --prometheus http://127.0.0.1:9090

        foreshock backtest shop.parquet --train-rows 5760 --out scores.parquet
    """
    if train_rows is not None or out is not None or any(path.suffix == ".parquet" for path in paths):
        _refuse(context, _OF_MANIFESTS, "of manifests, and this is a file")
        if len(paths) != 1 or train_rows is None or out is None:
            raise typer.BadParameter("one .parquet file at a time, with --train-rows N and --out OUT.parquet")
        options = FileOptions(
            train_rows, _duration(step, "--step"), _duration(window, "--window"), _algorithm(algorithm),
            _budget(budget), tuple(ignore or ()), adapt,
        )  # fmt: skip
        return _on_file(paths[0], options, out, output)
    _refuse(context, _OF_FILES, "of .parquet files, and these are manifests")
    now_s = time.time()
    to_s = _instant(to, "--to", now_s)
    from_s = to_s - 86_400 if from_ is None else _instant(from_, "--from", now_s)
    if from_s >= to_s:
        raise typer.BadParameter("--from must lie before --to")
    settings = load_settings(config, os.environ, Overrides(prometheus=prometheus))
    where = report or (_DEFAULT_REPORT if output is Output.TEXT else None)
    return _on_manifests(paths, settings, datasource, from_s, to_s, where, output)


# --- manifests ------------------------------------------------------------------------------------------------------


def _on_manifests(
    paths: Sequence[Path],
    settings: Settings,
    datasource: str | None,
    from_s: float,
    to_s: float,
    report: Path | None,
    output: Output,
) -> int:
    loaded = load_each(paths)
    for note in loaded.notes:
        print_error(note)
    if not loaded.manifests:
        raise InvalidManifest(loaded.problems)
    for problem in loaded.problems:  # the others go on
        print_error(str(problem))
    detectors = [manifest.detector for manifest in loaded.manifests]
    results = asyncio.run(_backtest(detectors, settings, datasource, from_s, min(to_s, time.time())))
    for sentence in dict.fromkeys(_complaints(results)):
        print_error(sentence)
    if output is Output.JSON:
        print_json({"detectors": [result.to_json() for result in results]})
    else:
        _show(results, from_s, to_s)
    if report is not None and any(result.replays for result in results):
        _write_report(report, results, from_s, to_s)
        if output is Output.TEXT:
            console().print(f"Report: {report}", soft_wrap=True)
    return 1 if loaded.problems or any(result.error is not None for result in results) else 0


async def _backtest(
    detectors: Sequence[AnomalyDetector], settings: Settings, datasource: str | None, from_s: float, to_s: float
) -> list[Backtested]:
    """Every detector's answer in their order, asked of its own datasource or of the one that was named."""
    places: dict[str, list[int]] = {}
    sent: dict[int, AnomalyDetector] = {}
    results: dict[int, Backtested] = {}
    for place, detector in enumerate(detectors):
        named = datasource or detector.spec.datasource
        try:
            source = settings.datasource(named)
            sent[place] = confined(detector, source)
            places.setdefault(source.name, []).append(place)
        except UserError as error:
            results[place] = Backtested(detector, error=type(error)(f"{detector.subject.detector}: {error}"))
        except KeyError:
            message = (
                f"{detector.subject.detector}: the datasource {named or 'default'!r} is not configured: configure it, "
                "or name another by --datasource."
            )
            results[place] = Backtested(detector, error=UserError(message))
    shares: dict[str, float] = {}
    with progress() as bar:
        task = bar.add_task("backtest", total=100 * len(detectors))

        def advance(name: str, share: float) -> None:
            shares[name] = share
            bar.update(task, completed=round(100 * sum(shares.values())), description=name)

        for name, of_source in places.items():
            async with PrometheusClient(settings.datasource(name)) as client:
                answers = await backtest(
                    client, [sent[place] for place in of_source], from_s, to_s,
                    cluster=settings.cluster, datasource=name, advance=advance,
                )  # fmt: skip
            results.update(zip(of_source, answers, strict=True))
    return [results[place] for place in range(len(detectors))]


def _complaints(results: Sequence[Backtested]) -> Iterator[str]:
    for result in results:
        yield from result.notes
        if result.error is not None:
            yield str(result.error)


def _write_report(path: Path, results: Sequence[Backtested], from_s: float, to_s: float) -> None:
    sections = [section for result in results for section in report_of(result)]
    page = render("Foreshock backtest", from_s, to_s, sections, time.time())
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidFile(f"The report {path} cannot be written: {error.strerror or error}.") from error


def _show(results: Sequence[Backtested], from_s: float, to_s: float) -> None:
    """The timeline, at 80 columns."""
    screen = console()
    screen.print(f"{rfc3339(int(from_s))} to {rfc3339(int(to_s))}", soft_wrap=True)
    for result in results:
        screen.print()
        screen.print(Text(result.detector.subject.detector, style="bold"), soft_wrap=True)
        if result.error is not None:
            screen.print("  not backtested, see the error above")
            continue
        for line in _headline(result):
            screen.print(f"  {line}")
        for alert, played in result.alerts[:_MOST_SHOWN]:
            _show_alert(alert, played)
        if not result.alerts:
            screen.print("  nothing would have fired")
        elif len(result.alerts) > _MOST_SHOWN:
            screen.print(f"  and {len(result.alerts) - _MOST_SHOWN} more")
    screen.print()


def _headline(result: Backtested) -> Iterator[str]:
    counts = result.to_json()["verdicts"]
    total = max(1, sum(counts.values()))
    yield ", ".join(f"{count} {verdict} ({count / total:.1%})" for verdict, count in counts.items())
    learnt = [each for played in result.replays if (each := first_trained_on(result, played)) is not None]
    if learnt:
        yield f"learnt from {rfc3339(min(start for start, _ in learnt))} to {rfc3339(max(end for _, end in learnt))}"
    elif any(played.n_trainings for played in result.replays):
        yield "learnt within the period: its first windows came before any model"
    else:
        yield "no model: there was too little history"
    if len(result.replays) > 1:
        yield f"{len(result.replays)} groups"


def _show_alert(alert: Alert, played: Replay) -> None:
    lasted = "still firing" if alert.ended_at_s is None else duration(alert.ended_at_s - alert.started_at_s)
    screen = console()
    screen.print(
        Text.assemble(
            f"  {rfc3339(alert.started_at_s)}  {lasted:<13}",
            (f"{alert.severity:<9}", "red"),
            f"peak {number(alert.peak_score)}",
        )
    )
    group = ", ".join(f"{name}={value}" for name, value in played.subject.group)
    top = ", ".join(f"{each.metric} {each.share:.0%}" for each in alert.contributions[:3] if each.share >= 0.01)
    for paragraph in (group, top, sentence_of(alert, played)):
        for line in textwrap.wrap(paragraph, 74):
            screen.print(Text(f"      {line}"), soft_wrap=True)


# --- files ----------------------------------------------------------------------------------------------------------


def _on_file(path: Path, options: FileOptions, out: Path, output: Output) -> int:
    if out.exists() and path.exists() and out.samefile(path):
        raise typer.BadParameter("--out is the file that is read; write to another")
    if not out.parent.is_dir():
        raise InvalidFile(f"{out} cannot be written: the folder {out.parent} does not exist.")
    began = time.monotonic()
    with progress() as bar:
        task = bar.add_task(path.name, total=100)
        result = replay_file(path, options, lambda share: bar.update(task, completed=round(100 * share)))
    warn(result.notes)
    write(result, out)
    n_rows, n_anomalous = len(result.scores), int(result.anomalous.sum())
    facts = {
        "file": str(path),
        "out": str(out),
        "rows": n_rows,
        "metrics": len(result.metrics),
        "step": format_duration(result.step_s),
        "window": format_duration(result.window_s),
        "anomalous_rows": n_anomalous,
        "anomalous_share": round(n_anomalous / n_rows, 6),
        "inconclusive_rows": int(np.isnan(result.scores).sum()),
        "incidents": len(result.replay.alerts),
        "trainings": result.replay.n_trainings,
        "seconds": round(time.monotonic() - began, 2),
    }
    if output is Output.JSON:
        print_json(facts)
    else:
        for name, value in facts.items():
            console().print(f"{name.replace('_', ' '):<18}{value}", soft_wrap=True)
    return 0


# --- what was written on the command line ---------------------------------------------------------------------------


def _refuse(context: typer.Context, names: Sequence[str], whose: str) -> None:
    """An option of the other form would be silently ignored."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.strip('_').replace('_', '-')} is an option {whose}")


def _instant(text: str, option: str, now_s: float) -> float:
    """UTC seconds of an instant, `now`, `-3h` or `now-3h`."""
    if text == "now":
        return now_s
    try:
        if text.startswith(("now-", "-")) and not text.removeprefix("-").isdigit():
            return now_s - parse_duration(text.removeprefix("now").removeprefix("-"))
        instant_s = parse_instant(text)
        rfc3339(instant_s)  # what cannot be written back is no instant: inf, or the year 10000
    except (ValueError, OverflowError, OSError) as error:
        raise typer.BadParameter(
            f"{option} takes RFC 3339 (2026-11-23T09:00:00Z), Unix seconds, now, or a duration before it such as -3h; "
            f"not {text!r}"
        ) from error
    return instant_s


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
