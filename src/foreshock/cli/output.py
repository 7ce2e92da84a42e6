"""What commands print: JSON for programs, text for people, and one sentence on stderr when something failed."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from foreshock.core.errors import Problem


class Output(StrEnum):
    """How a command prints its facts."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", help="text for people, json for programs.")]


def print_json(value: Any) -> None:
    """Write one JSON value to stdout, as wide as it is: never wrapped, coloured or with a NaN in it."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def console(*, stderr: bool = False) -> Console:
    """Where text goes: coloured only on a terminal and without NO_COLOR, wrapped at 80 columns where there is none."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_problems(problems: Sequence[Problem]) -> None:
    """Write problems to stdout, grouped by file: the path, and below it the sentence."""
    out, file = console(), None
    for problem in problems:
        if problem.file != file:
            file = problem.file
            out.print(Text(file or "(no file)", style="bold"), soft_wrap=True)
        if problem.path:
            out.print(Text(f"  {problem.path}", style="cyan"), soft_wrap=True)
        indent = " " * (6 if problem.path else 2)
        width = max(40, out.width - len(indent))
        for line in textwrap.wrap(problem.message, width, break_long_words=False, break_on_hyphens=False):
            out.print(Text(f"{indent}{line}", style="red"), soft_wrap=True)


def print_error(message: str) -> None:
    """Write what failed to stderr, one line a sentence, each beginning with the name of the program."""
    out = console(stderr=True)
    for line in message.splitlines() or ["unknown error"]:
        out.print(Text.assemble(("foreshock: ", "bold red"), line), soft_wrap=True)


def progress() -> Progress:
    """A bar on stderr for anything over two seconds; it draws nothing where stderr is no terminal."""
    out = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
