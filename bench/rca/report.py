"""The figures as markdown, and where they stand in a page of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.rca import published
from bench.rca.measure import Outcome

FEW_CAUSES = 4
BEGIN, END = "<!-- root causes: begin -->", "<!-- root causes: end -->"
_COLUMNS = (
    "dataset", "incidents", "detected", "hit@1", "hit@3", "along calls @1", "@3", "alert names it",
    "guess @1", "@3", "random @1", "@3",
)  # fmt: skip


def report(found: Sequence[Outcome]) -> str:
    """Both tables: ours, and what others published."""
    return f"{table(found)}\n{published.markdown()}"


def table(found: Sequence[Outcome]) -> str:
    """One line for each dataset and way: the headline, then its kinds of fault."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"| --- |{' --: |' * (len(_COLUMNS) - 1)}"]
    for dataset, way in dict.fromkeys((one.dataset, one.way) for one in found):
        every = [one for one in found if (one.dataset, one.way) == (dataset, way)]
        title = f"{dataset}, {way}"
        few = [one for one in every if one.n_causes <= FEW_CAUSES]
        if len(few) < len(every):
            lines.append(_line(f"{title}, at most {FEW_CAUSES} causes", few))
        lines.append(_line(title, every))
        kinds = sorted({one.kind for one in every if one.kind})
        lines += [_line(f"- {kind}", [one for one in every if one.kind == kind]) for kind in kinds]
    return "\n".join(lines) + "\n"


def write_into(page: Path, text: str) -> None:
    """Put the figures between the markers of a page.

    Raises:
        ValueError: the page has no markers.

    """
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no line {BEGIN} with {END} after it: write both where the figures belong.")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _line(title: str, some: Sequence[Outcome]) -> str:
    n = len(some)
    if not n:
        return f"| {title} | 0 |" + " |" * (len(_COLUMNS) - 2)
    figures = [
        sum(one.detected for one in some) / n,
        *_hits([one.place for one in some]),
        *_hits([one.place_with_calls for one in some]),
        None if some[0].named_by_alert is None else sum(one.alert_is_right for one in some) / n,
        *_hits([one.place_of_guess for one in some]),
        sum(one.chance_at_1 for one in some) / n,
        sum(one.chance_at_3 for one in some) / n,
    ]
    return f"| {title} | {n} | {' | '.join('' if each is None else f'{each:.2f}' for each in figures)} |"


def _hits(places: Sequence[int]) -> tuple[float | None, float | None]:
    if not any(places):
        return None, None  # there is no such ranking
    return sum(place <= 1 for place in places) / len(places), sum(place <= 3 for place in places) / len(places)
