"""Reads what Prometheus answers: samples straight into arrays on the grid that was asked for. No I/O."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ForeshockError, PrometheusUnavailable, QueryRejected, QueryTimedOut, TooManySeries
from foreshock.core.frame import Array, as_samples
from foreshock.prometheus import json_kernel as kernel
from foreshock.prometheus.requests import InstantQuery, RangeQuery

MAX_CELLS = 64 * 1024 * 1024
"""Most samples of one answer, missing ones included: 512 MiB. A sparse body of some megabytes could claim terabytes."""

MAX_HEAD_BYTES = 64 * 1024  # what precedes the samples: a status, a type, at worst some warnings
_RESULT = re.compile(rb'"result"\s*:\s*')
_SCALAR = re.compile(rb'\[\s*[\d.eE+-]+\s*,\s*"[^"\\]*"\s*\]')
_NUMBER = re.compile(rb"[^\"]*")


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Column j of `values` (n_series, n_times) lies at `start_s + j * step_s`; NaN where there is no finite sample.

    `hashes` (n_series) are the FNV-1a of each row's raw label bytes, the same in every process; two rows may share one
    only by accident, so compare `raw_labels` on first sight. `warnings` are the server's own and mean that data may be
    missing. `dropped` counts the samples that were NaN, infinite as float32, or beside the grid.
    """

    start_s: int
    step_s: int
    values: Array
    hashes: NDArray[np.uint64]
    label_bytes: bytes
    label_ends: NDArray[np.int64]
    warnings: tuple[str, ...] = ()
    dropped: int = 0

    @property
    def n_series(self) -> int:
        return int(self.values.shape[0])

    @property
    def n_times(self) -> int:
        return int(self.values.shape[1])

    def raw_labels(self, series: int) -> bytes:
        """The labels of one series as the server wrote them, which it does alike every time."""
        start = int(self.label_ends[series - 1]) if series else 0
        return self.label_bytes[start : int(self.label_ends[series])]

    def labels(self, series: int) -> dict[str, str]:
        """The labels of one series, `__name__` among them where it has one.

        Raises:
            PrometheusUnavailable: they are no text after all, for example not in UTF-8.
        """
        raw = self.raw_labels(series)
        try:
            labels: dict[str, str] = json.loads(raw)
            "".join(labels.values()).encode()  # half a surrogate pair would break whoever stores it
        except ValueError as error:
            raise _unreadable(raw) from error
        return labels


def read_matrix(body: bytes, query: RangeQuery) -> Matrix:
    """The answer to a range query, equal to `float()` on every sample and then rounded to float32 as `Frame` asks.

    Raises:
        PrometheusUnavailable: the body is no answer of Prometheus (HTML, truncated), or names a series or a time twice.
        QueryRejected: the query returns native histograms, or something other than an instant vector or a scalar.
        TooManySeries: series times instants exceed `MAX_CELLS`.
    """
    return _read(body, query.start_s, query.step_s, query.n_times, {"matrix"})


def read_vector(body: bytes, query: InstantQuery) -> Matrix:
    """The answer to an instant query as a `Matrix` of one column; a scalar is one series without labels.

    Raises:
        PrometheusUnavailable, QueryRejected, TooManySeries: as `read_matrix`.
    """
    return _read(body, query.at_s, 1, 1, {"vector", "scalar"})


def warm_up() -> None:
    """Load the compiled reader, or compile it where no cache is: seconds that an event loop must not spend."""
    read_vector(b'{"status":"success","data":{"resultType":"vector","result":[]}}', InstantQuery("", 0))


def read_scalar(body: bytes) -> float:
    """The number that a query such as `time()` returns.

    Raises:
        PrometheusUnavailable: the answer is no scalar.
    """
    match = _RESULT.search(body, 0, MAX_HEAD_BYTES)
    scalar = _SCALAR.match(body, match.end()) if match else None
    if scalar is None:
        raise _unreadable(body)
    return float(json.loads(scalar[0])[1])


def read_error(status: int, body: bytes, *, retry_after_s: float | None = None) -> ForeshockError:
    """What an answer other than 200 means: 400 and 422 in Prometheus' own words are the user's, the rest is not."""
    try:
        answer = _decoded(body)
    except PrometheusUnavailable:
        answer = {}
    words = answer.get("error")
    if words is not None and status in {400, 422}:
        return QueryRejected(f"Prometheus rejects the query: {_printable(str(words), 500)}")
    said = _printable(str(words), 500) if words is not None else _quoted(body)
    kind = QueryTimedOut if (status, answer.get("errorType")) == (503, "timeout") else PrometheusUnavailable
    return kind(f"Prometheus answers {status}: {said}; {_advice(status)}", retry_after_s=retry_after_s)


def join(pieces: Sequence[Matrix]) -> Matrix:
    """The pieces of one split query, as one matrix equal to the answer to the whole; what a piece lacks is NaN.

    Raises:
        ValueError: the pieces do not follow each other on one grid.
        TooManySeries: series times instants exceed `MAX_CELLS`.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    for piece, following in itertools.pairwise(pieces):
        if (following.start_s, following.step_s) != (piece.start_s + piece.n_times * piece.step_s, piece.step_s):
            raise ValueError("pieces of one query follow each other on one grid")
    hashes: dict[bytes, np.uint64] = {}
    for piece in pieces:
        hashes.update((piece.raw_labels(i), piece.hashes[i]) for i in range(piece.n_series))
    row_of = {labels: row for row, labels in enumerate(hashes)}
    n_times = sum(piece.n_times for piece in pieces)
    _refuse_too_many(len(row_of), n_times)
    values = np.full((len(row_of), n_times), np.nan)
    column = 0
    for piece in pieces:
        rows = [row_of[piece.raw_labels(i)] for i in range(piece.n_series)]
        values[rows, column : column + piece.n_times] = piece.values
        column += piece.n_times
    return Matrix(
        first.start_s,
        first.step_s,
        values,
        np.fromiter(hashes.values(), dtype=np.uint64, count=len(hashes)),
        b"".join(hashes),
        np.cumsum([len(labels) for labels in hashes], dtype=np.int64),
        tuple(dict.fromkeys(warning for piece in pieces for warning in piece.warnings)),
        sum(piece.dropped for piece in pieces),
    )


def _read(body: bytes, start_s: int, step_s: int, n_times: int, types: set[str]) -> Matrix:
    match = _RESULT.search(body, 0, MAX_HEAD_BYTES)
    if match is None:
        raise _unreadable(body)
    if (scalar := _SCALAR.match(body, match.end())) is not None:
        body = body[: match.end()] + b'[{"metric":{},"value":' + scalar[0] + b"}]" + body[scalar.end() :]
    n_series = body.count(b'"metric"')  # never too few: each series has this key
    _refuse_too_many(n_series, n_times)
    values = np.empty((n_series, n_times))
    hashes = np.empty(n_series, dtype=np.uint64)
    label_bytes = np.empty(len(body), dtype=np.uint8)
    label_ends = np.empty(n_series, dtype=np.int64)
    undecided = np.empty((len(body) // 8 + 1, 3), dtype=np.int64)  # no sample is shorter than `,[0,"0"]`
    counts = np.empty(kernel.N_COUNTS, dtype=np.int64)
    source = np.frombuffer(body + b"\0", dtype=np.uint8)
    kernel.read_result(
        source, match.end(), start_s * 1000, step_s * 1000, values, hashes, label_bytes, label_ends, undecided, counts
    )
    _check_outcome(body, counts)
    warnings = _warnings(body[: match.end()] + b"0" + body[counts[kernel.POSITION] :], types)
    n_series = int(counts[kernel.N_SERIES])
    for row, column, position in undecided[: counts[kernel.N_UNDECIDED]].tolist():
        number = _NUMBER.match(body, position)
        values[row, column] = float(number[0]) if number else np.nan
    samples = as_samples(values[:n_series])
    matrix = Matrix(
        start_s,
        step_s,
        samples,
        hashes[:n_series].copy(),
        label_bytes[: counts[kernel.LABEL_BYTES]].tobytes(),
        label_ends[:n_series].copy(),
        warnings,
        int(counts[kernel.N_SAMPLES]) - int(np.count_nonzero(~np.isnan(samples))),
    )
    _refuse_repeated_series(matrix)
    return matrix


def _check_outcome(body: bytes, counts: NDArray[np.int64]) -> None:
    outcome = counts[kernel.OUTCOME]
    if outcome == kernel.HISTOGRAM:
        raise QueryRejected("the query returns native histograms; wrap it in histogram_quantile() or histogram_avg()")
    if outcome == kernel.REPEATED_TIME:
        raise PrometheusUnavailable("Prometheus answers with one series that has two samples at one time")
    if outcome != kernel.READ:
        position = int(counts[kernel.POSITION])
        is_cut = position >= len(body.rstrip())
        raise _unreadable(body, "ends too early" if is_cut else f"is no JSON of its API at byte {position}")


def _warnings(envelope: bytes, types: set[str]) -> tuple[str, ...]:
    """What the server says beside the samples; `isPartial` is how VictoriaMetrics says it."""
    answer = _decoded(envelope)
    data = answer.get("data")
    if answer.get("status") != "success" or not isinstance(data, dict) or data.get("result") != 0:
        raise _unreadable(envelope)
    if data.get("resultType") not in types:
        kind = _printable(str(data.get("resultType")), 40)
        raise QueryRejected(f"the query returns a {kind}; write one that returns an instant vector or a scalar")
    warnings = answer.get("warnings") or []
    if not isinstance(warnings, list):
        raise _unreadable(envelope)
    partial = ["the datasource says that its answer is partial"] if answer.get("isPartial") is True else []
    return tuple(_printable(str(warning), 500) for warning in warnings[:20] + partial)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unreadable(body) from error
    if not isinstance(answer, dict):
        raise _unreadable(body)
    return answer


def _refuse_too_many(n_series: int, n_times: int) -> None:
    if n_series * n_times > MAX_CELLS:
        raise TooManySeries(
            f"the answer holds {n_series} series of {n_times} instants, more than {MAX_CELLS} samples; "
            "narrow the query or aggregate it"
        )


def _refuse_repeated_series(matrix: Matrix) -> None:
    if np.unique(matrix.hashes).size == matrix.n_series:
        return
    labels = {matrix.raw_labels(i) for i in range(matrix.n_series)}
    if len(labels) < matrix.n_series:
        raise PrometheusUnavailable(f"Prometheus answers with the same series twice, among {matrix.n_series}")


def _advice(status: int) -> str:
    if status in {401, 403}:
        return "check the credentials of the datasource"
    if 300 <= status < 400:
        return "redirects are not followed, set the url that it points to"
    if status == 429 or status >= 500:
        return "it is away or overloaded"
    return "check the url of the datasource"


def _unreadable(body: bytes, why: str = "is not of its API") -> PrometheusUnavailable:
    return PrometheusUnavailable(f"the answer of Prometheus {why}: {_quoted(body)}; {_advice(200)}")


def _quoted(body: bytes) -> str:
    text = _printable(body[:400].decode(errors="replace"), 80)
    return f"'{text}'" if text else "nothing"


def _printable(text: str, length: int) -> str:
    """The first printable characters of what may be anything, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())[:length]
