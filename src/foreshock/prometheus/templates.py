"""One query serves all who differ in one label's value: which queries share, and how the shared one reads. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from foreshock.prometheus.merging import PLACEHOLDER, Merged, merge
from foreshock.prometheus.promql import check_query

__all__ = ["Member", "SharedQuery", "check_query", "plan_queries"]

MAX_VALUES = 200
MAX_ALTERNATION_LENGTH = 16_384
"""An alternation of long values costs the server more to compile than a second query does."""

_MATCHER = re.compile(
    r"""\#[^\n]* | (?P<label>[A-Za-z_]\w*)\s*=\s*(?P<quote>["'])(?P<value>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)
    | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Member:
    """Whose answer it is: `queries[index]` of those that were planned.

    Where the query is shared, its series are those with `label` = `value`; `strip_label` says that the query alone
    would return them without that label.
    """

    index: int
    label: str | None = None
    value: str | None = None
    strip_label: bool = False


@dataclass(frozen=True, slots=True)
class SharedQuery:
    """One query to ask; should Prometheus refuse a merged one, ask its members' own queries instead.

    One member that is beyond the server's limits, or matches many-to-many, would take the others with it.
    """

    query: str
    members: tuple[Member, ...]

    @property
    def is_merged(self) -> bool:
        return self.members[0].label is not None


@dataclass(frozen=True, slots=True)
class _Template:
    """A query text with `PLACEHOLDER` for the value of every equality matcher on `label`."""

    label: str
    text: str


def plan_queries(queries: Sequence[str]) -> tuple[SharedQuery, ...]:
    """The fewest queries found that answer all of `queries`, each member with exactly what it would get alone.

    Equal texts share one query. Texts that differ only in the value of one label share one that asks for up to
    `MAX_VALUES` values, where `merging` proves that nothing changes. All others stay as they are, to the letter.
    """
    indices: dict[str, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        indices[query].append(index)
    planned = [shared for group in _groups(list(indices)) for shared in _merged(group, indices)]
    taken = {member.index for shared in planned for member in shared.members}
    planned += [
        SharedQuery(query, tuple(map(Member, places))) for query, places in indices.items() if places[0] not in taken
    ]
    return tuple(sorted(planned, key=lambda shared: shared.members[0].index))


@dataclass(frozen=True, slots=True)
class _Group:
    label: str
    merged: Merged
    values: Mapping[str, str]  # by query text


def _groups(queries: list[str]) -> Iterator[_Group]:
    """Largest first, each query in at most one: a query with three labels might belong to three."""
    values: dict[_Template, dict[str, str]] = defaultdict(dict)
    for query in queries:
        for template, value in _templates(query):
            values[template][query] = value
    taken: set[str] = set()
    for template, of_template in sorted(values.items(), key=lambda item: -len(item[1])):
        free = {query: value for query, value in of_template.items() if query not in taken}
        if len(free) < 2:
            continue
        if (merged := _proved(template.text, template.label)) is not None:
            taken.update(free)
            yield _Group(template.label, merged, free)


def _merged(group: _Group, indices: Mapping[str, list[int]]) -> Iterator[SharedQuery]:
    label, merged = group.label, group.merged
    for chunk in _chunks(group.values):
        if len(chunk) == 1:
            query = chunk[0]
            yield SharedQuery(query, tuple(map(Member, indices[query])))
            continue
        alternation = "|".join(_escaped(group.values[query]) for query in chunk)
        members = [
            Member(index, label, group.values[query], merged.strip_label) for query in chunk for index in indices[query]
        ]
        yield SharedQuery(merged.text.replace(PLACEHOLDER, alternation), tuple(members))


def _chunks(values: Mapping[str, str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    length = 0
    for query, value in values.items():
        added = len(_escaped(value)) + 1
        if chunk and (len(chunk) == MAX_VALUES or length + added > MAX_ALTERNATION_LENGTH):
            yield chunk
            chunk, length = [], 0
        chunk.append(query)
        length += added
    if chunk:
        yield chunk


def _templates(query: str) -> Iterator[tuple[_Template, str]]:
    """Each label that has one and the same value wherever the query tests it for equality, with that value.

    Found by text, since parsing a thousand queries of one template takes a hundred times as long; that the matches
    are what they seem to be is proved once a template.
    """
    found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for match in _MATCHER.finditer(query):
        if match["label"] is not None:
            found[match["label"]].append((*match.span("value"), match["value"]))
    for label, places in found.items():
        value = places[0][2]
        if any(other != value for _, _, other in places) or not _is_plain(value):
            continue
        text, end = "", 0
        for start, stop, _ in places:
            text += query[end:start] + PLACEHOLDER
            end = stop
        if text.count(PLACEHOLDER) == len(places):
            yield _Template(label, text + query[end:]), value


def _is_plain(value: str) -> bool:
    """Not empty, which would also match series without the label; and without escapes, where readers might differ."""
    return value.isprintable() and value != "" and "\\" not in value and PLACEHOLDER not in value


def _escaped(value: str) -> str:
    """The value as one alternative of an anchored RE2 expression, inside a double-quoted PromQL string."""
    return re.sub(r"[.+*?()|\[\]{}^$]", r"\\\\\g<0>", value).replace('"', '\\"')


@lru_cache(maxsize=4096)
def _proved(template: str, label: str) -> Merged | None:
    return merge(template, label)
