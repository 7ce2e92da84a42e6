"""`autoencoder`: the numbers of a window do not fit together. What a narrow network cannot give back of them.

It learns curved shapes that neither pairs of metrics nor cuts along one axis describe: busy is loud and idle is calm,
so that busy and calm is neither. scikit-learn trains it; stored and run are plain arrays.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from foreshock.core.frame import Array, Block
from foreshock.detectors.base import Arrays, Lesson
from foreshock.detectors.calibrate import AIM
from foreshock.detectors.rules import Rules
from foreshock.features.schema import INDEX

_SHAPE = ("deviation_recent", "deviation_mean", "deviation_rate_of_change")
_SCATTER = "deviation_standard_deviation"
N_NUMBERS = len(_SHAPE) + 1  # a metric
_LEAST_SCATTER = 0.05
_MOST_ROWS = 1_500  # to learn from, spread over the history
_MOST_ITERATIONS = 120
_LIMIT = 4.0  # spreads to which a number enters the network: beyond, it would shake what is said of the other metrics
_LEAST_WIDTH = 0.1  # spreads: what the network gives back more finely than that is not worth more


@dataclass(frozen=True, slots=True, eq=False)
class Autoencoder:
    """A network with a bottleneck over robustly scaled window statistics, and how well it usually gives each back.

    What enters is bounded, what it is compared with is not: the error grows on outside of what was seen. Arrays are of
    one model, or with a leading axis of models for a fleet, where `members` says which of them judges each row.
    """

    name: ClassVar[str] = "autoencoder"
    aim: ClassVar[float] = AIM
    ordinary: ClassVar[float] = np.inf
    middle: Array  # (n_numbers,)
    spread: Array  # (n_numbers,)
    width: Array  # (n_numbers,) of the error
    encode: NDArray[np.float32]  # (n_numbers + 1, n_hidden), the last row is the bias, here and below
    squeeze: NDArray[np.float32]  # (n_hidden + 1, n_code)
    widen: NDArray[np.float32]  # (n_code + 1, n_hidden)
    decode: NDArray[np.float32]  # (n_hidden + 1, n_numbers)
    members: NDArray[np.int64] | None = None

    @classmethod
    def fit(cls, vectors: Array, lesson: Lesson) -> Self:
        rows = vectors[:: max(1, len(vectors) // _MOST_ROWS)]
        numbers = _numbers(rows)
        with np.errstate(invalid="ignore"):
            middle = np.nan_to_num(np.nanmedian(np.where(np.isfinite(numbers).any(axis=0), numbers, 0.0), axis=0))
        away = np.nan_to_num(np.abs(numbers - middle))
        spread = np.maximum(1.4826 * np.median(away, axis=0), np.quantile(away, 0.99, axis=0) / 4.0)
        # one that never moved in the history has no width to measure by, and is the business of other channels
        spread = np.where(spread > 1e-9 * (np.abs(middle) + away.max(axis=0, initial=0.0)), spread, np.inf)
        scaled = _scaled(rows, lesson.rules, middle, spread)
        encode, squeeze, widen, decode = _train(np.clip(scaled, -_LIMIT, _LIMIT), lesson.seed)
        trained = cls(middle, spread, np.ones(len(middle)), encode, squeeze, widen, decode)
        error = np.abs(trained._lost(scaled))
        width = np.maximum(np.sqrt((np.minimum(error, _LIMIT) ** 2).mean(axis=0)), _LEAST_WIDTH)
        return replace(trained, width=width)

    def score(self, vectors: Array, rules: Rules) -> Array:
        return np.asarray(np.sqrt(self.contributions(vectors, rules).mean(axis=-1)))

    def contributions(self, vectors: Array, rules: Rules) -> Array:
        """The mean squared error of each metric in squared widths, (n, n_metrics)."""
        return np.asarray(self._squares(vectors, rules).mean(axis=-1))

    def by_feature(self, vectors: Array, rules: Rules) -> Array:
        result = np.zeros(vectors.shape)
        result[..., [INDEX[name] for name in (*_SHAPE, _SCATTER)]] = self._squares(vectors, rules)
        return result

    def _squares(self, vectors: Array, rules: Rules) -> Array:
        scaled = _scaled(vectors, rules, self.middle, self.spread)
        lost = np.where(scaled == 0.0, 0.0, self._lost(scaled) / self.width)  # what is missing is not lost
        return np.asarray(lost.reshape(*vectors.shape[:2], N_NUMBERS) ** 2)

    def _lost(self, scaled: Array) -> Array:
        """What the network does not give back of some rows, (n, n_numbers)."""
        encode, squeeze, widen, decode = map(_as_stack, (self.encode, self.squeeze, self.widen, self.decode))
        members = np.zeros(len(scaled), np.int64) if self.members is None else self.members
        rows = np.ascontiguousarray(scaled)
        return np.asarray(reconstruction_error(rows, members, encode, squeeze, widen, decode, _LIMIT))

    def dump(self) -> Arrays:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "members"}

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        own: dict[str, Any] = {each.name: np.array(arrays[each.name]) for each in fields(cls) if each.name != "members"}
        return cls(**own)

    @classmethod
    def stack(cls, members: tuple[Self, ...]) -> Self:
        names = [each.name for each in fields(cls) if each.name != "members"]
        arrays: dict[str, Any] = {name: np.stack([getattr(member, name) for member in members]) for name in names}
        return cls(**arrays, members=np.arange(len(members)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        members = np.arange(len(self.middle)) if self.members is None else self.members
        # the network stays where it is: copying it for each cycle would cost more than running it
        return replace(
            self, middle=self.middle[rows], spread=self.spread[rows], width=self.width[rows], members=members[rows]
        )


@njit(cache=True, nogil=True)
def reconstruction_error(
    rows: Block, members: Block, encode: Block, squeeze: Block, widen: Block, decode: Block, limit: float
) -> Array:
    """What is lost of each row (n, n_numbers) by the network of its member; every layer (n_models, n_in + 1, n_out).

    Row by row and in one order, so that a fleet and one service's history agree to the bit.
    """
    n, n_numbers = rows.shape
    n_hidden, n_code = encode.shape[2], squeeze.shape[2]
    inside, hidden, code = np.empty(n_numbers), np.empty(n_hidden), np.empty(n_code)
    result = np.empty((n, n_numbers))
    for i in range(n):
        member = members[i]
        for j in range(n_numbers):
            inside[j] = min(max(rows[i, j], -limit), limit)
        _layer(inside, encode[member], hidden)
        _bend(hidden)
        _layer(hidden, squeeze[member], code)
        _bend(code)
        _layer(code, widen[member], hidden)
        _bend(hidden)
        _layer(hidden, decode[member], result[i])
        for j in range(n_numbers):
            result[i, j] = rows[i, j] - result[i, j]
    return result


@njit(nogil=True)
def _layer(values: Block, weights: Block, out: Block) -> None:
    n_in = values.shape[0]
    for k in range(out.shape[0]):
        out[k] = weights[n_in, k]
    for j in range(n_in):
        if values[j] != 0.0:
            for k in range(out.shape[0]):
                out[k] += values[j] * weights[j, k]


@njit(nogil=True)
def _bend(values: Block) -> None:
    for k in range(values.shape[0]):
        values[k] = np.tanh(values[k])


def _train(rows: Array, seed: int) -> list[NDArray[np.float32]]:
    """The four layers of a network that gives (n, n_numbers) back, in float32."""
    # importing it takes a second, which a training has and a cycle has not
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415

    n_numbers = rows.shape[1]
    n_hidden, n_code = min(24, max(8, n_numbers // 2)), min(6, max(1, n_numbers // 4))
    network = MLPRegressor(
        hidden_layer_sizes=(n_hidden, n_code, n_hidden), activation="tanh", solver="lbfgs", alpha=1e-2,
        max_iter=_MOST_ITERATIONS, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():  # the number of iterations is the time that a training may take
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(rows, rows if n_numbers > 1 else rows.ravel())
    pairs = zip(network.coefs_, network.intercepts_, strict=True)
    return [np.vstack([weights, bias]).astype(np.float32) for weights, bias in pairs]


def _as_stack(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    return layer if layer.ndim == 3 else layer[None]


def _numbers(vectors: Array) -> Array:
    """The numbers of each window that are to fit together, (n, n_metrics * N_NUMBERS), metric by metric."""
    scatter = np.log(vectors[..., INDEX[_SCATTER], None] + _LEAST_SCATTER)
    return np.concatenate([vectors[..., [INDEX[name] for name in _SHAPE]], scatter], axis=-1).reshape(len(vectors), -1)


def _scaled(vectors: Array, rules: Rules, middle: Array, spread: Array) -> Array:
    """Distances from the middle in spreads; 0 where a number is missing or its metric does not count."""
    counts = np.repeat(rules.any_counts(vectors), N_NUMBERS, axis=1)
    with np.errstate(invalid="ignore"):
        away = (_numbers(vectors) - middle) / spread
    return np.asarray(np.where(counts & np.isfinite(away), away, 0.0))
