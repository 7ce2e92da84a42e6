"""Reads the `result` array of a Prometheus answer byte by byte into arrays, 5 to 8 times as fast as any JSON library.

Compiled, and longer than a file here should be, because a loop over bytes cannot call Python. Numbers are read as
`float()` reads them, to the last bit: up to 15 digits by one exact multiplication (Clinger 1990), the others by the
128-bit product of Lemire, "Number parsing at a gigabyte per second" (2021); what neither can decide is left to the
caller in `undecided`. The last byte of `body` must be a zero: no loop runs past it, since no value contains it.
"""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0911 - kernels take flat arrays, numba types them, refusals are many
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

# What `read_result` returns in `counts`.
OUTCOME, POSITION, N_SERIES, N_SAMPLES, N_UNDECIDED, N_OFF_GRID, LABEL_BYTES, N_COUNTS = range(8)
# The outcomes.
READ, UNEXPECTED, HISTOGRAM, REPEATED_TIME, TOO_MANY = range(5)

_QUOTE, _BACKSLASH, _COMMA, _COLON, _PLUS, _MINUS, _POINT = (ord(c) for c in '"\\,:+-.')
_OPEN_LIST, _CLOSE_LIST, _OPEN_MAP, _CLOSE_MAP, _ZERO, _SMALL_E, _BIG_E = (ord(c) for c in "[]{}0eE")
_METRIC, _VALUES, _VALUE, _HISTOGRAMS, _HISTOGRAM = (
    np.frombuffer(key, dtype=np.uint8) for key in (b"metric", b"values", b"value", b"histograms", b"histogram")
)
_NAN, _INF = np.frombuffer(b"NaN", dtype=np.uint8), np.frombuffer(b"Inf", dtype=np.uint8)

_EXACT, _UNDECIDED, _MALFORMED = range(3)
_LOW_32, _SHIFT_32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_TEN = np.uint64(10)
_MAX_EXACT = np.uint64(1 << 53)
_POWERS_OF_TEN = np.array([10.0**exponent for exponent in range(23)])  # the powers that a float64 holds exactly
_MIN_EXPONENT, _MAX_EXPONENT = -290, 308  # below it results may be denormal, which is left to the caller


def _powers_of_five() -> NDArray[np.uint64]:
    """The highest 128 bits of 5**q as rows of (high, low), q from -290 to 308: Lemire's table.

    Rounded up where a product with them can be exact (-27 <= q < 0), so that it never seems to be just below itself.
    """
    rows = []
    for exponent in range(_MIN_EXPONENT, _MAX_EXPONENT + 1):
        power = 5 ** abs(exponent)
        length = power.bit_length()
        bits = power if exponent >= 0 else (1 << (length + 127 if exponent >= -27 else 2 * length + 128)) // power + 1
        shift = 128 - bits.bit_length()
        bits = bits << shift if shift > 0 else bits >> -shift
        rows.append((bits >> 64, bits & 0xFFFFFFFFFFFFFFFF))
    return np.array(rows, dtype=np.uint64)


_FIVES = _powers_of_five()


@njit(cache=True, nogil=True)
def read_result(
    body: NDArray[np.uint8],
    position: int,
    start_ms: int,
    step_ms: int,
    values: NDArray[np.float64],
    hashes: NDArray[np.uint64],
    label_bytes: NDArray[np.uint8],
    label_ends: NDArray[np.int64],
    undecided: NDArray[np.int64],
    counts: NDArray[np.int64],
):
    """Fill one row of `values` (n_series, n_times) a series; `position` is the `[` that opens the array.

    `label_bytes[label_ends[i - 1]:label_ends[i]]` are the raw labels of row i and `hashes[i]` their FNV-1a.
    `undecided` holds (series, time, position of the number's first byte) of the values that `float()` must read.
    `counts` says how it went and, at `POSITION`, where reading ended.
    """
    counts[:] = 0
    counts[OUTCOME] = UNEXPECTED
    i = _space(body, position)
    if body[i] != _OPEN_LIST:
        counts[POSITION] = i
        return
    i = _space(body, i + 1)
    is_first = True
    while body[i] != _CLOSE_LIST:
        if not is_first:
            if body[i] != _COMMA:
                counts[POSITION] = i
                return
            i = _space(body, i + 1)
        is_first = False
        if counts[N_SERIES] == values.shape[0]:
            counts[OUTCOME] = TOO_MANY
            counts[POSITION] = i
            return
        i, outcome = _series(body, i, start_ms, step_ms, values, hashes, label_bytes, label_ends, undecided, counts)
        if outcome != READ:
            counts[OUTCOME] = outcome
            counts[POSITION] = i
            return
        counts[N_SERIES] += 1
        i = _space(body, i)
    counts[OUTCOME] = READ
    counts[POSITION] = i + 1


@njit(cache=True, nogil=True)
def _series(body, i, start_ms, step_ms, values, hashes, label_bytes, label_ends, undecided, counts):  # noqa: C901, PLR0912 - one loop over the keys of one object
    if body[i] != _OPEN_MAP:
        return i, UNEXPECTED
    row = counts[N_SERIES]
    values[row, :] = np.nan
    has_labels = False
    has_samples = False
    i = _space(body, i + 1)
    while True:
        key_start = i + 1
        end = _string(body, i)
        if end < 0:
            return i, UNEXPECTED
        key = body[key_start : end - 1]
        i = _space(body, end)
        if body[i] != _COLON:
            return i, UNEXPECTED
        i = _space(body, i + 1)
        if _equal(key, _METRIC):
            if has_labels:
                return i, UNEXPECTED
            end = _labels(body, i)
            if end < 0:
                return i, UNEXPECTED
            used = counts[LABEL_BYTES]
            digest = np.uint64(0xCBF29CE484222325)
            for j in range(i, end):
                digest = (digest ^ np.uint64(body[j])) * np.uint64(0x100000001B3)
                label_bytes[used + j - i] = body[j]
            hashes[row] = digest
            counts[LABEL_BYTES] = label_ends[row] = used + end - i
            has_labels = True
            i = end
        elif _equal(key, _VALUES) or _equal(key, _VALUE):
            if has_samples:
                return i, UNEXPECTED
            if key.size == _VALUES.size:
                i, outcome = _samples(body, i, row, start_ms, step_ms, values, undecided, counts)
            else:
                i, _, outcome = _sample(body, i, row, -1, start_ms, step_ms, values, undecided, counts)
            if outcome != READ:
                return i, outcome
            has_samples = True
        elif _equal(key, _HISTOGRAMS) or _equal(key, _HISTOGRAM):
            return i, HISTOGRAM
        else:
            end = _skip(body, i)
            if end < 0:
                return i, UNEXPECTED
            i = end
        i = _space(body, i)
        if body[i] == _CLOSE_MAP:
            break
        if body[i] != _COMMA:
            return i, UNEXPECTED
        i = _space(body, i + 1)
    return i + 1, READ if has_labels and has_samples else UNEXPECTED


@njit(cache=True, nogil=True)
def _samples(body, i, row, start_ms, step_ms, values, undecided, counts):
    if body[i] != _OPEN_LIST:
        return i, UNEXPECTED
    i = _space(body, i + 1)
    column = -1
    is_first = True
    while body[i] != _CLOSE_LIST:
        if not is_first:
            if body[i] != _COMMA:
                return i, UNEXPECTED
            i = _space(body, i + 1)
        is_first = False
        i, column, outcome = _sample(body, i, row, column, start_ms, step_ms, values, undecided, counts)
        if outcome != READ:
            return i, outcome
        i = _space(body, i)
    return i + 1, READ


@njit(cache=True, nogil=True)
def _sample(body, i, row, last_column, start_ms, step_ms, values, undecided, counts):
    """Read `[1700000000.5, "1.5"]` into its column; times must grow, and those beside the grid are only counted."""
    if body[i] != _OPEN_LIST:
        return i, last_column, UNEXPECTED
    time_s, end, kind = _number(body, _space(body, i + 1))
    if kind != _EXACT or not abs(time_s) < 1e15:
        return i, last_column, UNEXPECTED
    i = _space(body, end)
    if body[i] != _COMMA:
        return i, last_column, UNEXPECTED
    i = _space(body, i + 1)
    if body[i] != _QUOTE:
        return i, last_column, UNEXPECTED
    number_start = i + 1
    value, end, kind = _number(body, number_start)
    if kind == _MALFORMED or body[end] != _QUOTE:
        return i, last_column, UNEXPECTED
    i = _space(body, end + 1)
    if body[i] != _CLOSE_LIST:
        return i, last_column, UNEXPECTED
    counts[N_SAMPLES] += 1
    offset_ms = np.int64(np.rint(time_s * 1000.0)) - start_ms
    column = offset_ms // step_ms
    if offset_ms % step_ms or column < 0 or column >= values.shape[1]:
        counts[N_OFF_GRID] += 1
        return i + 1, last_column, READ
    if column <= last_column:
        return i, last_column, REPEATED_TIME
    if kind == _UNDECIDED:
        n = counts[N_UNDECIDED]
        undecided[n, 0], undecided[n, 1], undecided[n, 2] = row, column, number_start
        counts[N_UNDECIDED] += 1
    else:
        values[row, column] = value
    return i + 1, column, READ


@njit(cache=True, nogil=True)
def _number(body, i):  # noqa: C901, PLR0912 - the grammar of a number, in its order
    """The number that begins at i, where it ends, and whether it is exact, undecided or malformed."""
    is_negative = body[i] == _MINUS
    if is_negative or body[i] == _PLUS:
        i += 1
    sign = -1.0 if is_negative else 1.0
    if body[i] > 64:  # a letter
        if _equal(body[i : i + 3], _INF):
            return sign * np.inf, i + 3, _EXACT
        if _equal(body[i : i + 3], _NAN):
            return np.nan, i + 3, _EXACT
        return 0.0, i, _MALFORMED
    mantissa = np.uint64(0)
    exponent = 0
    n_digits = 0  # significant ones; 19 of them fit in 64 bits
    n_seen = 0
    is_cut = False
    is_fraction = False
    while True:
        digit = np.int64(body[i]) - _ZERO
        if 0 <= digit <= 9:
            n_seen += 1
            if n_digits < 19:
                mantissa = mantissa * _TEN + np.uint64(digit)
                n_digits += mantissa != 0
                exponent -= is_fraction
            else:
                is_cut |= digit != 0
                exponent += not is_fraction
        elif body[i] == _POINT and not is_fraction and n_seen > 0:
            is_fraction = True
        else:
            break
        i += 1
    if n_seen == 0 or body[i - 1] == _POINT:
        return 0.0, i, _MALFORMED
    if body[i] == _SMALL_E or body[i] == _BIG_E:
        i += 1
        is_small = body[i] == _MINUS
        if is_small or body[i] == _PLUS:
            i += 1
        written = 0
        first = i
        while _ZERO <= body[i] <= _ZERO + 9:
            if written < 10_000:  # beyond any float already
                written = written * 10 + int(body[i]) - _ZERO
            i += 1
        if i == first:
            return 0.0, i, _MALFORMED
        exponent += -written if is_small else written
    if mantissa == 0:
        return sign * 0.0, i, _EXACT
    if is_cut:
        return 0.0, i, _UNDECIDED
    if mantissa <= _MAX_EXACT and -22 <= exponent <= 22:
        if exponent < 0:
            return sign * (np.float64(mantissa) / _POWERS_OF_TEN[-exponent]), i, _EXACT
        return sign * (np.float64(mantissa) * _POWERS_OF_TEN[exponent]), i, _EXACT
    value, is_decided = _scaled(mantissa, exponent)
    return sign * value, i, _EXACT if is_decided else _UNDECIDED


@njit(cache=True, nogil=True)
def _scaled(mantissa, exponent):
    """`mantissa * 10**exponent` rounded to the nearest float64, and whether that could be decided (Lemire 2021)."""
    if exponent < _MIN_EXPONENT + 20 or exponent > _MAX_EXPONENT - 20:
        return 0.0, False  # near the ends of the range: denormals and overflow
    zeros = np.int64(0)
    shifted = mantissa
    while shifted < np.uint64(1 << 63):
        shifted <<= np.uint64(1)
        zeros += 1
    high, low = _product(shifted, _FIVES[exponent - _MIN_EXPONENT, 0])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # the bits below may carry into those that count
        carry, _ = _product(shifted, _FIVES[exponent - _MIN_EXPONENT, 1])
        low += carry
        if low < carry:
            high += np.uint64(1)
        if low == np.uint64(0xFFFFFFFFFFFFFFFF):
            return 0.0, False
    top = high >> np.uint64(63)
    kept = high >> (top + np.uint64(9))  # 53 bits and one to round by
    if low <= np.uint64(1) and kept & np.uint64(3) == np.uint64(1) and kept << (top + np.uint64(9)) == high:
        return 0.0, False  # may lie exactly between two floats
    kept = (kept + (kept & np.uint64(1))) >> np.uint64(1)
    power = ((217_706 * exponent) >> 16) + 63 + np.int64(top) - zeros  # 217706 / 2**16 is log2(10)
    return math.ldexp(np.float64(kept), power - 52), True


@njit(cache=True, nogil=True)
def _product(a, b):
    """The 128 bits of a * b as (high, low)."""
    a_high, a_low, b_high, b_low = a >> _SHIFT_32, a & _LOW_32, b >> _SHIFT_32, b & _LOW_32
    low_low, low_high, high_low = a_low * b_low, a_low * b_high, a_high * b_low
    middle = (low_low >> _SHIFT_32) + (low_high & _LOW_32) + (high_low & _LOW_32)
    high = a_high * b_high + (low_high >> _SHIFT_32) + (high_low >> _SHIFT_32) + (middle >> _SHIFT_32)
    return high, (middle << _SHIFT_32) | (low_low & _LOW_32)


@njit(cache=True, nogil=True)
def _labels(body, i):
    """Where the object of strings that begins at i ends; -1 where it is none."""
    if body[i] != _OPEN_MAP:
        return -1
    i = _space(body, i + 1)
    if body[i] == _CLOSE_MAP:
        return i + 1
    while True:
        i = _string(body, i)
        if i < 0:
            return -1
        i = _space(body, i)
        if body[i] != _COLON:
            return -1
        i = _string(body, _space(body, i + 1))
        if i < 0:
            return -1
        i = _space(body, i)
        if body[i] == _CLOSE_MAP:
            return i + 1
        if body[i] != _COMMA:
            return -1
        i = _space(body, i + 1)


@njit(cache=True, nogil=True)
def _string(body, i):
    """The position after the string that begins at i; -1 where there is none or it does not end."""
    if body[i] != _QUOTE:
        return -1
    i += 1
    while body[i] != _QUOTE:
        if body[i] < 32:  # not allowed in JSON; the zero at the end of the body is one of them
            return -1
        i += 1 + (body[i] == _BACKSLASH and body[i + 1] >= 32)
    return i + 1


@njit(cache=True, nogil=True)
def _skip(body, i):
    """The position after the value of a key that is none of ours; -1 where it does not end."""
    depth = 0
    while True:
        byte = body[i]
        if byte == _QUOTE:
            i = _string(body, i)
            if i < 0:
                return -1
        elif byte in (_OPEN_LIST, _OPEN_MAP):
            depth += 1
            i += 1
        elif byte in (_CLOSE_LIST, _CLOSE_MAP, _COMMA) and depth == 0:
            return i
        elif byte == 0:
            return -1
        else:
            depth -= byte in (_CLOSE_LIST, _CLOSE_MAP)
            i += 1


@njit(cache=True, nogil=True)
def _space(body, i):
    while body[i] == 32 or 9 <= body[i] <= 10 or body[i] == 13:
        i += 1
    return i


@njit(cache=True, nogil=True)
def _equal(text, word):
    if text.size != word.size:
        return False
    for j in range(word.size):  # noqa: SIM110 - compiled
        if text[j] != word[j]:
            return False
    return True
