"""Answers become arrays equal to what the standard library reads, and anything else becomes one typed sentence."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.core.errors import ForeshockError, PrometheusUnavailable, QueryRejected, QueryTimedOut, TooManySeries
from foreshock.core.frame import as_samples
from foreshock.prometheus import responses
from foreshock.prometheus.requests import InstantQuery, RangeQuery, split
from foreshock.prometheus.responses import join, read_error, read_matrix, read_scalar, read_vector

QUERY = RangeQuery("x", 60, 300, 60)
AT = InstantQuery("x", 60)


def answer(result: Any, kind: str = "matrix", **beside: Any) -> bytes:
    data = {"resultType": kind, "result": result}
    return json.dumps({"status": "success", "data": data, **beside}, separators=(",", ":")).encode()


def series(labels: dict[str, str], *samples: tuple[float, str]) -> dict[str, Any]:
    return {"metric": labels, "values": [list(sample) for sample in samples]}


labels_ = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)
values_ = st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=5, max_size=5)


@given(st.lists(st.tuples(labels_, values_), max_size=6, unique_by=lambda one: json.dumps(one[0])), st.booleans())
def test_a_matrix_equals_what_json_reads(rows: list[tuple[dict[str, str], list[float | None]]], spaced: bool) -> None:
    """Labels, values and gaps are those of the standard library, whatever the labels hold and however it is spaced."""
    result = [
        series(labels, *[(60 * (i + 1), repr(value)) for i, value in enumerate(values) if value is not None])
        for labels, values in rows
    ]
    body = answer(result)
    matrix = read_matrix(json.dumps(json.loads(body), indent=2).encode() if spaced else body, QUERY)
    expected = np.array([[np.nan if v is None else v for v in values] for _, values in rows]).reshape(-1, 5)
    np.testing.assert_array_equal(matrix.values, as_samples(expected))
    assert (matrix.n_series, matrix.n_times) == (len(rows), 5)
    assert [matrix.labels(i) for i in range(matrix.n_series)] == [labels for labels, _ in rows]


def test_what_is_not_finite_is_missing_and_counted() -> None:
    """NaN, the infinities, what float32 cannot hold, and samples beside the grid are dropped and counted."""
    samples = [(60, "NaN"), (120, "+Inf"), (180, "1e39"), (200.5, "1"), (240, "0"), (360, "1")]
    matrix = read_matrix(answer([series({}, *samples)]), QUERY)
    np.testing.assert_array_equal(matrix.values, [[np.nan, np.nan, np.nan, 0, np.nan]])
    assert matrix.dropped == 5


def test_an_empty_result_is_no_series() -> None:
    """An empty result is a matrix without rows: no zero, and no error."""
    assert read_matrix(answer([]), QUERY).values.shape == (0, 5)
    assert read_vector(answer([], "vector"), AT).values.shape == (0, 1)


def test_a_vector_has_one_column() -> None:
    """An instant query is a matrix of one column, a scalar one series without labels."""
    vector = read_vector(answer([{"metric": {"a": "b"}, "value": [60, "1.5"]}], "vector"), AT)
    assert (vector.values.tolist(), vector.labels(0)) == ([[1.5]], {"a": "b"})
    scalar = read_vector(answer([60, "2.5"], "scalar"), AT)
    assert (scalar.values.tolist(), scalar.labels(0)) == ([[2.5]], {})
    assert read_scalar(answer([60, "1700000000.25"], "scalar")) == 1700000000.25


def test_warnings_are_kept() -> None:
    """The server's warnings arrive, and so does VictoriaMetrics' word for a partial answer."""
    matrix = read_matrix(answer([], warnings=["store-1 is away"], isPartial=True), QUERY)
    assert matrix.warnings == ("store-1 is away", "the datasource says that its answer is partial")
    assert read_matrix(answer([], infos=["metric might not be a counter"]), QUERY).warnings == ()


def test_rows_of_equal_labels_share_a_hash() -> None:
    """The hash depends on the raw label bytes alone, so the next answer finds the same slot."""
    one = read_matrix(answer([series({"a": "b"}), series({"a": "c"})]), QUERY)
    other = read_matrix(answer([series({"a": "c"}, (60, "1"))]), QUERY)
    assert one.hashes[1] == other.hashes[0] != one.hashes[0]
    assert one.raw_labels(1) == other.raw_labels(0) == b'{"a":"c"}'


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", PrometheusUnavailable, "'<!DOCTYPE html><title>Sign in"),
        (b"", PrometheusUnavailable, "nothing"),
        (b"\x1f\x8b\x08\x00binary", PrometheusUnavailable, "binary"),
        (answer([series({"a": "b"}, (60, "1"))])[:-9], PrometheusUnavailable, "ends too early"),
        (answer([series({"a": "b"}, (60, "1"))])[:60], PrometheusUnavailable, "ends too early"),
        (answer([series({"a": "b"}, (60, "one"))]), PrometheusUnavailable, "no JSON of its API at byte"),
        (answer([series({"a": "b"})] * 2), PrometheusUnavailable, "same series twice"),
        (answer([series({}, (60, "1"), (60, "2"))]), PrometheusUnavailable, "two samples at one time"),
        (answer([{"metric": {}}]), PrometheusUnavailable, "no JSON of its API at byte"),
        (answer([{"metric": {}, "histograms": [[60, {}]]}]), QueryRejected, "native histograms"),
        (answer([60, "text"], "string"), PrometheusUnavailable, "no JSON of its API at byte"),
        (answer([], "vector"), QueryRejected, "returns a vector"),
        (b'{"data":{"resultType":"matrix","result":[]}}', PrometheusUnavailable, "is not of its API"),
        (answer([])[:-1] + b',"stats":' + b"[" * 100_000, PrometheusUnavailable, "is not of its API"),
        (b'{"a":' * 10_000 + b'{"result":[]', PrometheusUnavailable, "is not of its API"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_one_sentence(body: bytes, error: type[ForeshockError], words: str) -> None:
    """HTML, truncated and nonsensical bodies, repeated series and histograms: each is typed, and quoted briefly."""
    with pytest.raises(error) as caught:
        read_matrix(body, QUERY)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


BODY = answer(
    [
        series({"__name__": "x", "job": 'a"b\\c\n', "é": "ü"}, *[(60 * i, "0.1") for i in range(1, 6)]),
        series({"a": "b"}),
    ],
    warnings=["w"],
)


@given(st.integers(0, 2**32), st.integers(1, 8), st.booleans())
def test_mutated_bytes_give_an_answer_or_a_typed_error(seed: int, n_mutations: int, is_cut: bool) -> None:
    """Whatever bytes arrive, nothing but the project's own errors leaves, not even from the labels."""
    chance = random.Random(seed)
    body = bytearray(BODY)
    for _ in range(n_mutations):
        at = chance.randrange(len(body))
        piece = bytes(chance.choices(b'[]{}",:\\0179.eE+-NaInf \n\x00\xff', k=chance.randrange(4)))
        body[at : at + chance.randrange(4)] = piece
    if is_cut:
        del body[chance.randrange(len(body)) :]
    for read in (lambda: read_matrix(bytes(body), QUERY), lambda: read_vector(bytes(body), AT)):
        try:
            matrix = read()
            assert not np.isinf(matrix.values).any()
            for i in range(matrix.n_series):
                matrix.labels(i)
        except ForeshockError:
            pass


@pytest.mark.parametrize("raw", [b'{"a":"\xff"}', b'{"a":"\\q"}', b'{"a":"\\ud800"}'])
def test_labels_that_are_no_text_are_a_typed_error(raw: bytes) -> None:
    """Labels are decoded late; what is no text then is the same typed error."""
    body = b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":' + raw + b',"values":[]}]}}'
    with pytest.raises(PrometheusUnavailable):
        read_matrix(body, QUERY).labels(0)


def test_a_small_body_cannot_claim_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Series times instants are bounded before anything is allocated, in one answer and in joined ones."""
    monkeypatch.setattr(responses, "MAX_CELLS", 9)
    with pytest.raises(TooManySeries, match="2 series of 5 instants"):
        read_matrix(answer([series({"a": "b"}), series({"a": "c"})]), QUERY)
    pieces = [read_matrix(answer([series({})]), RangeQuery("x", start_s, start_s + 240, 60)) for start_s in (60, 360)]
    with pytest.raises(TooManySeries, match="1 series of 10 instants"):
        join(pieces)


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error"}', QueryRejected, "parse error"),
        (422, b'{"status":"error","errorType":"execution","error":"many-to-many"}', QueryRejected, "many-to-many"),
        (503, b'{"status":"error","errorType":"timeout","error":"it timed out"}', QueryTimedOut, "timed out"),
        (400, b"The plain HTTP request was sent to HTTPS port", PrometheusUnavailable, "HTTPS port"),
        (401, b"Unauthorized", PrometheusUnavailable, "credentials"),
        (302, b"", PrometheusUnavailable, "redirects are not followed"),
        (404, b"404 page not found", PrometheusUnavailable, "url of the datasource"),
        (429, b"", PrometheusUnavailable, "overloaded"),
        (502, b"<html>Bad gateway</html>", PrometheusUnavailable, "Bad gateway"),
        (400, b"[]", PrometheusUnavailable, "400"),
    ],
)  # fmt: skip
def test_a_status_says_who_must_act(status: int, body: bytes, error: type[ForeshockError], words: str) -> None:
    """400 and 422 of Prometheus are the user's, in its own words; the rest may pass."""
    failure = read_error(status, body, retry_after_s=7.0)
    assert type(failure) is error
    assert words in str(failure)
    assert not isinstance(failure, PrometheusUnavailable) or failure.retry_after_s == 7.0


@given(st.integers(1, 12), st.integers(1, 5))
def test_joined_pieces_equal_one_answer(n_times: int, max_points: int) -> None:
    """Pieces of a split query join to the matrix of the whole, though a series is missing in some of them."""
    query = RangeQuery("x", 60, 60 * n_times, 60)
    columns = {"a": range(n_times), "b": range(0, n_times, 3), "c": range(n_times - 1, n_times)}

    def body(piece: RangeQuery) -> bytes:
        rows = [
            series({"s": name}, *[(60 * (i + 1), str(i)) for i in at if piece.start_s <= 60 * (i + 1) <= piece.end_s])
            for name, at in columns.items()
        ]
        return answer([row for row in rows if row["values"]], warnings=["w"])

    whole = read_matrix(body(query), query)
    joined = join([read_matrix(body(piece), piece) for piece in split(query, max_points)])
    assert (joined.start_s, joined.step_s, joined.warnings) == (whole.start_s, whole.step_s, ("w",))
    order = [[joined.raw_labels(j) for j in range(joined.n_series)].index(whole.raw_labels(i)) for i in range(3)]
    np.testing.assert_array_equal(joined.values[order], whole.values)
    np.testing.assert_array_equal(joined.hashes[order], whole.hashes)


def test_pieces_with_a_hole_do_not_join() -> None:
    """Pieces that do not follow each other are a mistake of ours, never a silent shift in time."""
    piece = read_matrix(answer([]), QUERY)
    with pytest.raises(ValueError, match="follow each other"):
        join([piece, piece])


def test_a_scalar_that_is_none_is_typed() -> None:
    """What is no scalar is a typed error."""
    with pytest.raises(PrometheusUnavailable):
        read_scalar(b"<html>")
    assert math.isnan(read_scalar(answer([60, "NaN"], "scalar")))
