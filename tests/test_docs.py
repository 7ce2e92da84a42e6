"""The documentation says what the code says: each list of it is walked."""

from __future__ import annotations

import re
from pathlib import Path

from foreshock.manifests.conditions import REASONS

DOCS = Path(__file__).parents[1] / "docs"
TITLE = re.compile(r"(?m)^## (\w+)$")


def test_every_condition_and_every_reason_is_documented_with_its_meaning() -> None:
    """The page has the sections and rows of the closed lists, in their order and with their words."""
    text = (DOCS / "conditions.md").read_text()
    _, *sections = TITLE.split(text)
    shown = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(shown) == [str(kind) for kind in REASONS]
    for kind, reasons in REASONS.items():
        rows = re.findall(r"(?m)^\| `(\w+)` \| (.*) \|$", shown[kind])
        assert dict(rows) == {str(reason): meaning for reason, meaning in reasons.items()}, kind


def test_every_decision_is_in_the_index() -> None:
    """Under its own title."""
    index = (DOCS / "decisions/README.md").read_text()
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    titles = [(page.read_text().splitlines()[0].removeprefix("# "), page.name) for page in pages]
    assert re.findall(r"(?m)^- \[(.*)\]\((.*)\)$", index) == titles


def test_links_between_pages_lead_somewhere() -> None:
    """A page that was renamed is found here."""
    root = DOCS.parent
    pages = [*root.glob("*.md"), *DOCS.rglob("*.md"), *(root / "tools").rglob("*.md")]
    broken = [
        f"{page.relative_to(root)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_fixtures_of_the_development_page_exist() -> None:
    """Each name in its table is one that a test may ask for."""
    table = re.findall(r"(?m)^\| `(.*?)` ?\|.*\| `(\w+)\(", (DOCS / "development.md").read_text())
    servers = "".join(file.read_text() for file in (DOCS.parent / "tests/servers").glob("*.py"))
    names = [name for row in table for name in (row[0].split("`, `")[0], row[1])]
    assert len(names) >= 6
    assert [name for name in names if f"def {name}(" not in servers and f"class {name}" not in servers] == []
