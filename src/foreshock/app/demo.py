"""`foreshock demo`: the story of design.md section 1 on real parts, from nothing, with every promise checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreshock.app.backtest import Backtested, backtest, report_of, told_at_firing
from foreshock.app.clock import SystemClock
from foreshock.app.explain import explain_incident
from foreshock.app.picture import write_figure
from foreshock.app.runner import Runner
from foreshock.app.settings import Overrides, Settings, load_settings
from foreshock.app.shop import CONTROL_RULE, STATIC_RULES, StaticRule, Story, rules_yaml, write_openmetrics
from foreshock.app.shop_exporter import ShopExporter, scrape_config_yaml
from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.diagnosis.report import render
from foreshock.engine.cycle import Summary
from foreshock.lifecycle.replay import Alert, Replay
from foreshock.manifests.detector import AnomalyDetector
from foreshock.manifests.files import load
from foreshock.prometheus.client import PrometheusClient
from foreshock.prometheus.local_server import backfill, running
from foreshock.prometheus.requests import RangeQuery
from foreshock.prometheus.settings import Datasource
from foreshock.store.artifacts import ArtifactStore
from foreshock.store.history import History

MANIFESTS = Path(__file__).parent / "shop_manifests"  # the two manifests of examples/, kept equal by a test
CAUSE = "pool_wait"
_LIVE_WITHIN_S = 150.0
_LIVE_CYCLES = 2
_FIRST_HOUR_S = 3_600


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the demo's story, and whether it came out as promised."""

    text: str
    kept: bool = True


async def tell(
    folder: Path, say: Callable[[Step], None], doing: Callable[[str, float], None], sinks: Path | None = None
) -> Path:
    """Tell the whole story in `folder`, hand each result to `say`, and return where the report lies.

    `doing` hears what is being done and how far the whole is, 0 to 1. The default sinks of the settings file `sinks`
    are told of the live alert; of the rest of that file nothing is used. Nothing is left running.

    Raises:
        ForeshockError: a part could not be had or started.

    """
    clock = SystemClock()
    if sinks is not None:
        load_settings(sinks, os.environ, needs_prometheus=False)  # a wrong line is said before a minute is spent
    story, now_s = Story.before(clock.now_s()), int(clock.now_s())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)  # noqa: ASYNC240 - before anything runs beside it
    doing("writing three weeks of a shop", 0.02)
    metrics_file = folder / "shop.om"
    await asyncio.to_thread(write_openmetrics, metrics_file, story, story.history_start_s, now_s)
    doing("backfilling Prometheus", 0.1)
    await asyncio.to_thread(backfill, folder / "data", metrics_file)
    metrics_file.unlink()
    with ShopExporter(story, clock.now_s) as exporter, contextlib.ExitStack() as stack:
        config = scrape_config_yaml(exporter.address) + "rule_files: [rules.yml]\n"
        server = stack.enter_context(running(folder, config_text=config, rules_text=rules_yaml()))
        source = Datasource(name="default", url=server.url)
        detectors = [manifest.detector for manifest in load([MANIFESTS])]
        async with PrometheusClient(source) as client:
            doing("asking the team's static rules", 0.25)
            to_s = min(story.day_start_s + 86_400, now_s)
            for rule in (*STATIC_RULES, CONTROL_RULE):
                say(await _rule(client, rule, story.day_start_s, to_s))
            doing("replaying the last day", 0.3)
            results = await backtest(
                client, detectors, story.day_start_s, to_s, cluster="demo",
                advance=lambda name, share: doing(f"replaying {name}", 0.3 + 0.3 * share),
            )  # fmt: skip
        for step in _judge(results, story):
            say(step)
        report = folder / "report.html"
        sections = [section for result in results for section in report_of(result)]
        page = render("The pool wait that creeps for three hours", story.day_start_s, to_s, sections, clock.now_s())
        report.write_text(page, encoding="utf-8")
        doing("watching live, with the fault switched on", 0.65)
        exporter.fault_level = 1.0
        say(await _live(folder, _settings(folder, server.url, sinks), detectors, clock, doing))
    for step in await asyncio.to_thread(_diagnosis, folder):
        say(step)
    if sinks is not None:
        say(await asyncio.to_thread(_told, _settings(folder, server.url, sinks)))
    return report


def _settings(folder: Path, url: str, sinks: Path | None) -> Settings:
    """Everything of the demo's own, and the sinks of the file; what they are told is in `events.jsonl` as well."""
    overrides = Overrides(url, f"sqlite:///{folder / 'state.db'}", str(folder / "models"), "127.0.0.1:0")
    own = load_settings(None, {}, overrides)
    if sinks is None:
        return own
    theirs = load_settings(sinks, os.environ, needs_prometheus=False)
    names = tuple(dict.fromkeys((*theirs.default_sinks, *own.default_sinks)))
    return own.model_copy(update={"sinks": theirs.sinks, "default_sinks": names})


def _told(settings: Settings) -> Step:
    """Whether every sink took the alert; what one did not take waits in the demo's database."""
    history = History(settings.database)
    try:
        waiting = [each.sink for each in history.backlog()]
    finally:
        history.close()
    if waiting:
        return Step(f"the live alert was not taken by {', '.join(waiting)}: is it up, at that address?", kept=False)
    return Step(f"the live alert is at {', '.join(settings.default_sinks)}")


def _diagnosis(folder: Path) -> list[Step]:
    """What the live alert says of itself, judged again from its own evidence, with its figure."""
    history = History(f"sqlite:///{folder / 'state.db'}")
    try:
        ids = [each.incident_id for each in history.incidents(limit=1)]
        if not ids:  # `_live` has said that nothing was anomalous
            return []
        explained = explain_incident(ids[0], history, ArtifactStore(folder / "models"))
    finally:
        history.close()
    told = explained.told
    top = ", ".join(f"{each.metric} {each.share:.0%}" for each in told.data.contributions[:3])
    steps = [
        Step(f"the live alert says: {told.data.summary}"),
        Step(f"contributions: {top}", kept=told.data.contributions[0].metric == CAUSE),
        Step(f"score {told.data.score:.3g} {told.outcome}", kept=explained.is_reproduced),
        Step(
            f"to explain it: foreshock explain {ids[0][:8]} --database sqlite:///{folder}/state.db "
            f"--artifacts {folder}/models"
        ),
    ]
    pictures = [file for file in write_figure(explained, folder) if file.suffix == ".png"]
    return [*steps, *(Step(f"figure: {file}") for file in pictures)]


async def _rule(client: PrometheusClient, rule: StaticRule, from_s: int, to_s: int) -> Step:
    """Whether Prometheus would have fired: its expression true at every minute of its `for`, by its own arithmetic."""
    # half a minute more than `for`, so that both ends are counted, whichever end of the range a version leaves out
    query = f"count_over_time(({rule.expression})[{rule.for_s + 30}s:1m]) >= {rule.for_s // 60 + 1}"
    matrix = await client.range(RangeQuery.aligned(query, from_s, to_s, 60))
    fired = np.isfinite(matrix.values).any(axis=0) if matrix.n_series else np.zeros(1, np.bool_)
    control = rule is CONTROL_RULE
    what = f"{'control' if control else 'static'} rule {rule.alert}"
    if fired.any():
        first_s = matrix.start_s + int(np.argmax(fired)) * 60
        return Step(f"{what} fires at {_clock_time(first_s)}: {_threshold(rule)}", kept=control)
    return Step(f"{what} never fires: {_threshold(rule)}", kept=not control)


def _threshold(rule: StaticRule) -> str:
    name = rule.expression.split("{")[0].removeprefix("shop_").removeprefix("http_").removeprefix("database_")
    return f"{name} {rule.expression.rsplit('}', 1)[1].strip()}"


def _judge(results: list[Backtested], story: Story) -> list[Step]:
    """What the replayed day must have come to."""
    steps = []
    for result in results:
        if result.error is not None:
            steps.append(Step(f"{result.detector.metadata.name}: {result.error}", kept=False))
            continue
        found = [(alert, played) for played in result.replays for alert in played.alerts]
        if any(metric.name == CAUSE for metric in result.detector.spec.named_metrics):
            steps.extend(_checkout(result.detector, found, story))
        else:
            name = result.detector.metadata.name
            steps.append(Step(f"{name}: an ordinary day, {len(found)} alerts", kept=not found))
    return steps


def _checkout(detector: AnomalyDetector, found: list[tuple[Alert, Replay]], story: Story) -> list[Step]:
    name, (start_s, _) = detector.metadata.name, story.drift_s
    sale = [alert for alert, _ in found if story.sale_s[0] <= alert.started_at_s <= story.sale_s[1] + 3_600]
    steps = [Step(f"{name}: the flash sale doubles the traffic, {len(sale)} alerts", kept=not sale)]
    drift = [(alert, played) for alert, played in found if start_s <= alert.fired_at_s <= story.repaired_s]
    others = len(found) - len(sale) - len(drift)
    if others:
        steps.append(Step(f"{name}: {others} alerts at other times", kept=False))
    if not drift:
        return [*steps, Step(f"{name}: the drift was not found", kept=False)]
    alert, played = drift[0]
    after_s = alert.fired_at_s - start_s
    named, said = told_at_firing(alert, played)
    top = ", ".join(f"{each.metric} {each.share:.0%}" for each in named[:3] if each.share >= 0.01)
    steps.append(
        Step(
            f"{name}: ALERT at {_clock_time(alert.fired_at_s)}, {format_duration(after_s)} into the drift: {top}",
            kept=after_s <= _FIRST_HOUR_S and named[0].metric == CAUSE,
        )
    )
    return [*steps, Step(f"the alert says: {said}")]


async def _live(
    folder: Path,
    settings: Settings,
    detectors: list[AnomalyDetector],
    clock: SystemClock,
    doing: Callable[[str, float], None],
) -> Step:
    """Run the engine until a window that a model looked at was judged."""
    judged = asyncio.get_running_loop().create_future()

    n_judged = 0

    def heard(summary: Summary) -> None:
        nonlocal n_judged
        n_judged += bool(summary.verdicts["normal"] + summary.verdicts["anomalous"])
        # the first window may have ended before the fault was switched on
        if (summary.verdicts["anomalous"] or n_judged == _LIVE_CYCLES) and not judged.done():
            judged.set_result(summary)

    events = (folder / "events.jsonl").open("w", encoding="utf-8")
    runner = Runner(settings, detectors, clock=clock, executor=ThreadPoolExecutor(1), on_cycle=heard, events=events)
    task = asyncio.create_task(runner.run())
    began_s, text = clock.monotonic_s(), ""
    try:
        while not judged.done() and (passed_s := clock.monotonic_s() - began_s) < _LIVE_WITHIN_S:
            if task.done():
                await task
            doing("watching live until the next minute is judged", 0.65 + 0.33 * passed_s / _LIVE_WITHIN_S)
            await asyncio.wait({judged, task}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        if judged.done():
            summary: Summary = judged.result()
            said = ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.items() if count)
            scores = ", ".join(f"{subject.name} {score:.3g}" for subject, score in summary.scores.items())
            text = f"live, with the fault switched on: {said}" + (f"; score of {scores}" if scores else "")
            return Step(text, kept=summary.verdicts["anomalous"] > 0)
        return Step(f"live: no window was judged within {_LIVE_WITHIN_S:.0f} s", kept=False)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        events.close()


def _clock_time(instant_s: int) -> str:
    return rfc3339(instant_s)[11:16]
