"""Queries are refused with one sentence before Prometheus is asked, and valid ones are not."""

from __future__ import annotations

import pytest

from foreshock.core.errors import QueryRejected
from foreshock.prometheus.promql import check_query, parse


@pytest.mark.parametrize(
    "query",
    [
        'sum(rate(http_requests_total{job="payment-api"}[15m]))',
        "1",
        "time() - max(x)",
        "-(x)",
        'x{a=~`5\\d\\d`, b=\'it\\\'s "so"\', c="\\u00e9"}',
        "holt_winters(x[1h], 0.3, 0.3)",
        "rate(x[5m] offset -1h) # a comment with ' and (((",
        "max_over_time(sum(rate(x[1m]))[5m:1m])",
        "count by (a) (x) > bool 3 and on () vector(1)",
    ],
)  # fmt: skip
def test_valid_queries_pass(query: str) -> None:
    """Raw strings, both kinds of quotes, comments and functions of two Prometheus versions are understood."""
    check_query(query)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(", "no valid PromQL"),
        ("", "no valid PromQL"),
        ('x{a="b"', "no valid PromQL"),
        ("rate(x)", "expected type matrix"),
        ("rat(x[5m])", "unknown function"),
        ('x{a=~"[["}', "illegal regex"),
        ("x[5m]", "range vector; wrap it"),
        ("(x)[5m:1m]", "range vector"),
        ('"text"', "returns a string"),
        ("x" * 20_000, "20000 characters"),
        ("(" * 5000 + "x" + ")" * 5000, "brackets and operators"),
        ("-" * 10_000 + "x", "brackets and operators"),
        (" or ".join(["x"] * 300), "brackets and operators"),
        ("2^" * 5000 + "x", "brackets and operators"),
    ],
)
def test_invalid_queries_have_a_sentence(query: str, words: str) -> None:
    """Malformed queries, those of another type, and those that would crash the parser: one line each."""
    with pytest.raises(QueryRejected, match=words) as caught:
        check_query(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("literal", "value"),
    [("`a\\d\"'`", "a\\d\"'"), ("'it\\'s'", "it's"), ("'\"'", '"'), ("'a\\\\'", "a\\"), ('"\\x41\\n"', "A\n")],
)
def test_each_kind_of_string_has_its_value(literal: str, value: str) -> None:
    """Raw, single and double quoted strings mean what Prometheus says they mean."""
    assert parse(f"x{{a={literal}}}").matchers.matchers[0].value == value  # type: ignore[attr-defined]
