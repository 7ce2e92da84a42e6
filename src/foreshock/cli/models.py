"""`foreshock models`: the revisions of each detector's line of models, and which of them judges."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import make_url

from foreshock.app.clock import SystemClock
from foreshock.app.settings import Overrides, load_settings
from foreshock.cli.output import Output, OutputOption, console, print_json
from foreshock.core.clock import rfc3339
from foreshock.core.durations import format_duration
from foreshock.core.errors import NoSuchRevision, UserError
from foreshock.core.verdicts import Subject
from foreshock.lifecycle import lines
from foreshock.lifecycle.siblings import on_loan
from foreshock.store.history import History
from foreshock.store.records import ModelRecord

NAME = "models"
_HELP = """The revisions of each detector's line of models: list them, promote one, roll one back.

These commands act on the database of the settings. A running engine takes it up at its next cycle, and a revision that
spec.model_version pins can only be changed there.

For example:

    foreshock models list

    foreshock models rollback shop/checkout
"""
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400

Config = Annotated[Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)]
Database = Annotated[str | None, typer.Option(help="Where the state is kept.", show_default=False)]
Detector = Annotated[
    str, typer.Argument(metavar="DETECTOR", help="namespace/name; default/ may be left out.", show_default=False)
]


def open_history(config: Path | None, database: str | None) -> History:
    """The database of the settings.

    Raises:
        UserError: there is none: a command that looks must not make one.

    """
    settings = load_settings(config, os.environ, Overrides(database=database), needs_prometheus=False)
    url = make_url(settings.database)
    if url.drivername == "sqlite" and url.database and not Path(url.database).exists():
        raise UserError(f"There is no database {url.database}: name that of the engine by --database or --config.")
    return History(settings.database, password_file=settings.database_password_file)


def list_(
    detector: Annotated[
        str | None, typer.Argument(metavar="[DETECTOR]", help="namespace/name; else all.", show_default=False)
    ] = None,
    config: Config = None,
    database: Database = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print every revision: its stage, what it learnt from, what was left out and why, and how it was validated.

    For example:

        foreshock models list

        foreshock models list shop/checkout --output json
    """
    history, now_s = open_history(config, database), SystemClock().now_s()
    try:
        wanted = [subject_of(detector)] if detector is not None else sorted(history.detectors(), key=str)
        found = {subject: history.models(subject) for subject in wanted}
    finally:
        history.close()
    if detector is not None and not found[wanted[0]]:
        raise NoSuchRevision(f"Nothing was trained for {wanted[0].detector}: is this its namespace/name and database?")
    if output is Output.JSON:
        print_json({"models": [_document(record) for records in found.values() for record in records]})
        return
    for subject, records in found.items():
        if records:
            _print(subject, records, now_s)
    if not any(found.values()):
        console().print("Nothing was trained yet.")


def promote(
    detector: Detector,
    revision: Annotated[str, typer.Argument(help="Such as v2.1.0-r3, or 3.", show_default=False)],
    config: Config = None,
    database: Database = None,
) -> None:
    """Let a revision judge from the next cycle on, whatever its validation said; it counts as confirmed.

    Slow change is measured against the last confirmed revision.

    For example:

        foreshock models promote shop/checkout v2.1.0-r3
    """
    _change(detector, revision, config, database, is_rollback=False)


def rollback(
    detector: Detector,
    to: Annotated[str | None, typer.Option(help="A revision; else the last that judged before.")] = None,
    config: Config = None,
    database: Database = None,
) -> None:
    """Withdraw the revision that judges for the last good one, from the next cycle on.

    No candidate replaces it for three days: time to exclude what the withdrawn one should not have learnt.

    For example:

        foreshock models rollback shop/checkout

        foreshock models rollback shop/checkout --to v2.1.0-r1
    """
    _change(detector, to, config, database, is_rollback=True)


def build() -> typer.Typer:
    """The command with its three."""
    application = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("list", list_), ("promote", promote), ("rollback", rollback)):
        application.command(name)(command)
    return application


def subject_of(text: str) -> Subject:
    """`namespace/name`, or the name of one in `default`."""
    namespace, _, name = text.rpartition("/")
    return Subject(namespace or "default", name)


def _change(
    detector: str, revision: str | None, config: Path | None, database: str | None, *, is_rollback: bool
) -> None:
    subject, now_s = subject_of(detector), SystemClock().now_s()
    history = open_history(config, database)
    try:
        records = history.models(subject)
        line, number = _line_of(subject, records, revision)

        def change(known: tuple[ModelRecord, ...]) -> tuple[ModelRecord, ...]:
            judging = lines.active(known)
            if judging is not None and judging.details.get("pinned"):
                raise UserError(f"spec.model_version pins {judging.name}: name another revision or the line there.")
            if is_rollback:
                return lines.rolled_back(known, now_s, number)
            assert number is not None
            return lines.promoted(known, number, now_s, "promoted by hand", confirmed=True, by_hand=True)

        after = history.change_models(subject, line, change, noticed_s=now_s)
    finally:
        history.close()
    judging = lines.active(after)
    assert judging is not None
    console().print(f"{judging.name} judges {subject.detector} from the next cycle on.", soft_wrap=True)


def _line_of(subject: Subject, records: Sequence[ModelRecord], revision: str | None) -> tuple[str, int | None]:
    """The line and the number that are meant; the newest line where only a number, or nothing, is named."""
    if not records:
        raise NoSuchRevision(f"Nothing was trained for {subject.detector}: is this its namespace/name and database?")
    if revision is None or revision.isdecimal():
        judging = next((record for record in records if record.stage == lines.ACTIVE), records[0])
        return judging.version, int(revision) if revision is not None else None
    version, _, number = revision.rpartition("-r")
    if not version or not number.isdecimal():
        raise UserError(f"{revision} names no revision; write it as {records[0].name}.")
    return version, int(number)


def _print(subject: Subject, records: Sequence[ModelRecord], now_s: float) -> None:
    out = console()
    out.print(Text(subject.detector, style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("  REVISION", overflow="fold")
    table.add_column("STAGE", overflow="fold")
    table.add_column("LEARNT FROM", no_wrap=True)
    table.add_column("ROWS", justify="right", no_wrap=True)
    table.add_column("LEFT OUT", justify="right", no_wrap=True)
    table.add_column("VALIDATION", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            f"  {record.name}", _stage(record), _window(record), f"{record.rows_used:,}",
            f"{sum(record.rows_excluded.values()):,}", _validation(record), _short(now_s - record.created_s),
        )  # fmt: skip
    out.print(table)
    for record in records:
        said = _sentences(record)
        if said:
            out.print(Text(f"  {record.name}: {said}", style="dim"))
    out.print()


def _sentences(record: ModelRecord) -> str:
    """Why it stands where it stands, of those that a person asks about; and what was left out of the active one."""
    if record.stage == lines.RETIRED and not record.details.get("withdrawn"):
        return ""
    said = [str(record.details.get("why", ""))]
    if record.details.get("drift"):
        said = [f"early, because {record.details['drift']}", *said]
    if record.stage == lines.ACTIVE and record.rows_excluded:
        said.append("left out " + ", ".join(f"{rows:,} {reason}" for reason, rows in record.rows_excluded.items()))
    if (factor := float(record.details.get("threshold_factor", 1.0))) != 1.0:
        given = record.details.get("verdicts", {})
        after = f", after {given['true']} true and {given['false']} false alarms" if given else ""
        said.append(f"threshold {factor:.2f} times as far as learnt{after}")
    if lent := on_loan(lines.on_loan(record)):
        said.append(lent)
    if lines.is_provisional(record):
        said.append(_warm_up(record))
    return "; ".join(each for each in said if each)


def _warm_up(record: ModelRecord) -> str:
    details = record.details
    ends_s = details.get("warm_at_s")
    until = f" until about {rfc3339(int(ends_s))}" if ends_s is not None else ""
    lacks = f", lacks {details['warm_lacks']}" if details.get("warm_lacks") else ""
    share = float(details.get("warm_share", 0.0))
    return f"{share:.0%} of the warm-up{lacks}; judges, and pages only outside valid_range{until}"


def _stage(record: ModelRecord) -> str:
    if record.stage == lines.ACTIVE and record.details.get("pinned"):
        return "Active, pinned"
    if record.stage == lines.ACTIVE and lines.is_provisional(record):
        return "Active, learning"
    return record.stage


def _window(record: ModelRecord) -> str:
    length_s = record.trained_to_s - record.trained_from_s
    return f"{_short(length_s)} to {rfc3339(record.trained_to_s)[5:16].replace('T', ' ')}"


def _validation(record: ModelRecord) -> str:
    result = record.details.get("validation", {}).get("result", "NotRun")
    return {"Passed": "passed", "Failed": "failed", "NotRun": "not run"}.get(result, str(result))


def _short(duration_s: float) -> str:
    for unit_s, least in ((_DAY_S, 2 * _DAY_S), (_HOUR_S, 2 * _HOUR_S), (_MINUTE_S, 0)):
        if duration_s >= least:
            return format_duration(int(max(0, duration_s) // unit_s * unit_s))
    return "0s"


def _document(record: ModelRecord) -> dict[str, Any]:
    details: Mapping[str, Any] = record.details
    return {
        "namespace": record.subject.namespace,
        "name": record.subject.name,
        "version": record.version,
        "revision": record.name,
        "stage": record.stage,
        "message": str(details.get("why", "")),
        "pinned": bool(details.get("pinned")),
        "held_until": rfc3339(int(until_s)) if (until_s := lines.held_until_s(record)) else None,
        "confirmed": bool(details.get("confirmed")),
        "provisional": lines.is_provisional(record),
        "warm_up": float(details.get("warm_share", 1.0)),
        "warm_up_ends": rfc3339(int(details["warm_at_s"])) if details.get("warm_at_s") is not None else None,
        "algorithm": record.algorithm,
        "training_window": {"start": rfc3339(record.trained_from_s), "end": rfc3339(record.trained_to_s)},
        "rows_used": record.rows_used,
        "rows_excluded": dict(record.rows_excluded),
        "on_loan": [{"group": dict(group), "sibling": dict(sibling)} for group, sibling in lines.on_loan(record)],
        "drift": details.get("drift"),
        "calibration_doubt": lines.calibration_doubt(record),
        "validation": details.get("validation"),
        "threshold_factor": float(details.get("threshold_factor", 1.0)),
        "verdicts": details.get("verdicts"),
        "created_at": rfc3339(int(record.created_s)),
        "digest": record.digest,
    }
