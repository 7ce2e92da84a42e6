"""The report and the page of the docs, made from the folder of results alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench.quality.__main__ import main
from bench.quality.markdown import BEGIN, END, NoMarkers, merged, write_between_markers
from tests.bench.made_up import write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of two datasets, one of them judged by NAB's rules as well."""
    folder = tmp_path_factory.mktemp("quality")
    write_folder(folder / "data", "asd", ("a<b",))
    write_folder(folder / "data", "nab", ("one", "two"), n_metrics=1)
    chosen = ["--datasets", "asd,nab", "--detectors", "foreshock,foreshock:correlation", "--modes", "frozen"]
    result = ["--data", str(folder / "data"), "--out", str(folder / "out"), *chosen, "--budgets", "1/7d,1/1d"]
    assert main(result) == 0
    return result


def test_the_page_needs_nothing_from_elsewhere(arguments: list[str]) -> None:
    """No script, no address; every dataset, the budgets and NAB are in it, and names are escaped."""
    page = (Path(arguments[3]) / "report.html").read_text()
    assert not re.findall(r"<script|https?://|url\(", page)
    for part in ("Application Server Dataset", "NAB by its own rules", "Budget honesty", "<svg", "Prophet"):
        assert part in page
    assert "a<b" not in page


def test_what_a_detector_cannot_judge_is_said_with_its_reason(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`correlation` has nothing to do on one metric: no zero stands for that."""
    assert main([*arguments, "--report-only"]) == 0
    (line,) = {line for line in capsys.readouterr().out.splitlines() if "not run" in line}
    assert line.startswith("foreshock:correlation")
    page = (Path(arguments[3]) / "report.html").read_text()
    assert "2 cases not run" in page


def test_the_tables_go_between_the_markers_and_nowhere_else(arguments: list[str], tmp_path: Path) -> None:
    """What stands before and after them stays, and a second time changes nothing."""
    path = tmp_path / "quality.md"
    path.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([*arguments, "--report-only", "--write-docs", str(path)]) == 0
    once = path.read_text()
    assert once.startswith(f"# Before\n{BEGIN}\n\n### Application Server Dataset, frozen\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "old" not in once  # what is in no section is not ours
    assert main([*arguments, "--report-only", "--write-docs", str(path)]) == 0
    assert path.read_text() == once


def test_rows_that_a_run_has_not_stay_on_the_page() -> None:
    """A run takes hours: the page is made of several, and one of them on fewer cases replaces its own row alone."""
    old = """### JumpStarter D2, adaptive

15 cases

| detector | found |
| --- | ---: |
| `foreshock` | 1/43 |
| `textbook` | 18/43 |

`prophet`: 15 cases not run.

### JumpStarter D2, frozen

| detector | found |
| --- | ---: |
| `random` | 2/43 |

### Budget honesty

| dataset | detector | budget | kept |
| --- | --- | ---: | --- |
| d2 | `foreshock` adaptive | 1/7d | **no** |
| d2 | `foreshock` adaptive | 1/1d | yes |
"""
    new = """### JumpStarter D2, adaptive

15 cases

| detector | found |
| --- | ---: |
| `foreshock` (5 of 15) | 9/12 |

### Budget honesty

| dataset | detector | budget | kept |
| --- | --- | ---: | --- |
| d2 | `foreshock` adaptive (5 of 15) | 1/7d | yes |
"""
    page = merged(new, old)
    adaptive, frozen, budgets = page.split("### ")[1:]
    assert adaptive.splitlines()[6:] == [
        "| `foreshock` (5 of 15) | 9/12 |", "| `textbook` | 18/43 |", "", "`prophet`: 15 cases not run.", ""
    ]  # fmt: skip
    assert "| `random` | 2/43 |" in frozen
    assert budgets.splitlines()[4:] == [
        "| d2 | `foreshock` adaptive (5 of 15) | 1/7d | yes |", "| d2 | `foreshock` adaptive | 1/1d | yes |"
    ]  # fmt: skip
    assert merged(new, page) == page


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    """Nothing is overwritten by chance."""
    path = tmp_path / "quality.md"
    path.write_text("mine")
    with pytest.raises(NoMarkers, match="the tables go between them"):
        write_between_markers(path, "tables")
    assert path.read_text() == "mine"


def test_the_page_of_the_docs_has_the_markers_and_names_every_column() -> None:
    """Its tables can be written again, and a reader can look up what a column means."""
    page = (ROOT / "docs/quality.md").read_text()
    assert page.index(BEGIN) < page.index(END)
    columns = ("found", "recall", "oracle", "false alarms a week", "moments", "time %", "delay", "p90", "AP", "VUS-PR")
    assert [column for column in columns if f"**{column}**" not in page] == []
