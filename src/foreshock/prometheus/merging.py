"""Proves that queries which differ in one label's value can be asked as one, and writes that one. No I/O.

Let E(v) be the query for the value v of label L, and M the merged query, in which each `L="v"` has become
`L=~"a|b|..."` and each grouping keeps L. By induction over the expression, at every instant and for each v of the list:
the elements of M with L = v are the elements of E(v), with equal values. A case that the induction does not cover is
no proof, and its queries are asked one by one. The only difference is in errors: what makes E(v) fail makes M fail for
all, so whoever asks M falls back to the members when it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import promql_parser as ast

from foreshock.core.errors import QueryRejected
from foreshock.prometheus.promql import parse

PLACEHOLDER = "\ue000"
"""Stands for the value in a template; a private character, so that no value equals it."""

_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar"}
_ARITHMETIC = {"+", "-", "*", "/", "%", "^", "atan2"}
_COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
# Each result element comes from the one argument element with the same labels (but for the metric's name).
_ELEMENTWISE = {
    *("rate", "irate", "increase", "delta", "idelta", "deriv", "predict_linear", "changes", "resets"),
    *("avg_over_time", "min_over_time", "max_over_time", "sum_over_time", "count_over_time", "quantile_over_time"),
    *("stddev_over_time", "stdvar_over_time", "last_over_time", "present_over_time"),
    *("abs", "ceil", "floor", "round", "clamp", "clamp_min", "clamp_max", "exp", "ln", "log2", "log10", "sqrt", "sgn"),
}
_CONSTANT_CALLS = {"time", "pi"}


@dataclass(frozen=True, slots=True)
class Merged:
    """`text` asks for all values where `PLACEHOLDER` is replaced by their alternation.

    `strip_label`: the single query's elements have no label L; in the merged answer it only says whose they are.
    """

    text: str
    strip_label: bool


class _NotProvedError(Exception):
    """The induction has no case for this expression."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A subexpression of M, and what E(v) has in its place: a constant, or elements with or without label L."""

    text: str
    has_label: bool | None  # None: a constant, the same for every v


def merge(template: str, label: str) -> Merged | None:
    """The query for all values of `label` at once, or None where that is not proved to be the same.

    `template` holds `PLACEHOLDER` as the value of each equality matcher on `label`.
    """
    if label == "__name__":
        return None  # most functions drop it
    try:
        part = _Proof(label).part(parse(template))
    except (_NotProvedError, QueryRejected):
        return None
    return None if part.has_label is None else Merged(part.text, not part.has_label)


class _Proof:
    def __init__(self, label: str) -> None:
        self._label = label

    def part(self, node: ast.Expr) -> _Part:  # noqa: PLR0911 - one line for each kind of node
        match node:
            case ast.NumberLiteral():
                return _Part(node.prettify(), None)
            case ast.ParenExpr():
                inner = self.part(node.expr)
                return _Part(f"({inner.text})", inner.has_label)
            case ast.UnaryExpr():
                inner = self.part(node.expr)
                return _Part(f"-({inner.text})", inner.has_label)
            case ast.VectorSelector():
                return self._selector(node, node.prettify())
            case ast.MatrixSelector():
                return self._selector(node.vector_selector, node.prettify())
            case ast.SubqueryExpr():
                return self._subquery(node)
            case ast.AggregateExpr():
                return self._aggregation(node)
            case ast.Call():
                return self._call(node)
            case ast.BinaryExpr():
                return self._binary(node)
            case _:
                raise _NotProvedError

    def _selector(self, node: ast.VectorSelector, text: str) -> _Part:
        """`x{L="v"}` are exactly the elements of `x{L=~"a|v|..."}` with L = v, since v is not empty."""
        own = [matcher for matcher in node.matchers.matchers if matcher.name == self._label]
        if len(own) != 1 or own[0].op != ast.MatchOp.Equal or own[0].value != PLACEHOLDER:
            raise _NotProvedError
        single = f'{self._label}="{PLACEHOLDER}"'
        if node.at is not None or node.matchers.or_matchers or text.count(single) != 1:
            raise _NotProvedError
        return _Part(text.replace(single, f'{self._label}=~"{PLACEHOLDER}"'), has_label=True)

    def _subquery(self, node: ast.SubqueryExpr) -> _Part:
        inner = self.part(node.expr)
        if node.at is not None or inner.has_label is None or node.range is None:
            raise _NotProvedError
        step = ast.display_duration(node.step) if node.step is not None else ""
        text = f"({inner.text})[{ast.display_duration(node.range)}:{step}]"
        if node.offset is not None:
            is_later = node.offset.total_seconds() < 0
            text += f" offset {'-' if is_later else ''}{ast.display_duration(abs(node.offset))}"
        return _Part(text, inner.has_label)

    def _aggregation(self, node: ast.AggregateExpr) -> _Part:
        """Grouping by L as well splits M's groups into those of each E(v); E(v) had no L, unless it grouped by it."""
        inner, modifier = self.part(node.expr), node.modifier
        if str(node.op) not in _AGGREGATIONS or node.param is not None or inner.has_label is None:
            raise _NotProvedError
        if modifier is not None and modifier.type != ast.AggModifierType.By:
            raise _NotProvedError
        labels = list(modifier.labels) if modifier is not None else []
        keeps_label = inner.has_label and self._label in labels
        return _Part(f"{node.op} by ({_list(labels, self._label)}) ({inner.text})", keeps_label)

    def _call(self, node: ast.Call) -> _Part:
        name = node.func.name
        parts = [self.part(argument) for argument in node.args]
        text = f"{name}({', '.join(part.text for part in parts)})"
        vectors = [part for part in parts if part.has_label is not None]
        if name in _CONSTANT_CALLS and not parts:
            return _Part(text, None)
        # Buckets of different values of L stay apart by L, unless L itself tells buckets apart
        is_safe = name in _ELEMENTWISE or (name == "histogram_quantile" and self._label != "le")
        if not is_safe or len(vectors) != 1:
            raise _NotProvedError
        return _Part(text, vectors[0].has_label)

    def _binary(self, node: ast.BinaryExpr) -> _Part:
        operator, modifier = str(node.op), node.modifier
        is_bool = modifier is not None and modifier.return_bool
        if operator not in _ARITHMETIC and not (operator in _COMPARISONS and is_bool):
            raise _NotProvedError
        left, right = self.part(node.lhs), self.part(node.rhs)
        written = f"{operator} bool" if is_bool else operator
        if left.has_label is None or right.has_label is None:
            has_label = right.has_label if left.has_label is None else left.has_label
        else:
            matching, has_label = self._matching(modifier, is_left=left.has_label, is_right=right.has_label)
            written += matching
        return _Part(f"({left.text}) {written} ({right.text})", has_label)

    def _matching(self, modifier: ast.BinModifier | None, *, is_left: bool, is_right: bool) -> tuple[str, bool]:
        """How M matches so that only elements with the same v meet; and whether E(v)'s result has L."""
        if modifier is not None:
            fill = modifier.fill_values
            if modifier.card != ast.VectorMatchCardinality.OneToOne or fill.lhs is not None or fill.rhs is not None:
                raise _NotProvedError
        matching = modifier.matching if modifier is not None else None
        labels = list(matching.labels) if matching is not None else []
        if matching is not None and matching.type == ast.LabelModifierType.Include:
            if self._label not in labels:  # E(v) matches without looking at L, and drops it
                return f" on ({_list(labels, self._label)})", False
        elif self._label in labels:
            raise _NotProvedError
        # Here E(v) compares L as well: where one side has it and the other has not, E(v) is empty and M is not
        if is_left != is_right:
            raise _NotProvedError
        if matching is None:
            return "", is_left
        kind = "on" if matching.type == ast.LabelModifierType.Include else "ignoring"
        return f" {kind} ({', '.join(labels)})", is_left


def _list(labels: list[str], label: str) -> str:
    return ", ".join(dict.fromkeys([*labels, label]))
