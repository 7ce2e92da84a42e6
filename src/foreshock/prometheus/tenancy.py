"""Restricts PromQL to the series of one namespace, on its syntax tree. No I/O.

Every selector gets the matcher `label="namespace"`, and the query is written anew from the tree: what a user has typed
(comments, three kinds of quotes, escapes) never reaches the server. What was written is then read and checked, so that
neither a fault of the printer nor a trick in a label can bring a selector in that lacks the matcher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import promql_parser as ast

from foreshock.core.errors import QueryRejected
from foreshock.prometheus.promql import MAX_QUERY_LENGTH, parse, selectors

_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_CODE = re.compile(r"[\w\s:+\-*/%^=!<>~,.@(){}\[\]]*", re.ASCII)  # all that PromQL is made of beside its strings
_PLAIN_NAME = re.compile(r"[^\"\\\x00-\x1f\x7f]+")
_SIGNS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def confine(query: str, label: str, namespace: str) -> str:
    """The query that reads of `query`'s series only those with `label` = `namespace`.

    On a server that holds nothing but these series it answers as `query` does, absent() aside, whose result names the
    matchers. To confine twice is to confine once.

    Raises:
        QueryRejected: the query asks for other namespaces by name, or holds what cannot be confined.
    """
    tree = parse(query)
    for selector in selectors(tree):
        _refuse_others(selector, label, namespace)
    if _reads_by_itself(tree):
        raise QueryRejected("info() reads series that no selector names, which cannot be restricted; join them instead")
    text = _on_one_line(ast.transform(tree, lambda node: _confined(node, label, namespace)).prettify())
    if len(text) > MAX_QUERY_LENGTH:
        raise QueryRejected(
            f'with {label}="{namespace}" in each selector the query has {len(text)} characters; '
            f"{MAX_QUERY_LENGTH} are allowed"
        )
    if namespace_of(text, label) not in {namespace, None}:
        raise QueryRejected(f'the query cannot be restricted to {label}="{namespace}"; write it in a simpler way')
    return text


@lru_cache(maxsize=4096)
def namespace_of(query: str, label: str) -> str | None:
    """The one namespace whose series a query can read; None where it reads no series at all, as `vector(1)`.

    Raises:
        QueryRejected: a selector without `label="…"`, or with another value than the others, could read more.
    """
    tree = parse(query)
    found: set[str | None] = set()
    for selector in selectors(tree):
        own = [each for each in selector.matchers.matchers if each.name == label and each.op == ast.MatchOp.Equal]
        found.add(own[0].value if own and not selector.matchers.or_matchers else None)
    if None in found or "" in found or len(found) > 1 or _reads_by_itself(tree) or not _is_plain(query):
        raise QueryRejected(f"the query is not restricted to one {label}; it is not sent")
    return found.pop() if found else None


def _confined(node: ast.Expr, label: str, namespace: str) -> ast.Expr | None:
    """What takes the place of a node: a selector with the matcher, or None for everything else, which stays."""
    if not isinstance(node, ast.VectorSelector):
        return None
    written = [each for each in node.matchers.matchers if (each.name, each.op) != (label, ast.MatchOp.Equal)]
    matchers = [*written, ast.Matcher(ast.MatchOp.Equal, label, namespace)]
    confined = ast.parse((node.name or "") + _braces(matchers) + _moved(node))
    is_as_meant = isinstance(confined, ast.VectorSelector) and _facts(confined, confined.matchers.matchers) == _facts(
        node, matchers
    )
    if not is_as_meant:
        raise QueryRejected(f"the selector {node.prettify()[:200]} cannot be restricted; write it in a simpler way")
    return confined


def _braces(matchers: Sequence[ast.Matcher]) -> str:
    return "{" + ",".join(f"{_name(m.name)}{_SIGNS[str(m.op)]}{_quoted(m.value)}" for m in matchers) + "}"


def _name(name: str) -> str:
    return name if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) else _quoted(name)


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _moved(node: ast.VectorSelector) -> str:
    """`@` and `offset` of a selector, as they were written."""
    at = f" {node.at}" if node.at is not None else ""
    if node.offset is None:
        return at
    sign = "-" if node.offset.total_seconds() < 0 else ""
    return f"{at} offset {sign}{ast.display_duration(abs(node.offset))}"


def _facts(node: ast.VectorSelector, matchers: Sequence[ast.Matcher]) -> object:
    """All that a selector says, as values that compare."""
    return node.name, [(m.name, str(m.op), m.value) for m in matchers], str(node.at), node.offset


def _refuse_others(selector: ast.VectorSelector, label: str, namespace: str) -> None:
    for matcher in selector.matchers.matchers:
        is_other = matcher.op == ast.MatchOp.Equal and matcher.value != namespace
        if matcher.name == label and (is_other or (matcher.op == ast.MatchOp.NotEqual and matcher.value == namespace)):
            raise QueryRejected(
                f"the query asks for {str(matcher)[:200]}, and detectors of the namespace {namespace} read only "
                f'{label}="{namespace}"; remove that matcher'
            )
        if _PLAIN_NAME.fullmatch(matcher.name) is None:
            raise QueryRejected("the query names a label with quotes, backslashes or control characters; remove it")
    if selector.matchers.or_matchers:
        raise QueryRejected("the query has `or` inside braces, which cannot be restricted; write two selectors")


def _reads_by_itself(tree: ast.Expr) -> bool:
    """Whether a function reads series that no selector names: info() looks target_info up by itself."""
    called: list[str] = []

    def visit(node: ast.Expr) -> None:
        if isinstance(node, ast.Call):
            called.append(node.func.name)

    ast.walk(tree, visit)
    return "info" in called


def _is_plain(text: str) -> bool:
    """Whether every reader finds the same strings in the text: no comment, no raw or single-quoted string."""
    return _CODE.fullmatch(_STRING.sub("", text)) is not None


def _on_one_line(text: str) -> str:
    """Without the line breaks of the printer: inside strings there is none, they are escaped."""
    return re.sub(r"\s*\n\s*", " ", text).strip()
