"""The isolation forest (Liu, Ting and Zhou, 2008) as a few flat arrays: 4 bytes a node, compiled, one block a fleet.

Scores are scikit-learn's `-score_samples`: in (0, 1], higher is more anomalous. How nodes are packed, and why, is told
in `forest_kernels`, how a forest is stored in `forest_layout`. 100 trees of 256 rows take about 60 KB of memory in the
compact layout, twice that in the exact one, and 40 KB when dumped. The detector above it calibrates and names things.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors import forest_kernels as kernels
from foreshock.detectors.forest_layout import (
    MAX_FEATURES,
    MAX_NODES,
    MAX_TREES,
    Forest,
    Layout,
    Nodes,
    dump,
    from_sklearn,
    load,
)

__all__ = [
    "Forest",
    "ForestBlock",
    "credits",
    "dump",
    "expected_paths",
    "fit",
    "from_sklearn",
    "load",
    "pack",
    "score",
    "score_fleet",
]

# The centre and the spread of the codes need no more rows than this.
SCALE_ROWS = 256


def fit(
    rows: NDArray[np.floating[Any]], *, n_trees: int = 100, sample_size: int = 256, seed: int, compact: bool = True
) -> Forest:
    """Grow a forest that ranks as scikit-learn's does; equal rows and seed give equal arrays.

    `rows` (n, n_features), finite; they are rounded to float32. Each tree sees `sample_size` rows drawn without
    replacement, all of them when there are fewer, and is ceil(log2(sample_size)) levels deep. Unlike scikit-learn,
    which takes a feature for constant when its range is below 1e-7, the unit of a feature does not matter.

    Raises:
        ValueError: no row, a value that is not a finite float32, or a parameter beyond its bounds.

    """
    if rows.ndim != 2 or rows.shape[0] == 0 or not 1 <= rows.shape[1] <= MAX_FEATURES:
        raise ValueError(f"rows have shape {rows.shape}; a forest needs a row and 1 to {MAX_FEATURES} features")
    values = _float32_rows(rows)
    n_rows, n_features = values.shape
    if not 1 <= n_trees <= MAX_TREES or sample_size < 1:
        raise ValueError(f"n_trees is {n_trees} and sample_size {sample_size}; use 1 to {MAX_TREES}, and at least 1")
    sample_size = min(sample_size, n_rows)
    n_levels = math.ceil(math.log2(max(sample_size, 2)))
    if n_trees * (2 * sample_size - 1) > MAX_NODES:
        raise ValueError(
            f"{n_trees} trees of {sample_size} rows may exceed {MAX_NODES} nodes; use fewer or smaller ones"
        )
    if compact and not Layout(32, n_features, n_levels).holds(sample_size):
        raise ValueError(
            f"{n_features} features and samples of {sample_size} rows do not fit nodes of 4 bytes; pass compact=False"
        )
    varying = np.flatnonzero(values.min(axis=0) < values.max(axis=0))
    nodes, roots = kernels.grow(values, varying, n_trees, sample_size, n_levels, np.uint64(int(seed) & (2**64 - 1)))
    scales = _scales(values)
    if compact:
        exact, nodes = nodes, np.empty(nodes.shape, np.int32)
        kernels.narrow(exact, n_levels, scales, nodes)
    return Forest(nodes, roots, scales, sample_size, n_levels)


def score(forest: Forest, rows: NDArray[np.floating[Any]]) -> Array:
    """The anomaly score of each row, 2 ** (-mean path / c(sample_size)): about 0.5 is ordinary, near 1 is alone.

    `rows` (n, n_features), rounded to float32 as scikit-learn does. Result (n,).

    Raises:
        ValueError: another number of features, or a value that is not a finite float32.

    """
    values = _rows(rows, forest.scales.shape[0])
    scores = np.empty(values.shape[0])
    bad_row = kernels.score_rows(
        forest.nodes, forest.roots, forest.scales, forest.n_levels, forest.sample_size, values, scores
    )
    if bad_row >= 0:
        raise _not_finite(bad_row)
    return scores


def expected_paths(forest: Forest) -> NDArray[np.float32]:
    """The mean path length of the training sample at each node, (n_nodes,), from the rows that the leaves have counted.

    It is derived from the forest in about the time of ten scores and never stored; keep it where many rows, one by
    one, ask for `credits`.
    """
    expected = np.empty(forest.nodes.shape[0], np.float32)
    kernels.expect_paths(forest.nodes, forest.n_features, forest.n_levels, expected)
    expected.flags.writeable = False
    return expected


def credits(  # noqa: A001 - the word of the trade; the interpreter's `credits` is for its prompt
    forest: Forest, rows: NDArray[np.floating[Any]], expected: NDArray[np.float32] | None = None
) -> Array:
    """How many edges each feature took off the path of each row: positive made it more anomalous (Saabas, 2014).

    `rows` (n, n_features); `expected` is `expected_paths(forest)`. Result (n, n_features). A row's credits sum to the
    expected path at the root minus its own path, both averaged over the trees: 0 for a row as deep as the average.

    Raises:
        ValueError: another number of features, a value that is not a finite float32, or another forest's `expected`.

    """
    values = _rows(rows, forest.n_features)
    if expected is None:
        expected = expected_paths(forest)
    elif expected.shape != forest.nodes.shape:
        raise ValueError(
            f"expected has shape {expected.shape}, the forest {forest.nodes.size} nodes; give that forest's own"
        )
    result = np.empty(values.shape)
    bad_row = kernels.credit_rows(forest.nodes, forest.roots, forest.scales, forest.n_levels, expected, values, result)
    if bad_row >= 0:
        raise _not_finite(bad_row)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class ForestBlock:
    """The forests of a fleet in one contiguous block, whatever their number of trees and features.

    `headers` int64 (n_models, 7): first node, first root, first scale, trees, features, levels, sample size.
    """

    nodes: Nodes
    roots: NDArray[np.int32]
    scales: NDArray[np.float32]
    headers: NDArray[np.int64]

    def __post_init__(self) -> None:
        for array in (self.nodes, self.roots, self.scales, self.headers):
            array.flags.writeable = False

    def __len__(self) -> int:
        return int(self.headers.shape[0])

    def forest(self, index: int) -> Forest:
        """One of the forests, sharing the block's memory."""
        node, root, scale, n_trees, n_features, n_levels, sample_size = (int(value) for value in self.headers[index])
        roots = self.roots[root : root + n_trees + 1]
        nodes = self.nodes[node : node + int(roots[-1])]
        return Forest(nodes, roots, self.scales[scale : scale + n_features], sample_size, n_levels)


def pack(forests: Sequence[Forest]) -> ForestBlock:
    """Copy forests of one layout into a block; the i-th is scored where `model_index` is i.

    Raises:
        ValueError: no forest, or both layouts at once.

    """
    if len({forest.nodes.dtype for forest in forests}) != 1:
        raise ValueError("a block needs forests, all of them compact or all of them exact")
    headers = np.empty((len(forests), 7), np.int64)
    node = root = scale = 0
    for index, forest in enumerate(forests):
        headers[index] = node, root, scale, forest.n_trees, forest.n_features, forest.n_levels, forest.sample_size
        node += forest.nodes.size
        root += forest.roots.size
        scale += forest.n_features
    return ForestBlock(
        np.concatenate([forest.nodes for forest in forests]),
        np.concatenate([forest.roots for forest in forests]),
        np.concatenate([forest.scales for forest in forests]),
        headers,
    )


def score_fleet(
    block: ForestBlock, values: Array, row_starts: NDArray[np.int64], model_index: NDArray[np.int64]
) -> Array:
    """Score each row by its own model, bit for bit as `score` does.

    `values` (total,): the rows one after another. `row_starts` (n + 1,): row i lies from `row_starts[i]` to
    `row_starts[i + 1]` and is as long as its model has features. `model_index` (n,): the place of its model in the
    block. Result (n,).

    Raises:
        ValueError: an unknown model, a row of another length, or a value that is not a finite float32.

    """
    flat = np.array(values, np.float64, order="C")
    starts = np.array(row_starts, np.int64)
    index = np.array(model_index, np.int64)
    if flat.ndim != 1 or index.ndim != 1 or starts.shape != (index.size + 1,):
        raise ValueError(f"values {flat.shape}, row_starts {starts.shape} and model_index {index.shape} do not match")
    if index.size == 0:
        return np.empty(0)
    if index.min() < 0 or index.max() >= len(block):
        raise ValueError(f"model_index reaches from {index.min()} to {index.max()}; the block has {len(block)} models")
    if starts[0] < 0 or starts[-1] > flat.size or np.any(np.diff(starts) != block.headers[index, 4]):
        raise ValueError("row_starts leave the values, or a row is not as long as its model has features")
    scores = np.empty(index.size)
    bad_row = kernels.score_fleet_rows(
        block.nodes, block.roots, block.scales, block.headers, flat, starts, index, scores
    )
    if bad_row >= 0:
        raise _not_finite(bad_row)
    return scores


def _rows(rows: NDArray[np.floating[Any]], n_features: int) -> Array:
    """Float64 rows of the one kind of array for which the kernels are compiled: contiguous, aligned and writable."""
    values = np.ascontiguousarray(rows, np.float64)
    if values.shape[1:] != (n_features,):
        raise ValueError(f"rows have shape {values.shape}, expected (n, {n_features})")
    return values if values.flags.carray else values.copy()


def _float32_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = np.array(rows, np.float32, order="C")
    values += np.float32(0.0)  # -0.0 becomes 0.0, as in the codes
    # A NaN or an infinity is the smallest or the largest value of its feature.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise _not_finite(int(np.argmin(np.isfinite(values).all(axis=1))))
    return values


def _not_finite(row: int) -> ValueError:
    return ValueError(f"row {row} holds NaN or a value beyond float32; leave such rows out")


def _scales(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre and 1 / spread of each feature, and a column for `narrow`: the codes are finest where rows are densest.

    The centre is the middle of the shortest interval that holds a quarter of the rows, so that of two levels the narrow
    one is resolved, and the spread the lower quartile of the distances from it, of the rows that are not on it: a count
    that is nearly always 0 still gets its resolution. Taken from up to `SCALE_ROWS` evenly spaced rows; a feature that
    does not vary among them is scaled by its largest distance overall.
    """
    some = np.sort(values[:: -(-values.shape[0] // SCALE_ROWS)].T.astype(np.float64), axis=1)
    n_rows = some.shape[1]
    quarter = n_rows // 4
    each = np.arange(some.shape[0])
    centre = some[each, np.argmin(some[:, quarter:] - some[:, : n_rows - quarter], axis=1) + quarter // 2]
    centre = centre.astype(np.float32).astype(np.float64)
    distance = np.sort(np.abs(some - centre[:, None]), axis=1)
    n_on_centre = (distance == 0).sum(axis=1)
    spread = distance[each, np.minimum(n_on_centre + (n_rows - n_on_centre) // 4, n_rows - 1)]
    for feature in np.flatnonzero(spread == 0):
        spread[feature] = np.max(np.abs(values[:, feature] - centre[feature]))
    # Kept within what 1 / spread can be in float32; a feature without any spread is never asked.
    inverse = 1.0 / np.clip(np.where(spread > 0, spread, 1.0), 1e-37, 1e37)
    return np.column_stack([centre, inverse, np.zeros_like(inverse)]).astype(np.float32)
