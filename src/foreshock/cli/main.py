"""The command line: assembles one file per command, and turns every error into one sentence and an exit code.

0: done. 1: failed, or `check` found problems. 2: wrong usage. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType

import typer

from foreshock.cli import (
    backtest,
    backup,
    check,
    crd,
    demo,
    explain,
    extractor,
    maintenance,
    models,
    operator,
    restore,
    run,
    schema,
    verdict,
    version,
)
from foreshock.cli.output import print_error
from foreshock.core.errors import ForeshockError

COMMANDS: tuple[ModuleType, ...] = (
    operator,
    run,
    extractor,
    backtest,
    explain,
    models,
    verdict,
    check,
    maintenance,
    backup,
    restore,
    crd,
    schema,
    demo,
    version,
)  # each has a NAME and a `command`, or a `build` of several, in the order of the help

_HELP = """Learns what is normal for a service from its Prometheus metrics, and alerts when the service leaves it.

For example:

    foreshock check examples/

    foreshock COMMAND --help
"""


def build() -> typer.Typer:
    """The application with every command of `COMMANDS`."""
    application = typer.Typer(
        name="foreshock",
        help=_HELP,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )
    application.callback()(_only_commands)
    for module in COMMANDS:
        if hasattr(module, "build"):
            application.add_typer(module.build(), name=module.NAME)
        else:
            application.command(module.NAME)(module.command)
    return application


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; an error of ours is a sentence on stderr and never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = build()(args=given or ["--help"], prog_name="foreshock", standalone_mode=False)
        sys.stdout.flush()  # here, where a closed pipe can still be caught
    except ForeshockError as error:
        print_error(str(error))
        return 1
    except typer.TyperException as error:  # wrong usage: unknown options, missing arguments
        print_error(_usage(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("Interrupted.")
        return 130
    except BrokenPipeError:  # `foreshock check | head`: who read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if not given:
        return 2
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "foreshock"
    sentence = error.format_message().replace("Value error, ", "").rstrip(".")
    return f"{sentence} See {command} --help." if sentence.endswith("?") else f"{sentence}; see {command} --help."


def _only_commands() -> None:
    """Keeps `foreshock version` a command of its own even where it were the only one."""
