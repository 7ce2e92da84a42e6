"""Queries lie on the grid of their step, and pieces of one ask for exactly the same instants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.prometheus.requests import InstantQuery, RangeQuery, now_form, split


def instants(query: RangeQuery) -> list[int]:
    return list(range(query.start_s, query.end_s + 1, query.step_s))


@given(st.integers(0, 2_000_000_000), st.integers(0, 30_000), st.integers(1, 3600), st.integers(1, 12_000))
def test_pieces_ask_for_the_same_instants(start_s: int, n_steps: int, step_s: int, max_points: int) -> None:
    """Every instant is asked for once, in order, and no piece is longer than allowed."""
    query = RangeQuery("x", start_s, start_s + n_steps * step_s, step_s)
    pieces = split(query, max_points)
    assert [instant for piece in pieces for instant in instants(piece)] == instants(query)
    assert all(piece.n_times <= max_points for piece in pieces)
    assert len(pieces) == -(-query.n_times // max_points)


@given(st.floats(0, 2e9), st.floats(0, 1e6), st.integers(1, 3600))
def test_alignment_keeps_to_the_range(from_s: float, length_s: float, step_s: int) -> None:
    """The rows are all multiples of the step that lie in the range, and no others."""
    try:
        query = RangeQuery.aligned("x", from_s, from_s + length_s, step_s)
    except ValueError:
        assert length_s < step_s
        return
    assert query.start_s % step_s == query.end_s % step_s == 0
    assert query.start_s - step_s < from_s <= query.start_s
    assert query.end_s <= from_s + length_s < query.end_s + step_s


@pytest.mark.parametrize(("start_s", "end_s", "step_s"), [(0, 10, 0), (10, 0, 5), (0, 9, 5)])
def test_a_range_is_a_whole_number_of_steps(start_s: int, end_s: int, step_s: int) -> None:
    """No range ends between two steps or before it starts."""
    with pytest.raises(ValueError, match="whole number of steps"):
        RangeQuery("x", start_s, end_s, step_s)


def test_the_server_is_told_our_timeout() -> None:
    """Each form carries `timeout`, so that the server stops when we do."""
    assert RangeQuery("x", 60, 120, 60).form(2.5) == {
        "query": "x", "start": "60", "end": "120", "step": "60", "timeout": "2500ms",
    }  # fmt: skip
    assert InstantQuery("x", 60).form(30) == {"query": "x", "time": "60", "timeout": "30000ms"}
    assert now_form(0.0001) == {"query": "time()", "timeout": "1ms"}
