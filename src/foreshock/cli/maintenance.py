"""`foreshock maintenance`: maintenances of a calendar as the block that a manifest takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
import yaml

from foreshock.cli.output import Output, OutputOption, print_error, print_json
from foreshock.core.clock import parse_instant, rfc3339
from foreshock.core.errors import InvalidFile
from foreshock.manifests.calendars import MAX_CALENDAR_BYTES, maintenances_of
from foreshock.manifests.detector import Maintenance

NAME = "maintenance"
_HELP = """Maintenances of a calendar, for the manifests of detectors.

For example:

    foreshock maintenance import changes.ics --days 30
"""


def build() -> typer.Typer:
    """The command with its one subcommand, so that others may join it."""
    application = typer.Typer(help=_HELP, no_args_is_help=False)
    application.callback()(_only_commands)
    application.command("import")(import_)
    return application


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A calendar, as calendars export it.")],
    from_: Annotated[
        str | None, typer.Option("--from", help="RFC 3339 or Unix seconds; default now.", show_default=False)
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How far ahead events are looked for.")] = 90,
    time_zone: Annotated[str, typer.Option(help="Of whole days, and of times without a zone.")] = "UTC",
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the events of a calendar as `maintenance` of a manifest's spec, repetitions written out, oldest first.

    A manifest never names a calendar: what it holds back is in it, where everybody can read it. Run this again when the
    calendar has changed.

    For example:

        foreshock maintenance import changes.ics --days 30

        foreshock maintenance import changes.ics --time-zone Europe/Berlin
    """
    zone = _zone(time_zone)
    from_s = time.time() if from_ is None else _instant(from_)
    found = [_plain(each) for each in maintenances_of(_content(file), from_s, from_s + 86_400 * days, zone)]
    if not found:
        print_error(f"No event of {file} lies within {days}d from {rfc3339(from_s // 1)}.")
    if output is Output.JSON:
        print_json({"maintenance": found})
    else:
        text = yaml.safe_dump(
            {"maintenance": found}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=200
        )
        typer.echo(text, nl=False)


def _plain(maintenance: Maintenance) -> dict[str, Any]:
    return maintenance.model_dump(mode="json", exclude_defaults=True)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_CALENDAR_BYTES + 1)
    except OSError as error:
        raise InvalidFile(f"{file} cannot be read ({error.strerror}); correct the path.") from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise typer.BadParameter(
            f"{name!r} is no name of the time zone database, such as Europe/Berlin", param_hint="'--time-zone'"
        ) from None


def _instant(text: str) -> float:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--from'") from None


def _only_commands() -> None:
    """Keeps `import` a word of its own."""
