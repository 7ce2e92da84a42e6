"""The bytes of an artifact: equal input, equal bytes; hostile bytes are refused before they cost anything."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshock.core.errors import ArtifactDamaged
from foreshock.store import artifact_format
from foreshock.store.artifact_format import (
    MAX_ARRAY_FILE_BYTES,
    MAX_HEADER_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_DEPTH,
    AnyArray,
    Encoded,
    decode_arrays,
    decode_manifest,
    encode,
)

DTYPES = st.sampled_from([np.float32, np.float64, np.int16, np.int32, np.int64, np.uint8])
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=20),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))),
    max_size=5,
)
SAFE = st.characters(exclude_categories=["Cs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(SAFE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(SAFE), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
DOCUMENTS = st.dictionaries(st.text(SAFE).filter(lambda key: key not in artifact_format._RESERVED), JSON, max_size=4)


def decode(encoded: Encoded) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    promise = decode_manifest(encoded.manifest, encoded.digest)
    return promise.document, decode_arrays(promise, encoded.arrays)


def forge(encoded: Encoded, arrays: bytes, **changes: object) -> tuple[bytes, str]:
    """A manifest that a forger signed with the right digests: only the checks behind them can refuse it."""
    manifest = json.loads(encoded.manifest)
    manifest["array_file"] = {"sha256": hashlib.sha256(arrays).hexdigest(), "size_bytes": len(arrays)}
    data = json.dumps(manifest | changes).encode()
    return data, hashlib.sha256(data).hexdigest()


def file_with(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


SAMPLE = encode({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], dtype=np.int64)}, {"x": 0.1})


@given(ARRAYS, DOCUMENTS)
@settings(max_examples=100, deadline=None)
def test_what_goes_in_comes_out_bit_for_bit(arrays: dict[str, AnyArray], document: dict[str, Any]) -> None:
    """Arrays keep dtype, shape and bits (NaN too), documents every value to the last bit."""
    read, back = decode(encode(arrays, document))
    assert read == document
    assert json.dumps(read, sort_keys=True) == json.dumps(document, sort_keys=True)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@given(ARRAYS, DOCUMENTS)
@settings(max_examples=50, deadline=None)
def test_equal_input_gives_equal_bytes(arrays: dict[str, AnyArray], document: dict[str, Any]) -> None:
    """The order of names, the layout in memory and the byte order of the machine do not show."""
    backwards = {
        name: np.asfortranarray(array).astype(array.dtype.newbyteorder(">")) if array.ndim else array
        for name, array in reversed(arrays.items())
    }
    assert encode(backwards, dict(reversed(document.items()))) == encode(arrays, document)


def test_a_digest_is_of_its_bytes() -> None:
    """The address is the sha256 of the manifest, which holds the sha256 and size of the array file."""
    manifest = json.loads(SAMPLE.manifest)
    assert hashlib.sha256(SAMPLE.manifest).hexdigest() == SAMPLE.digest
    assert manifest["array_file"] == {
        "sha256": hashlib.sha256(SAMPLE.arrays).hexdigest(),
        "size_bytes": len(SAMPLE.arrays),
    }
    assert manifest["arrays"] == [
        {"name": "a", "dtype": "F32", "shape": [2, 3]},
        {"name": "b", "dtype": "I64", "shape": [2]},
    ]


@pytest.mark.parametrize(
    ("arrays", "document", "sentence"),
    [
        ({"a": np.array(["text"])}, {}, "up to rank 3"),
        ({"a": np.array([object()])}, {}, "up to rank 3"),
        ({"a": np.array([True])}, {}, "up to rank 3"),
        ({"a": np.array([1 + 1j])}, {}, "up to rank 3"),
        ({"a": np.zeros((1, 1, 1, 1))}, {}, "up to rank 3"),
        ({}, {"arrays": []}, "the store's own"),
        ({}, {"x": float("nan")}, "not JSON compliant"),
        ({}, {"x": object()}, "no JSON"),
    ],
)
def test_what_no_artifact_may_hold_is_refused_when_it_is_written(
    arrays: dict[str, AnyArray], document: dict[str, Any], sentence: str
) -> None:
    """A dtype, rank, key or value that could not be read back never reaches the disk."""
    with pytest.raises(ValueError, match=sentence):
        encode(arrays, document)


def test_what_is_beyond_the_limits_is_refused_when_it_is_written() -> None:
    """Too many bytes of arrays, too large or too deep a manifest: refused, since nobody could read it."""
    deep: list[Any] = []
    for _ in range(MAX_MANIFEST_DEPTH):
        deep = [deep]
    for arrays, document in (
        ({"a": np.broadcast_to(np.uint8(0), (MAX_ARRAY_FILE_BYTES,))}, {}),
        ({}, {"x": "y" * MAX_MANIFEST_BYTES}),
        ({}, {"x": deep}),
        ({f"{i:0200d}": np.zeros(1) for i in range(300)}, {}),  # the header would be beyond its limit
    ):
        with pytest.raises(ArtifactDamaged):
            encode(arrays, document)


@given(st.integers(0, len(SAMPLE.manifest) - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_any_changed_byte_of_a_manifest_is_found(position: int, change: int) -> None:
    """One flipped byte, wherever it lies, is `ArtifactDamaged`."""
    data = bytearray(SAMPLE.manifest)
    data[position] ^= change
    with pytest.raises(ArtifactDamaged):
        decode_manifest(bytes(data), SAMPLE.digest)


@given(st.integers(0, len(SAMPLE.arrays) - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_any_changed_byte_of_an_array_file_is_found(position: int, change: int) -> None:
    """One flipped byte, wherever it lies, is `ArtifactDamaged`."""
    data = bytearray(SAMPLE.arrays)
    data[position] ^= change
    with pytest.raises(ArtifactDamaged):
        decode_arrays(decode_manifest(SAMPLE.manifest, SAMPLE.digest), bytes(data))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_a_forged_array_file_is_refused_whatever_it_holds(data: bytes) -> None:
    """With every digest right, arbitrary bytes are still `ArtifactDamaged` and nothing else."""
    manifest, digest = forge(SAMPLE, data if len(data) >= 8 else data.ljust(8, b"\0"))
    promise = decode_manifest(manifest, digest)
    with pytest.raises(ArtifactDamaged):
        decode_arrays(promise, data.ljust(8, b"\0"))


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_a_forged_manifest_is_refused_whatever_it_holds(data: bytes) -> None:
    """Bytes that are no manifest are `ArtifactDamaged`, although they have the digest that was asked for."""
    with pytest.raises(ArtifactDamaged):
        decode_manifest(data, hashlib.sha256(data).hexdigest())


A, B = (
    {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
)
BODY = bytes(40)
HOSTILE = {
    "an array beyond memory": ({"a": A | {"shape": [2**40, 2**40]}, "b": B}, BODY),
    "a product that overflows 64 bits to 0": ({"a": A | {"shape": [2**32, 2**32]}, "b": B}, BODY),
    "a negative dimension": ({"a": A | {"shape": [-2, -3]}, "b": B}, BODY),
    "a rank of four": ({"a": A | {"shape": [1, 1, 2, 3]}, "b": B}, BODY),
    "an unknown dtype": ({"a": A | {"dtype": "O"}, "b": B}, BODY),
    "half precision": ({"a": A | {"dtype": "F16"}, "b": B}, BODY),
    "ranges that overlap": ({"a": A, "b": B | {"data_offsets": [20, 36]}}, BODY),
    "a hole between ranges": ({"a": A, "b": B | {"data_offsets": [32, 48]}}, BODY + bytes(8)),
    "a range beyond the file": ({"a": A, "b": B | {"data_offsets": [24, 4_000]}}, BODY),
    "a range that runs backwards": ({"a": A, "b": B | {"data_offsets": [40, 24]}}, BODY),
    "bytes behind the last array": ({"a": A, "b": B}, BODY + b"payload"),
    "an array too many": ({"a": A, "b": B, "c": B | {"shape": [0], "data_offsets": [40, 40]}}, BODY),
    "an array too few": ({"a": A}, BODY[:24]),
    "metadata": ({"a": A, "b": B, "__metadata__": {"x": "y"}}, BODY),
    "a header that is a list": ([A, B], BODY),
    "a header nested without end": (b"[" * 50_000, BODY),
    "a header that is no text": (b"\xff\xfe" * 20, BODY),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_before_it_costs_memory(name: str) -> None:
    """Its author knows every digest; it is refused all the same, within a megabyte of memory."""
    header, body = HOSTILE[name]
    data = file_with(header, body)
    manifest, digest = forge(SAMPLE, data)
    promise = decode_manifest(manifest, digest)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactDamaged):
            decode_arrays(promise, data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_its_limit_or_its_file_is_refused() -> None:
    """The length that the file claims is checked before anything of that length is looked at."""
    for claimed in (MAX_HEADER_BYTES + 1, 2**63, len(SAMPLE.arrays)):
        data = struct.pack("<Q", claimed) + SAMPLE.arrays[8:]
        manifest, digest = forge(SAMPLE, data)
        with pytest.raises(ArtifactDamaged, match="larger than"):
            decode_arrays(decode_manifest(manifest, digest), data)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": "1"},
        {"arrays": [{"name": "a", "dtype": "F32", "shape": [-1]}]},
        {"arrays": [{"name": "a", "dtype": "F32", "shape": [1, 1, 1, 1]}]},
        {"arrays": [{"name": "a", "dtype": "O", "shape": [1]}]},
        {"arrays": [{"name": "a", "dtype": "F32", "shape": ["2"]}]},
        {"arrays": {}},
        {"array_file": {"sha256": "../../etc/passwd", "size_bytes": 8}},
        {"array_file": {"sha256": "0" * 64, "size_bytes": MAX_ARRAY_FILE_BYTES + 1}},
        {"array_file": {"sha256": "0" * 64, "size_bytes": -1}},
    ],
)
def test_a_manifest_with_wrong_keys_is_refused_by_name(change: dict[str, object]) -> None:
    """The sentence names the key that is wrong."""
    data = json.dumps(json.loads(SAMPLE.manifest) | change).encode()
    with pytest.raises(ArtifactDamaged, match=f"is wrong at {next(iter(change))}"):
        decode_manifest(data, hashlib.sha256(data).hexdigest())


def test_a_manifest_nested_without_end_is_refused() -> None:
    """Depth is limited, however small the bytes are."""
    for nested in ("[" * 100_000, '{"a":' * 5_000, "[" * 17 + "]" * 17):
        data = json.dumps(json.loads(SAMPLE.manifest))[:-1].encode() + b',"z":' + nested.encode() + b"}"
        with pytest.raises(ArtifactDamaged):
            decode_manifest(data, hashlib.sha256(data).hexdigest())


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    """A payload in either file, with every digest right, is refused; the canary it would create is not there."""
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    for data in (payload, file_with(payload), file_with({"a": A, "b": B}, payload)):
        manifest, digest = forge(SAMPLE, data)
        with pytest.raises(ArtifactDamaged):
            decode_arrays(decode_manifest(manifest, digest), data)
    with pytest.raises(ArtifactDamaged):
        decode_manifest(payload, hashlib.sha256(payload).hexdigest())
    assert not canary.exists()
    pickle.loads(payload)
    assert canary.exists()  # the canary itself works
