"""The tables of docs/quality.md, written between its markers and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.quality.collect import Results
from bench.quality.nab_published import DEVELOPMENT_FILES, PUBLISHED
from bench.quality.summary import Honesty, Scope, Summary
from bench.quality.text import TITLES, blocks, duration, number, row_name, scope
from bench.quality.throttle import Effect

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_MODES = {"adapt": "adaptive", "frozen": "frozen"}


class NoMarkers(Exception):
    """The page does not say where the tables go."""


def refuse_without_markers(path: Path) -> None:
    """Find out before hours of running whether the tables can be written.

    Raises:
        NoMarkers: the page is missing, or one of its markers is.

    """
    _around(path)


def write_between_markers(path: Path, tables: str) -> None:
    """Write the tables between the markers of a page; rows of it that this run has not stay.

    A run takes hours, so the page is made of several; whoever wants it from one run empties it first.

    Raises:
        NoMarkers: the page is missing, or one of its markers is.

    """
    before, old, after = _around(path)
    path.write_text(f"{before}{BEGIN}\n\n{merged(tables, old)}\n{END}{after}")


def merged(new: str, old: str) -> str:
    """The sections of `new`, each with the rows that only `old` has below its own; the sections of `old` stay."""
    sections, kept = _sections(new), _sections(old)
    for title in sections.keys() & kept.keys():
        lines = sections[title]
        rows = {_key(line) for line in lines if line.startswith("|")}
        table = [at for at, line in enumerate(lines) if line.startswith("|")]
        stay = [line for line in kept[title] if line.startswith("|") and _key(line) not in rows]
        notes = lines[table[-1] + 1 :]
        if not any(notes):  # why a peer was not run stands below the table
            notes = kept[title][max(at for at, line in enumerate(kept[title]) if line.startswith("|")) + 1 :]
        head, body = lines[: table[0] + 2], [*lines[table[0] + 2 : table[-1] + 1], *stay]
        body.sort(key=lambda line: not line.startswith("| `"))  # what was run stands above what others published
        sections[title] = [*head, *body, *notes]
    return "\n".join(line for lines in (kept | sections).values() for line in lines)


def _sections(page: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for line in page.strip().splitlines():
        title = line if line.startswith("### ") else next(reversed(result), None)
        if title is not None:
            result.setdefault(title, []).append(line)
    for lines in result.values():
        while not lines[-1]:
            lines.pop()
        lines.append("")
    return result


def _key(line: str) -> tuple[str, ...]:
    """Which run a row is of: its first cell, without how many cases, or in tables of all datasets the first three."""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    cells = [cell.partition(" (")[0] for cell in cells]
    return tuple(cells[:3]) if cells[0] in TITLES else (cells[0],)


def _around(path: Path) -> tuple[str, str, str]:
    page = path.read_text() if path.is_file() else ""
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarkers(f"{path} has no {BEGIN} ... {END}: the tables go between them.")
    return before, old, after


def tables(results: Results) -> str:
    """Every dataset at the headline budget, NAB by its own rules, and the budgets."""
    headline = [row for row in results.summaries if row.budget == results.budget.text]
    parts = [_dataset(mode, block, results.scopes) for (_, mode, _), block in blocks(headline).items()]
    if results.nab:
        parts.append(_nab(results))
    if results.throttle:
        parts.append(_throttle(results.throttle, results.scopes))
    if results.honesty:
        parts.append(_honesty(results.honesty, results.scopes))
    return "\n".join(parts)


def _dataset(mode: str, block: Sequence[Summary], scopes: Mapping[str, Scope]) -> str:
    dataset, whole = block[0].dataset, scopes[block[0].dataset]
    title = f"### {TITLES[dataset]}, {_MODES[mode]}\n\n{scope(whole)}, budget {block[0].budget}\n"
    head = ("detector", "found", "recall (90 %)", "oracle", "false alarms a week", "moments", "time %", "delay", "p90")
    lines = [_line((*head, "AP", "VUS-PR")), _line(("---", *("---:",) * (len(head) + 1)))]
    lines += [_line(_cells(row, whole)) for row in block if row.cases]
    refused = [f"`{row.detector}`: {_cases(row.refused)} not run ({row.refusal})." for row in block if row.refused]
    return "\n".join([title, *lines, "", *_paragraph(refused)])


def _cells(row: Summary, whole: Scope) -> tuple[str, ...]:
    name = row_name(row, whole).replace(row.detector, f"`{row.detector}`")
    interval = f"{number(row.recall_low, 2)}-{number(row.recall_high, 2)}"
    return (
        name, f"{row.found}/{row.segments}", f"{number(row.recall, 2)} ({interval})",
        number(row.oracle_recall, 2), number(row.per_week, 1), str(row.moments), number(100 * row.stray_share, 2),
        duration(row.delay_median_s), duration(row.delay_p90_s), number(row.average_precision, 2),
        number(row.vus_pr, 2),
    )  # fmt: skip


def _nab(results: Results) -> str:
    lines = results.nab
    title = f"### NAB by its own rules\n\nStandard profile, {lines[0].files} files, budget {lines[0].budget}\n"
    table = [
        _line(("detector", "rows, at 1.0", "rows, best", "onsets, at 1.0", "onsets, best")),
        _line(("---", "---:", "---:", "---:", "---:")),
    ]
    for one in lines:
        figures = (one.at_one, one.best, one.at_one_adapted, one.best_adapted)
        table.append(_line((f"`{one.detector}` {_MODES[one.mode]}", *(f"{figure:.1f}" for figure in figures))))
    for known in PUBLISHED if lines[0].files == DEVELOPMENT_FILES else ():
        figures = ("", f"{known.development_best:.1f}", "", f"{known.development_adapted:.1f}")
        table.append(_line((f"{known.detector}, published scores", *figures)))
    return "\n".join([title, *table, ""])


def _throttle(rows: Iterable[Effect], scopes: Mapping[str, Scope]) -> str:
    table = [
        "### Throttle on and off\n",
        _line(
            ("dataset", "detector", "budget", "found on", "found off", "lost", "false alarms a week on", "off",
             "delay on", "off", "passed %")
        ),
        _line(("---", "---", *("---:",) * 9)),
    ]  # fmt: skip
    for row in rows:
        found = (f"{row.found_on}/{row.segments}", f"{row.found_off}/{row.segments}", str(row.lost))
        rates = (number(row.per_week_on, 1), number(row.per_week_off, 1))
        delays = (duration(row.delay_on_s), duration(row.delay_off_s))
        detector = _run_name(row, scopes)
        passed = number(100 * row.pass_ratio, 1)
        table.append(_line((row.dataset, detector, row.budget, *found, *rates, *delays, passed)))
    return "\n".join([*table, ""])


def _honesty(rows: Iterable[Honesty], scopes: Mapping[str, Scope]) -> str:
    table = [
        "### Budget honesty\n",
        _line(("dataset", "detector", "budget", "false alarms", "allowed", "ratio", "90 % interval", "kept")),
        _line(("---", "---", "---:", "---:", "---:", "---:", "---:", "---")),
    ]
    for row in rows:
        one = row.summary
        figures = (str(one.false_alarms), number(row.allowed, 1), number(row.ratio, 1))
        interval = f"{number(row.low, 1)}-{number(row.high, 1)}"
        name = _run_name(one, scopes)
        table.append(_line((one.dataset, name, one.budget, *figures, interval, "yes" if row.kept else "**no**")))
    return "\n".join([*table, ""])


def _run_name(row: Summary | Effect, scopes: Mapping[str, Scope]) -> str:
    part = row_name(row, scopes[row.dataset]).removeprefix(row.detector)
    return f"`{row.detector}` {_MODES[row.mode]}{part}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cases(count: int) -> str:
    return "one case" if count == 1 else f"{count} cases"


def _paragraph(sentences: Sequence[str]) -> list[str]:
    return [" ".join(sentences), ""] if sentences else []
