"""One page with every table and figure, readable without a network and without a script."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.quality import figures, text
from bench.quality.collect import Results
from bench.quality.nab_published import DEVELOPMENT_FILES, PUBLISHED
from bench.quality.summary import Summary
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyod", "river", "prophet")


def page(results: Results) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    headline = [row for row in results.summaries if row.budget == results.budget.text]
    names = list(dict.fromkeys(row.dataset for row in sorted(headline, key=text.place)))
    return environment.get_template("report.html.j2").render(
        budget=results.budget.text,
        versions=", ".join([f"Python {platform.python_version()}", *map(_version, _LIBRARIES)]),
        datasets=[_dataset(results, [row for row in headline if row.dataset == name]) for name in names],
        nab=results.nab,
        published=PUBLISHED if results.nab and results.nab[0].files == DEVELOPMENT_FILES else (),
        throttle=results.throttle,
        honesty=results.honesty,
        honesty_figure=Markup(figures.budgets(results.honesty)),
        row_name=text.row_name,
        number=text.number,
        duration=text.duration,
    )


def _dataset(results: Results, rows: list[Summary]) -> dict[str, object]:
    name = rows[0].dataset
    strip = [
        row for row in results.rows
        if (row["dataset"], row["detector"], row["budget"]) == (name, "foreshock", results.budget.text)
        and row["mode"] == "adapt"
    ]  # fmt: skip
    return {
        "name": name,
        "title": text.TITLES[name],
        "scope": text.scope(results.scopes[name]),
        "whole": results.scopes[name],
        "blocks": [(mode, block) for (_, mode, _), block in text.blocks(rows).items()],
        "refused": [row for row in rows if row.refused],
        "scatter": Markup(figures.scatter(rows)),
        "strips": Markup(figures.strips(strip)) if strip else "",
    }


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} not installed"
