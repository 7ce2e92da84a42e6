"""`foreshock demo`: the pool wait that creeps for three hours, on a real Prometheus, from nothing."""

from __future__ import annotations

import asyncio
import logging
import textwrap
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.text import Text

from foreshock.app.demo import Step, tell
from foreshock.cli.output import console, progress

NAME = "demo"


def command(
    folder: Annotated[Path, typer.Option(help="Where data, state and report go; emptied first.")] = Path(
        "foreshock-demo"
    ),
    config: Annotated[
        Path | None,
        typer.Option(help="A settings file: its default sinks hear of the live alert.", show_default=False),
    ] = None,
) -> int:
    """Tell the story that every version must get right, and check each of its promises.

    A shop's connection-pool wait creeps up by 200 ms over three hours, under every static threshold, hours after a
    flash sale that doubled the traffic. Needs Debian's package prometheus; everything stays on this machine.

    For example:

        foreshock demo

        foreshock demo --config sinks.yaml       # docs/operations.md shows the alert in Alertmanager and Kafka
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    screen, steps = console(), list[Step]()
    with progress() as bar:
        task = bar.add_task("starting", total=100)

        def say(step: Step) -> None:
            steps.append(step)
            mark, style = ("✓", "green") if step.kept else ("✗", "bold red")
            for number, line in enumerate(textwrap.wrap(step.text, screen.width - 4)):
                screen.print(Text.assemble((f"{mark} " if number == 0 else "    ", style), line), soft_wrap=True)

        def doing(what: str, share: float) -> None:
            bar.update(task, description=what, completed=round(100 * share))

        report = asyncio.run(tell(folder, say, doing, config))
    screen.print(f"Report: {report}", soft_wrap=True)
    broken = [step for step in steps if not step.kept]
    if broken:
        screen.print(f"{len(broken)} of the story's promises broke.")
    return 1 if broken else 0
