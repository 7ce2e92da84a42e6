"""Reads PromQL with `promql_parser`, and says in one sentence what is wrong with a query. No I/O."""

from __future__ import annotations

import re

import promql_parser as ast

from foreshock.core.errors import QueryRejected

MAX_QUERY_LENGTH = 16_384
MAX_NESTING = 250
"""The parser recurses: some thousand levels overflow its stack, and with it the process. No human query has 250."""

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*) | "(?:\\.|[^"\\])*" | (?P<single>'(?:\\.|[^'\\])*') | (?P<raw>`[^`]*`)
    | (?P<opening>[(\[{+\-*/%^<>=!] | \b(?:and|or|unless|atan2)\b)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

# Prometheus 3 renamed it, Prometheus 2 still has it, and the parser knows only the new name.
_HOLT_WINTERS = ast.Function(
    "holt_winters",
    [ast.ValueType.Matrix, ast.ValueType.Scalar, ast.ValueType.Scalar],
    ast.ValueType.Vector,
)
ast.clear_extra_functions()
ast.register_extra_functions([_HOLT_WINTERS])


def check_query(query: str) -> None:
    """Return where the query is PromQL that yields an instant vector or a scalar; whether it is wise, Prometheus says.

    Raises:
        QueryRejected: it is no PromQL, or yields a range vector or a string, or is beyond every reasonable size.
    """
    kind = _kind(parse(query))
    if kind == ast.ValueType.Matrix:
        raise QueryRejected("the query returns a range vector; wrap it in a function such as rate() or avg_over_time()")
    if kind == ast.ValueType.String:
        raise QueryRejected("the query returns a string; write one that returns an instant vector or a scalar")


def parse(query: str) -> ast.Expr:
    """The syntax tree of a query.

    Raises:
        QueryRejected: it is no PromQL, or is beyond every reasonable size.
    """
    if len(query) > MAX_QUERY_LENGTH:
        raise QueryRejected(f"the query has {len(query)} characters; {MAX_QUERY_LENGTH} are allowed")
    if sum(match["opening"] is not None for match in _TOKEN.finditer(query)) > MAX_NESTING:
        raise QueryRejected(f"the query has more than {MAX_NESTING} brackets and operators; split it")
    try:
        return ast.parse(_TOKEN.sub(_double_quoted, query))
    except ValueError as error:
        words = " ".join(str(error).split())[:300]
        raise QueryRejected(f"the query is no valid PromQL: {words}") from error


def selectors(expression: ast.Expr) -> tuple[ast.VectorSelector, ...]:
    """Every selector of a query, wherever it stands; what none of them selects, the query does not read."""
    found: list[ast.VectorSelector] = []

    def visit(node: ast.Expr) -> None:
        if isinstance(node, ast.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, ast.VectorSelector):
            found.append(node)

    ast.walk(expression, visit)
    return tuple(found)


def _double_quoted(token: re.Match[str]) -> str:
    """The token in double quotes, by whose rules the parser reads the other two kinds of strings as well, wrongly."""
    if (raw := token["raw"]) is not None:
        escaped = raw[1:-1].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if (single := token["single"]) is not None:
        inner = re.sub(r"\\.|\"", lambda part: {"\\'": "'", '"': '\\"'}.get(part[0], part[0]), single[1:-1])
        return f'"{inner}"'
    return token[0]


def _kind(expression: ast.Expr) -> ast.ValueType:
    kind: ast.ValueType = ast.ValueType.Vector
    match expression:
        case ast.ParenExpr() | ast.UnaryExpr():
            kind = _kind(expression.expr)
        case ast.MatrixSelector() | ast.SubqueryExpr():
            kind = ast.ValueType.Matrix
        case ast.StringLiteral():
            kind = ast.ValueType.String
        case ast.Call():
            kind = expression.func.return_type
    return kind
