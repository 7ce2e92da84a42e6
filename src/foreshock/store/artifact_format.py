"""The bytes of a model artifact: canonical JSON manifest and safetensors file, every limit checked before allocation.

Nothing here executes what it reads: JSON, numbers and byte ranges are all there is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from foreshock.core.errors import ArtifactDamaged

FORMAT_VERSION: Final = 1
MAX_MANIFEST_BYTES = 256 * 1024
MAX_MANIFEST_DEPTH = 16
# One revision holds the models of all groups of its detector: 600 groups of 105 KB, the flat arrays of 200 trees.
MAX_ARRAY_FILE_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_RANK = 3
_DTYPES = {"F32": "<f4", "F64": "<f8", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1"}  # safetensors to numpy
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_RESERVED = ("schema_version", "arrays", "array_file")

AnyArray = NDArray[Any]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _ArraySpec(_Part):
    name: str = Field(min_length=1, max_length=256)
    dtype: Literal["F32", "F64", "I16", "I32", "I64", "U8"]
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_RANK)

    @property
    def size_bytes(self) -> int:
        """The exact size, in Python's integers, which do not overflow."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


class _ArrayFile(_Part):
    sha256: Sha256
    size_bytes: int = Field(ge=8, le=MAX_ARRAY_FILE_BYTES)


class _Manifest(BaseModel):
    """What the store itself needs; the other keys are the trainer's, and JSON values."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    schema_version: Literal[1]
    arrays: list[_ArraySpec]
    array_file: _ArrayFile


class _HeaderEntry(_Part):
    dtype: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_RANK)
    data_offsets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


_Header = TypeAdapter(dict[str, _HeaderEntry])


@dataclass(frozen=True, slots=True)
class Encoded:
    """An artifact as bytes: `digest` is the sha256 of `manifest`, which holds the sha256 of `arrays`."""

    digest: str
    manifest: bytes
    arrays: bytes


@dataclass(frozen=True, slots=True)
class Promise:
    """What a verified manifest says about its array file, and the trainer's own keys."""

    sha256: str
    size_bytes: int
    specs: tuple[_ArraySpec, ...]
    document: dict[str, Any]


def encode(arrays: Mapping[str, AnyArray], document: Mapping[str, Any]) -> Encoded:
    """Equal input gives equal bytes, whatever the order of the names and the layout in memory.

    Raises:
        ValueError: a key of the document is reserved, or a value is no JSON, or an array has another dtype or rank.
        ArtifactDamaged: the artifact is beyond its limits, and could not be read back.

    """
    if taken := sorted(set(document) & set(_RESERVED)):
        raise ValueError(f"the manifest's keys {', '.join(taken)} are the store's own")
    flat = {name: _as_stored(name, arrays[name]) for name in sorted(arrays)}
    specs = [
        {"name": name, "dtype": _CODES[array.dtype], "shape": [int(length) for length in array.shape]}
        for name, array in flat.items()
    ]
    if sum(array.nbytes for array in flat.values()) > MAX_ARRAY_FILE_BYTES - MAX_HEADER_BYTES:
        raise ArtifactDamaged(f"A model is larger than {MAX_ARRAY_FILE_BYTES} bytes: use fewer groups or trees.")
    data = save_safetensors(flat)
    array_file = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    manifest = _canonical({**document, "schema_version": FORMAT_VERSION, "arrays": specs, "array_file": array_file})
    encoded = Encoded(hashlib.sha256(manifest).hexdigest(), manifest, data)
    decode_arrays(decode_manifest(manifest, encoded.digest), data)  # what cannot be read back is never written
    return encoded


def decode_manifest(data: bytes, digest: str) -> Promise:
    """Check size, digest, depth and keys of a manifest, in this order.

    Raises:
        ArtifactDamaged: it is not what its digest says, or beyond its limits.

    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactDamaged(f"The manifest of artifact {digest} is larger than {MAX_MANIFEST_BYTES} bytes.")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactDamaged(f"The manifest of artifact {digest} does not have this sha256.")
    try:
        manifest = _Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its JSON"
        raise ArtifactDamaged(f"The manifest of artifact {digest} is wrong at {where}: {first['msg']}.") from error
    document = dict(manifest.__pydantic_extra__)
    if _depth(document) > MAX_MANIFEST_DEPTH:
        raise ArtifactDamaged(f"The manifest of artifact {digest} is nested more than {MAX_MANIFEST_DEPTH} deep.")
    file = manifest.array_file
    return Promise(file.sha256, file.size_bytes, tuple(manifest.arrays), document)


def decode_arrays(promise: Promise, data: bytes) -> dict[str, AnyArray]:
    """Check size, digest, header and every byte range of an array file against its manifest, then read it.

    Raises:
        ArtifactDamaged: it is not what its manifest says, or beyond its limits.

    """
    if len(data) != promise.size_bytes:
        raise ArtifactDamaged(f"An array file has {len(data)} bytes where its manifest says {promise.size_bytes}.")
    if hashlib.sha256(data).hexdigest() != promise.sha256:
        raise ArtifactDamaged(f"An array file does not have the sha256 {promise.sha256} of its manifest.")
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ArtifactDamaged(f"The header of an array file is larger than {MAX_HEADER_BYTES} bytes or its file.")
    try:
        header = _Header.validate_json(data[8 : 8 + header_bytes])
    except ValidationError as error:
        raise ArtifactDamaged("The header of an array file is not what safetensors writes.") from error
    _check_ranges(promise, header, len(data) - 8 - header_bytes)
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise ArtifactDamaged("An array file is not what safetensors writes.") from error


def _check_ranges(promise: Promise, header: dict[str, _HeaderEntry], n_bytes: int) -> None:
    """Each array is the manifest's, and the byte ranges cover the data once, without hole or overlap."""
    specs = {spec.name: spec for spec in promise.specs}
    if set(specs) != set(header) or len(specs) != len(promise.specs):
        raise ArtifactDamaged("An array file and its manifest name different arrays.")
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: tuple(item[1].data_offsets)):
        spec, (first, last) = specs[name], entry.data_offsets
        if entry.dtype != spec.dtype or entry.shape != spec.shape:
            raise ArtifactDamaged(f"Array {name!r} is {entry.dtype}{entry.shape}, its manifest says otherwise.")
        if first != position or last - first != spec.size_bytes:
            raise ArtifactDamaged(f"Array {name!r} does not fill the byte range that its header names.")
        position = last
    if position != n_bytes:
        raise ArtifactDamaged("An array file holds bytes that belong to no array.")


def _as_stored(name: str, array: AnyArray) -> AnyArray:
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    if little.dtype not in _CODES or little.ndim > MAX_RANK:
        raise ValueError(
            f"array {name!r} is {array.dtype} of rank {array.ndim}; an artifact holds "
            f"{', '.join(sorted(_CODES.values()))} up to rank {MAX_RANK}"
        )
    return little


def _canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no blanks; floats as Python writes them, which reads back to the same bits."""
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(f"the manifest holds a value that is no JSON: {error}") from error


def _depth(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(child) for child in children), default=0)
