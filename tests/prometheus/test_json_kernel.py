"""The compiled reader of numbers agrees with `float()` to the last bit, or says that it cannot decide."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foreshock.prometheus import json_kernel as kernel

GRAMMAR = re.compile(r"[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)|[+-]?NaN")


def read(text: str) -> tuple[float, int, int]:
    body = np.frombuffer(text.encode() + b'"\0', dtype=np.uint8)
    value, end, kind = kernel._number(body, 0)
    return float(value), int(end), int(kind)


def same(left: float, right: float) -> bool:
    return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))


any_float = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.builds(
    lambda digits, point, exponent: f"{digits[:point]}.{digits[point:]}0{exponent}",
    st.text("0123456789", min_size=1, max_size=30),
    st.integers(1, 30),
    st.sampled_from(["", "e0", "e5", "E-7", "e+22", "e-300", "e280"]),
)
halfway = st.floats(1e-30, 1e30).map(
    lambda value: _exact((Fraction(value) + Fraction(math.nextafter(value, 1e99))) / 2)
)


def _exact(value: Fraction) -> str:
    """All digits of a fraction whose denominator is a power of two."""
    digits = value.denominator.bit_length() - 1
    text = str(value.numerator * 5**digits).rjust(digits + 1, "0")
    return f"{text[: len(text) - digits]}.{text[len(text) - digits :]}0"


@settings(max_examples=1000)
@given(any_float.map(repr) | any_float.map("{:.17g}".format) | any_float.map("{:.3f}".format) | decimals | halfway)
@example("-0")
@example("9007199254740993")
@example("18446744073709551616")
@example("1e23")
@example("8.5e22")
@example("2.2250738585072011e-308")
@example("179769313486231570000e289")
def test_numbers_are_read_as_float_reads_them(text: str) -> None:
    """What is decided equals `float()` bit for bit, and nothing well-formed is refused."""
    value, end, kind = read(text)
    assert kind != kernel._MALFORMED
    assert end == len(text)
    assert kind == kernel._UNDECIDED or same(value, float(text))


@given(st.floats(1e-200, 1e200))
def test_what_prometheus_writes_is_decided_at_once(value: float) -> None:
    """The shortest digits of an everyday float never need `float()`, which would cost ten times as much."""
    assert read(repr(value))[2] == kernel._EXACT


@pytest.mark.parametrize(("text", "value"), [("NaN", math.nan), ("+Inf", math.inf), ("-Inf", -math.inf)])
def test_the_three_that_are_no_numbers(text: str, value: float) -> None:
    """NaN and the infinities are read as Prometheus spells them."""
    assert read(text)[2] == kernel._EXACT
    assert same(read(text)[0], value)


@given(st.text("+-.0123456789eEINaf_ x", max_size=12))
def test_what_float_would_tolerate_is_malformed(text: str) -> None:
    """Only the grammar of JSON numbers and the three words are read to the end; `1_0`, ` 1`, `inf` are not."""
    _, end, kind = read(text)
    is_read = kind != kernel._MALFORMED and end == len(text)
    assert is_read == (GRAMMAR.fullmatch(text) is not None)
