"""The evidence bundle: all that a judgement rested on, so that it can be judged again without the datasource.

Versioned and bounded: names and numbers for people, and the samples themselves, packed, for `foreshock explain`.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foreshock.core.errors import Damaged
from foreshock.core.frame import Array, Block

BUNDLE_VERSION: Final = 1
MAX_FEATURES = 200
MAX_METRICS = 20  # of which units and availability are written out; the packed samples hold all
MAX_FEATURE_SHARES = 20
MAX_PAIRS = 5
MAX_REASONS = 10
MAX_CHANNELS = 10
MAX_PACKED_CHARS = 64 * 1024  # each packed array; samples beyond it are left out, and the vector stands for them
MAX_LINK_CHARS = 2_048

Name = Annotated[str, Field(max_length=256)]
FeatureName = Annotated[str, Field(max_length=128)]
Packed = Annotated[str, Field(max_length=MAX_PACKED_CHARS)]


class Part(BaseModel):
    """A piece of an event: frozen, and exactly what the schema says."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class FeatureShare(Part):
    """How much one statistic of one metric had to do with the score; the shares of one judgement add up to 1."""

    feature: FeatureName = Field(description="`metric.statistic`")
    share: float


class BrokenPair(Part):
    """Two metrics that stopped to move together: the correlation of what is unusual about them, before and now."""

    metric: Name
    other: Name
    before: float
    now: float


class TrainingFacts(Part):
    """How many rows taught the model, and which did not, by reason."""

    rows_used: int
    rows_excluded: dict[Name, int] = Field(max_length=MAX_REASONS)


class ChannelFacts(Part):
    """One channel's calibrated score, and the raw scores that it calls 0 and 1."""

    channel: Name
    score: float
    middle: float
    threshold: float


class CalibrationFacts(Part):
    """Why 1.0 is the threshold."""

    false_alarm_budget: Name
    tail: Name
    channels: list[ChannelFacts] = Field(max_length=MAX_CHANNELS)


class ReplayFacts(Part):
    """The input of the judgement, exact: little-endian arrays, zlib, base64.

    `samples` float32 (steps, metrics) ending at `end`; null where they would be too large or were read elsewhere.
    `vector` float64 (metrics, statistics); `gaps` float64 (metrics,); `rules` float64 (metrics, 6): direction,
    min_deviation, min_relative_deviation, is_load, valid_low, valid_high.
    """

    end_s: int
    step_s: int
    window_s: int
    samples: Packed | None
    vector: Packed | None
    gaps: Packed
    rules: Packed


class Bundle(Part):
    """What the judgement rested on, beside what every event says."""

    version: Literal[1] = BUNDLE_VERSION
    units: dict[Name, Annotated[str, Field(max_length=32)]] = Field(
        max_length=MAX_METRICS, description="Of each metric whose name says it."
    )
    data_availability: dict[Name, float] = Field(
        max_length=MAX_METRICS, description="Share of the window that was measured, by metric."
    )
    expected: dict[FeatureName, float | None] = Field(
        max_length=MAX_FEATURES, description="What was expected of each of `features`, in its unit."
    )
    feature_contributions: list[FeatureShare] = Field(max_length=MAX_FEATURE_SHARES)
    broken_pairs: list[BrokenPair] = Field(max_length=MAX_PAIRS)
    training: TrainingFacts | None
    calibration: CalibrationFacts | None
    links: dict[Name, Annotated[str, Field(max_length=MAX_LINK_CHARS)]] = Field(max_length=4)
    replay: ReplayFacts | None


def pack(array: Block) -> str | None:
    """The array's bytes as text, or None where that is longer than an event may hold."""
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    text = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return text if len(text) <= MAX_PACKED_CHARS else None


def unpack(text: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """The array that `pack` took, as float64; never takes more memory than the shape asks for.

    Raises:
        Damaged: the text is no packed array, or one of another size.

    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise Damaged(f"The packed samples of this evidence are damaged ({error}): use another copy of it.") from error
    if len(raw) != size:
        raise Damaged("The packed samples of this evidence do not fit its model: one of them is not what it was.")
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(np.float64)
