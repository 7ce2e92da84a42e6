"""Numbers are short, and never lie about their size."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.diagnosis import quantities
from foreshock.diagnosis.quantities import duration, number, quantity, unit_of


def test_the_examples_run() -> None:
    """Each example of a docstring gives what stands there."""
    assert doctest.testmod(quantities).failed == 0


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (0.1904, "seconds", "190 ms"),
        (1.9, "s", "1.9 s"),
        (0.0, "s", "0 s"),
        (0.05, "ratio", "5 %"),
        (6.5e8, "bytes", "620 MiB"),
        (0.0, "bytes", "0 B"),
        (812.4, "per_second", "812 /s"),
        (7.0, "replicas", "7 replicas"),
        (float("nan"), "ms", "no value"),
        (-3.25, "celsius", "-3.25 °C"),
    ],
)
def test_a_value_in_its_unit(value: float, hint: str, expected: str) -> None:
    """Units are the ones people use, and an unknown one is written as it was given."""
    assert quantity(value, hint) == expected


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("shop_http_request_latency_seconds", "s"),
        ("cpu_seconds_total", "s"),
        ("error_ratio", "ratio"),
        ("resident_memory_bytes", "B"),
        ("pool_wait_ms", "ms"),
        ("systems", ""),
        ("errors", ""),
        ("http_requests_total", ""),
    ],
)
def test_the_unit_of_a_name(metric: str, expected: str) -> None:
    """The unit is the last word of the name; a word that merely ends alike is none."""
    assert unit_of(metric) == expected


@given(st.floats(-1e18, 1e18))
def test_a_number_is_short_and_close(value: float) -> None:
    """What is written has at most ten characters and differs from the value by less than a percent."""
    text = number(value)
    scales = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    back = float(text.rstrip("kMGT").replace(",", "")) * scales.get(text[-1], 1.0)
    assert len(text) <= 10
    assert back == pytest.approx(value, rel=0.01, abs=1e-300)


@given(st.floats(0, 1e9))
def test_a_duration_has_a_number_and_a_unit(duration_s: float) -> None:
    """No stretch of time is written with more than four words, and one of a thing is singular."""
    words = duration(duration_s).split()
    assert len(words) in {2, 4}
    assert (words[0] == "1") <= (words[1] in {"second", "minute", "hour", "day", "h"})
