"""The table as plain text, 80 columns wide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from bench.quality.cases import DATASETS
from bench.quality.collect import Results
from bench.quality.nab_lines import NabLine
from bench.quality.nab_published import DEVELOPMENT_FILES, PUBLISHED
from bench.quality.summary import Honesty, Scope, Summary
from bench.quality.throttle import Effect

TITLES = {dataset.name: dataset.title for dataset in DATASETS}
_ORDER = {dataset.name: place for place, dataset in enumerate(DATASETS)}
HEAD = (
    f"{'':<26}{'found':>7}{'recall':>7}{'oracle':>7}{'FA/wk':>6}"
    f"{'time%':>6}{'delay':>6}{'p90':>5}{'AP':>5}{'VUS':>5}"
)  # fmt: skip


def report(results: Results) -> str:
    """Everything, for a terminal."""
    parts = [table(results.summaries, results.scopes)]
    if results.nab:
        parts.append(nab_table(results.nab))
    if results.throttle:
        parts.append(throttle_table(results.throttle))
    if results.honesty:
        parts.append(honesty_table(results.honesty))
    return "\n".join(parts)


def table(rows: Sequence[Summary], scopes: Mapping[str, Scope]) -> str:
    """One block per dataset, budget and mode."""
    lines: list[str] = []
    for (dataset, mode, budget), block in blocks(rows).items():
        whole = scopes[dataset]
        title = f"{TITLES[dataset]}, {mode}, {budget}: {scope(whole)}"
        lines += [title, HEAD, *(line(row, whole) for row in block)]
        lines += [
            f"{row.detector}: {row.refused} not run: {row.refusal}"[:80] for row in block if row.refused and row.cases
        ]
        lines.append("")
    return "\n".join(lines)


def blocks(rows: Sequence[Summary]) -> dict[tuple[str, str, str], list[Summary]]:
    """The rows of each dataset, mode and budget, in that order."""
    result: dict[tuple[str, str, str], list[Summary]] = {}
    for row in sorted(rows, key=place):
        result.setdefault((row.dataset, row.mode, row.budget), []).append(row)
    return result


def place(row: Summary) -> tuple[int, str]:
    """Datasets in their order, adaptive before frozen."""
    return _ORDER[row.dataset], row.mode


def nab_table(lines: Sequence[NabLine]) -> str:
    """Ours and the benchmark's own, on the same files."""
    head = f"{'raw rows':>17}{'onsets':>18}"
    columns = f"{'at 1.0':>9}{'best':>8}{'at 1.0':>10}{'best':>8}"
    said = [f"NAB, standard profile, {lines[0].files} files, budget {lines[0].budget}", f"{'':<36}{head}"]
    said.append(f"{'':<36}{columns}")
    said += [
        f"{f'{each.detector} {each.mode}':<36}{each.at_one:>9.1f}{each.best:>8.1f}"
        f"{each.at_one_adapted:>10.1f}{each.best_adapted:>8.1f}"
        for each in lines
    ]
    for one in PUBLISHED if lines[0].files == DEVELOPMENT_FILES else ():
        name = f"published: {one.detector}"
        said.append(f"{name:<36}{'':>9}{one.development_best:>8.1f}{'':>10}{one.development_adapted:>8.1f}")
    return "\n".join([*said, ""])


def scope(whole: Scope) -> str:
    """What a dataset holds."""
    cases = "1 case" if whole.cases == 1 else f"{whole.cases} cases"
    return f"{cases}, {whole.segments} segments, {whole.weeks:.1f} weeks"


def row_name(row: Summary | Effect, whole: Scope) -> str:
    """The detector, and on how many of the cases it was run where that is not all of them."""
    return row.detector if row.cases == whole.cases else f"{row.detector} ({row.cases} of {whole.cases})"


def line(row: Summary, whole: Scope) -> str:
    """One row, 80 columns at most."""
    if not row.cases:
        return f"{row.detector:<26} not run: {row.refusal}"[:80]
    return (
        f"{row_name(row, whole)[:26]:<26}{f'{row.found}/{row.segments}':>7}{fraction(row.recall):>7}"
        f"{fraction(row.oracle_recall):>7}{number(row.per_week, 1):>6}"
        f"{number(100 * row.stray_share, 1):>6}{duration(row.delay_median_s):>6}{duration(row.delay_p90_s):>5}"
        f"{fraction(row.average_precision):>5}{fraction(row.vus_pr):>5}"
    )


def throttle_table(rows: Sequence[Effect]) -> str:
    """What the throttle costs, and what it saves: a block a mode and budget."""
    lines: list[str] = []
    for mode, budget in dict.fromkeys((row.mode, row.budget) for row in rows):
        title = f"Throttle on, off: {mode}, {budget}"
        lines.append(f"{title[:33]:<33}{'found':>13}{'lost':>5}{'FA/wk':>11}{'delay':>10}{'passed':>8}")
        for row in (each for each in rows if (each.mode, each.budget) == (mode, budget)):
            found = f"{row.found_on}, {row.found_off} of {row.segments}"
            rates = f"{number(row.per_week_on, 1)}, {number(row.per_week_off, 1)}"
            delays = f"{duration(row.delay_on_s)}, {duration(row.delay_off_s)}"
            passed = f"{number(100 * row.pass_ratio, 1)}%"
            said = f"{row.dataset} {row.detector}"
            lines.append(f"{said[:33]:<33}{found:>13}{row.lost:>5}{rates:>11}{delays:>10}{passed:>8}")
    return "\n".join([*lines, "passed: of the windows that the cheap check saw, forced ones aside", ""])


def honesty_table(rows: Iterable[Honesty]) -> str:
    """The budgets, pooled per dataset."""
    lines = [f"{'Budget honesty':<37}{'budget':>7}{'alarms':>8}{'allowed':>8}{'ratio':>7}{'90 %':>12}"]
    for row in rows:
        one = row.summary
        name = f"{one.dataset} {one.detector} {one.mode}"
        interval = f"{number(row.low, 1)}-{number(row.high, 1)}"
        broken = "" if row.kept else " !"
        lines.append(
            f"{name[:36]:<37}{one.budget:>7}{one.false_alarms:>8}{number(row.allowed, 1):>8}"
            f"{number(row.ratio, 1):>7}{interval:>10}{broken:<2}"
        )
    return "\n".join([*lines, "! the interval lies above twice the budget", ""])


def number(value: float, digits: int) -> str:
    """Fewer digits for large numbers, a dash for none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def fraction(value: float) -> str:
    """Two digits without the zero in front: .43."""
    text = number(value, 2)
    return text.removeprefix("0") if text.startswith("0.") else text


def duration(seconds: float) -> str:
    """Minutes, hours or days."""
    if not math.isfinite(seconds):
        return "-"
    minutes = seconds / 60
    return (
        f"{minutes:.0f}m" if minutes < 120 else f"{minutes / 60:.0f}h" if minutes < 2880 else f"{minutes / 1440:.0f}d"
    )
