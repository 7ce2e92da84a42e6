"""What travels between the engine and an extractor: one version, every size bounded both ways, arrays to the bit.

JSON, so that a person can read a request and a schema can describe it; arrays are base64 of little-endian numbers,
row after row: samples in float32, which is what every process rounds them to, vectors in float64. A detector's known
rows come first, in the order of its `groups`, a shape's detectors one after another. A request names a datasource and
models, never an address.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from foreshock import __version__
from foreshock.core.frame import Array
from foreshock.features.schema import STATISTICS, Schema
from foreshock.manifests.fields import ConfiguredName, refuse
from foreshock.manifests.problems import Broken, refuse_all

VERSION: Final = 1
PATH: Final = "/v1/vectors"
FEATURES: Final = Schema(("metric",), 60, 3600).fingerprint
"""What the vectors hold: an extractor that computes other statistics is another extractor."""

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_DETECTORS: Final = 1_000
MAX_ROWS: Final = 100_000
"""Rows of an answer, those counted that `max_groups` allows."""
MAX_CELLS: Final = 4 * 1024 * 1024
"""Samples of a request or an answer, each of the two: 16 MiB as they are, 22 MiB as base64."""
MAX_HELD_CELLS: Final = 8 * 1024 * 1024
"""Samples in an extractor's rings while it works on one request: 64 MiB."""

_LATEST_S = 32_503_680_000  # the year 3000: civil time ends somewhere after it
_VECTOR_CELLS = 2 * (len(STATISTICS) + 1)  # of float32, for the float64 vector of one metric and its gap
_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Samples = NDArray[np.float32]


def _read_base64(value: object) -> object:
    if isinstance(value, bytes):
        return value
    try:
        return binascii.a2b_base64(value, strict_mode=True) if isinstance(value, str) else _no_base64()
    except ValueError:
        _no_base64()


def _no_base64() -> NoReturn:
    refuse("{field} must be base64 of the array's bytes.")


Packed = Annotated[
    bytes,
    BeforeValidator(_read_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0, le=MAX_ROWS)]
Identifier = Annotated[str, Field(max_length=100, pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")]
Message = Annotated[str, Field(max_length=4096)]
Labels = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=10)]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MetricAsked(_Wire):
    """One metric of a detector, in the order of its model."""

    name: Identifier
    query: str = Field(min_length=1, max_length=32_768, description="PromQL; see the manifest's own field.")


class GroupAsked(_Wire):
    """One row that is known already: its label values in the order of the labels' names, and its model."""

    labels: Labels = ()
    model: Sha256 | None = Field(default=None, description="Digest of the model whose baseline the vector needs.")


class DetectorAsked(_Wire):
    """One detector: what it asks, and the rows that it has."""

    name: str = Field(max_length=317, pattern=_NAME, description="namespace/name")
    metrics: tuple[MetricAsked, ...] = Field(min_length=1, max_length=100)
    group_by: tuple[Identifier, ...] = Field(default=(), max_length=10)
    max_groups: int = Field(default=1000, ge=1, le=10_000)
    groups: tuple[GroupAsked, ...] = Field(
        default=(), max_length=10_000, description="Without group_by exactly one, without labels."
    )

    @property
    def label_names(self) -> tuple[str, ...]:
        """In the order of their names, which is that of every `labels`."""
        return tuple(sorted(self.group_by))

    @property
    def most_rows(self) -> int:
        """How many rows the answer may hold for it."""
        return max(self.max_groups, len(self.groups)) if self.group_by else 1


class ShapeAsked(_Wire):
    """Detectors of one window and one number of metrics."""

    window_s: int = Field(ge=2, le=30 * 86_400)
    detectors: tuple[DetectorAsked, ...] = Field(min_length=1, max_length=MAX_DETECTORS)
    held: Packed = Field(
        default=b"",
        description="float32 (rows with a model, context steps that precede from_s, metrics): the samples that the "
        "asker has already, so that the datasource is only asked for those from from_s on.",
    )

    @property
    def n_metrics(self) -> int:
        return len(self.detectors[0].metrics)

    @property
    def digests(self) -> tuple[str | None, ...]:
        """The model of each known row."""
        return tuple(group.model for detector in self.detectors for group in detector.groups)


class ExtractionRequest(_Wire):
    """Bring some detectors of one datasource up to one instant."""

    version: Literal[1]
    datasource: ConfiguredName = Field(description="A name of the extractor's own settings.")
    step_s: int = Field(ge=1, le=86_400)
    from_s: int = Field(ge=0, le=_LATEST_S, description="The first instant that the asker lacks, UTC seconds.")
    at_s: int = Field(ge=0, le=_LATEST_S, description="The instant to judge.")
    deadline_s: float = Field(gt=0, le=600, description="How long somebody waits for the answer, from now.")
    shapes: tuple[ShapeAsked, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        refuse_all(tuple(_broken_rules(self)))
        return self

    @property
    def n_fresh(self) -> int:
        """Steps from `from_s` to `at_s`."""
        return (self.at_s - self.from_s) // self.step_s + 1

    def schema_of(self, shape: ShapeAsked) -> Schema:
        """What the vectors of a shape are computed by."""
        return Schema(tuple(metric.name for metric in shape.detectors[0].metrics), self.step_s, shape.window_s)

    def n_held(self, shape: ShapeAsked) -> int:
        """Steps of the context that precede `from_s`."""
        return self.schema_of(shape).context_steps - self.n_fresh


class GroupFound(_Wire):
    """A row that the asker did not know; its samples follow those of the known rows."""

    detector: Index = Field(description="Position among the shape's detectors.")
    labels: Labels


class ShapeAnswer(_Wire):
    """The arrays of one shape; rows with a model are those that were asked with one, in their order."""

    found: tuple[GroupFound, ...] = Field(default=(), max_length=MAX_ROWS)
    samples: Packed = Field(description="float32 (rows and found, steps from from_s to at_s, metrics)")
    vectors: Packed = Field(description=f"float64 (rows with a model, metrics, {len(STATISTICS)}); NaN: not described")
    gaps: Packed = Field(description="float64 (rows with a model, metrics): steps since the newest sample")


class FailureSaid(_Wire):
    """Why a detector has no samples at this instant; or, in `degraded`, why they may not be all."""

    shape: Index
    detector: Index
    reason: Literal["QueryRejected", "TooManySeries", "QueryBudgetSpent", "DatasourceUnavailable", "PartialResponse"]
    message: Message


class ModelUnusable(_Wire):
    """Why a row has samples and no vector."""

    digest: Sha256
    reason: Annotated[str, Field(max_length=64)]
    message: Message


class ExtractionAnswer(_Wire):
    """One answer for every shape, in the order of the request."""

    version: Literal[1] = VERSION
    foreshock: Annotated[str, Field(max_length=64)] = __version__
    features: Annotated[str, Field(max_length=64)] = FEATURES
    shapes: tuple[ShapeAnswer, ...] = Field(max_length=100)
    failures: tuple[FailureSaid, ...] = Field(default=(), max_length=MAX_DETECTORS)
    degraded: tuple[FailureSaid, ...] = Field(default=(), max_length=MAX_DETECTORS)
    unusable: tuple[ModelUnusable, ...] = Field(default=(), max_length=MAX_ROWS)


class Refusal(_Wire):
    """Every answer that is not 200: a closed reason and one sentence that says what to do."""

    reason: Literal[
        "BadRequest", "TooLarge", "TooSlow", "UnknownDatasource", "Full", "DeadlinePassed", "NotReady", "Failed"
    ]
    message: Message


def pack(array: Array | Samples, kind: str) -> bytes:
    """The bytes of an array; `kind` is `<f4` or `<f8`."""
    return np.ascontiguousarray(array, dtype=kind).tobytes()


def unpack(data: bytes, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array of these bytes, read-only.

    Raises:
        ValueError: there are more or fewer bytes than the shape holds.

    """
    return np.frombuffer(data, dtype=kind).reshape(shape)


@dataclass(frozen=True, slots=True)
class Load:
    """What some detectors cost both sides at most; both count alike, so that an asker never asks for too much."""

    detectors: int = 0
    rows: int = 0  # of the answer, those counted that `max_groups` allows
    asked: int = 0  # samples
    answered: int = 0  # samples and vectors, in cells of float32
    held: int = 0  # samples in the rings of the extractor

    @classmethod
    def of(cls, schema: Schema, n_fresh: int, *, n_rows: int, most_rows: int) -> Load:
        """The load of one detector that has `n_rows` rows and may come to have `most_rows`."""
        n_metrics, context = len(schema.metrics), schema.context_steps
        return cls(
            detectors=1,
            rows=most_rows,
            asked=n_rows * (context - n_fresh) * n_metrics,
            answered=(most_rows * n_fresh + n_rows * _VECTOR_CELLS) * n_metrics,
            held=most_rows * context * n_metrics,
        )

    def __add__(self, other: Load) -> Load:
        return Load(
            self.detectors + other.detectors,
            self.rows + other.rows,
            self.asked + other.asked,
            self.answered + other.answered,
            self.held + other.held,
        )

    @property
    def is_too_much(self) -> bool:
        """Whether no extractor takes this in one request."""
        return (
            self.detectors > MAX_DETECTORS
            or self.rows > MAX_ROWS
            or max(self.asked, self.answered) > MAX_CELLS
            or self.held > MAX_HELD_CELLS
        )


def _broken_rules(asked: ExtractionRequest) -> Iterator[Broken]:
    """Every rule between fields that does not hold; the sizes only where everything else does."""
    if asked.at_s < asked.from_s or (asked.at_s - asked.from_s) % asked.step_s:
        yield Broken("at_s", "at_s must be from_s or a whole number of steps after it.")
        return
    sound = True
    names: set[str] = set()
    for k, shape in enumerate(asked.shapes):
        for broken in _broken_in_shape(asked, shape, f"shapes[{k}]", names):
            sound = False
            yield broken
    if sound:
        yield from _beyond_bounds(asked)


def _broken_in_shape(asked: ExtractionRequest, shape: ShapeAsked, path: str, names: set[str]) -> Iterator[Broken]:
    if shape.window_s < 2 * asked.step_s:
        yield Broken(f"{path}.window_s", "window_s holds fewer than two steps; lengthen it or shorten step_s.")
        return
    if asked.n_held(shape) < 0:
        yield Broken("from_s", "from_s lies before the context of a window; ask for no more than it needs.")
    for i, detector in enumerate(shape.detectors):
        where = f"{path}.detectors[{i}]"
        if detector.name in names:
            yield Broken(f"{where}.name", f"{detector.name} is asked for twice; ask once.")
        names.add(detector.name)
        if len(detector.metrics) != shape.n_metrics:
            yield Broken(f"{where}.metrics", "Detectors of one shape have the same number of metrics; split the shape.")
        if len({metric.name for metric in detector.metrics}) < len(detector.metrics):
            yield Broken(f"{where}.metrics", "A metric's name is taken; give each metric its own.")
        yield from _broken_groups(detector, f"{where}.groups")


def _broken_groups(detector: DetectorAsked, path: str) -> Iterator[Broken]:
    labels = [group.labels for group in detector.groups]
    if len(set(detector.group_by)) < len(detector.group_by):
        yield Broken(path.removesuffix("groups") + "group_by", "group_by names a label twice; remove one.")
    if any(len(each) != len(detector.group_by) for each in labels):
        yield Broken(path, "labels must hold one value for each label of group_by.")
    elif not detector.group_by and len(labels) != 1:
        yield Broken(path, "A detector without group_by has exactly one group; write [{}].")
    elif len(labels) > detector.max_groups:
        yield Broken(path, "There are more groups than max_groups.")
    elif len(set(labels)) < len(labels):
        yield Broken(path, "A group is there twice; ask once.")


def _beyond_bounds(asked: ExtractionRequest) -> Iterator[Broken]:
    load = Load()
    for k, shape in enumerate(asked.shapes):
        n_metrics, n_held, schema = shape.n_metrics, asked.n_held(shape), asked.schema_of(shape)
        with_model = sum(digest is not None for digest in shape.digests)
        if len(shape.held) != with_model * n_held * n_metrics * 4:
            yield Broken(
                f"shapes[{k}].held",
                f"held must be {with_model} rows of {n_held} steps of {n_metrics} metrics in float32, "
                f"{with_model * n_held * n_metrics * 4} bytes; there are {len(shape.held)}.",
            )
        for each in shape.detectors:
            load += Load.of(schema, asked.n_fresh, n_rows=len(each.groups), most_rows=each.most_rows)
    if load.is_too_much:
        yield Broken(
            "shapes",
            f"{load.detectors} detectors of up to {load.rows} rows are more than one request may ask for: at most "
            f"{MAX_DETECTORS} detectors, {MAX_ROWS} rows, {MAX_CELLS} samples each way; send several requests.",
        )
