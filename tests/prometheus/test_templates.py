"""Queries that may share one are found, and nobody loses or gains a member by it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from foreshock.prometheus.templates import MAX_ALTERNATION_LENGTH, MAX_VALUES, Member, SharedQuery, plan_queries


def test_a_fleet_of_one_template_needs_few_queries() -> None:
    """A thousand queries that differ in one value become five of two hundred values each."""
    queries = [f'sum(rate(x{{job="service-{i}"}}[5m])) / sum(rate(y{{job="service-{i}"}}[5m]))' for i in range(1000)]
    planned = plan_queries(queries)
    assert [len(shared.members) for shared in planned] == [MAX_VALUES] * 5
    assert planned[0].members[1] == Member(1, "job", "service-1", strip_label=True)
    assert planned[0].query.startswith('(sum by (job) (rate(x{job=~"service-0|service-1|')


def test_identical_queries_share_to_the_letter() -> None:
    """Equal texts are asked once, as they were written."""
    query = 'topk(3,  x{job="a"} )'
    assert plan_queries([query, "y", query]) == (
        SharedQuery(query, (Member(0), Member(2))),
        SharedQuery("y", (Member(1),)),
    )


def test_identical_queries_share_a_place_in_a_merged_one() -> None:
    """Members with one value all name it."""
    planned = plan_queries(['x{a="1"}', 'x{a="2"}', 'x{a="1"}'])
    assert [shared.query for shared in planned] == ['x{a=~"1|2"}']
    assert planned[0].members == (Member(0, "a", "1"), Member(2, "a", "1"), Member(1, "a", "2"))


def test_values_are_literal_in_the_regular_expression() -> None:
    """Metacharacters of RE2 and quotes are escaped twice: for the expression and for the string."""
    planned = plan_queries(["x{a='1.5'}", "x{a='(b)'}", "x{a='\"'}", "x{a='c d-e'}"])
    assert [shared.query for shared in planned] == ['x{a=~"1\\\\.5|\\\\(b\\\\)|\\"|c d-e"}']


def test_an_empty_value_and_escapes_are_never_merged() -> None:
    """`a=""` also matches series without the label; what an escape means is left to Prometheus."""
    queries = ['x{a=""}', 'x{a="b"}', 'x{a="\\n"}', 'x{a="\\\\"}', "x{a=`c`}"]
    assert [shared.query for shared in plan_queries(queries)] == queries


def test_a_label_with_two_values_in_one_query_is_fixed() -> None:
    """Where one query uses two values of a label, another label may still differ."""
    queries = [f'x{{job="a",zone="{zone}"}} / on (zone) y{{job="b",zone="{zone}"}}' for zone in "123"]
    planned = plan_queries(queries)
    assert len(planned) == 1
    assert {member.label for member in planned[0].members} == {"zone"}


def test_the_label_that_merges_most_is_chosen() -> None:
    """Three namespaces with five jobs each are three queries, not five."""
    queries = [f'x{{namespace="{namespace}",job="{job}"}}' for namespace in "abc" for job in "12345"]
    assert [len(shared.members) for shared in plan_queries(queries)] == [5, 5, 5]


def test_strings_and_comments_are_no_matchers() -> None:
    """What looks like a matcher inside a string or a comment is text."""
    queries = [f'x{{a=~"job=\'{i}\'"}} # job="{i}"' for i in range(3)]
    assert [shared.query for shared in plan_queries(queries)] == queries


def test_malformed_queries_stay_as_they_are() -> None:
    """Planning never fails: Prometheus has the last word on each text."""
    queries = ['sum(x{job="a"}', 'sum(x{job="b"}', "", "("]
    assert [shared.query for shared in plan_queries(queries)] == queries


def test_long_values_are_asked_in_several_queries() -> None:
    """The alternation of one query is bounded in length as well as in number."""
    queries = [f'x{{a="{i:0>1000}"}}' for i in range(40)] + [f'x{{a="{"9" * 20_000}"}}']
    planned = plan_queries(queries)
    assert len(planned) == 4
    assert planned[-1].query == queries[-1]
    assert all(len(shared.query) <= MAX_ALTERNATION_LENGTH + 100 for shared in planned[:-1])


@given(
    st.lists(
        st.sampled_from(['x{a="1"}', 'x{a="2"}', 'sum(x{a="1",b="2"})', 'sum(x{a="1",b="3"})', "y", "("]) | st.text()
    )
)
def test_every_query_is_answered_once(queries: list[str]) -> None:
    """Each index is a member of exactly one planned query, whatever the texts are."""
    members = Counter(member.index for shared in plan_queries(queries) for member in shared.members)
    assert members == Counter(range(len(queries)))
