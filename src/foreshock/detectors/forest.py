"""The isolation forest (Liu, Ting and Zhou, 2008) as a few flat arrays: 4 bytes a node, compiled, one block a fleet.

Scores are scikit-learn's `-score_samples`: in (0, 1], higher is more anomalous. How nodes are packed, and why, is told in
`forest_kernels`. A forest of 100 trees of 256 rows takes about 60 KB in the compact layout and twice that in the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ArtifactDamaged
from foreshock.core.frame import Array
from foreshock.detectors import forest_kernels as kernels

MAX_TREES = 2_000
MAX_NODES = 2**20
MAX_FEATURES = 4_095
# Fewer bits cannot keep the compact layout within 1e-2 of the exact one, at most, and 1e-4 on average.
MIN_CODE_BITS = 14
# The centre and the spread of the codes need no more rows than this.
SCALE_ROWS = 256

Nodes = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """A forest is its packed arrays and three numbers; it never changes, and any thread may score with it.

    `nodes` (n_nodes,): int32 in the compact layout, int64 in the exact one. `roots` int32 (n_trees + 1,): where each tree
    begins, and the end. `scales` float32 (n_features, 2): centre and 1 / spread of the compact codes. `n_levels`: no leaf
    lies deeper. All arrays are read-only, so that the kernels are compiled for one kind of array.
    """

    nodes: Nodes
    roots: NDArray[np.int32]
    scales: NDArray[np.float32]
    sample_size: int
    n_levels: int

    def __post_init__(self) -> None:
        for array in (self.nodes, self.roots, self.scales):
            array.flags.writeable = False

    @property
    def n_features(self) -> int:
        return int(self.scales.shape[0])

    @property
    def n_trees(self) -> int:
        return int(self.roots.shape[0]) - 1

    @property
    def size_bytes(self) -> int:
        """What the arrays take in memory, and serialised, give or take a header."""
        return int(self.nodes.nbytes + self.roots.nbytes + self.scales.nbytes)


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
    if compact:
        _check_compact(n_features, sample_size, n_levels)
    varying = np.flatnonzero(values.min(axis=0) < values.max(axis=0))
    nodes, roots = kernels.grow(
        values, varying, n_trees, sample_size, n_levels, np.uint64(seed & (2**64 - 1))
    )
    scales = _scales(values)
    if compact:
        exact, nodes = nodes, np.empty(nodes.shape, np.int32)
        kernels.narrow(exact, scales, n_levels, nodes)
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
        ValueError: another number of features, or a value that is not a finite float32.
    """
    values = _rows(rows, forest.n_features)
    if expected is None:
        expected = expected_paths(forest)
    result = np.empty(values.shape)
    bad_row = kernels.credit_rows(
        forest.nodes, forest.roots, forest.scales, forest.n_levels, expected, values, result
    )
    if bad_row >= 0:
        raise _not_finite(bad_row)
    return result


def from_sklearn(model: Any) -> Forest:
    """Pack a fitted scikit-learn `IsolationForest`, exact layout: `score` repeats its `-score_samples` to 1e-6.

    The model is read by attributes alone, so scikit-learn stays a matter of the caller.
    """
    n_features = int(model.n_features_in_)
    sample_size = int(model.max_samples_)
    trees = [
        _breadth_first(estimator.tree_, np.asarray(features), n_features)
        for estimator, features in zip(model.estimators_, model.estimators_features_, strict=True)
    ]
    nodes = np.concatenate(trees)
    n_levels = max(int(estimator.tree_.max_depth) for estimator in model.estimators_)
    if len(trees) > MAX_TREES or nodes.size > MAX_NODES or n_features > MAX_FEATURES:
        raise ValueError(f"{len(trees)} trees, {nodes.size} nodes, {n_features} features: too large to pack")
    roots = np.cumsum([0, *(tree.size for tree in trees)]).astype(np.int32)
    scales = np.tile(np.array([0.0, 1.0], np.float32), (n_features, 1))
    return Forest(nodes, roots, scales, sample_size, n_levels)


def _breadth_first(tree: Any, features: NDArray[np.int64], n_features: int) -> NDArray[np.int64]:
    """The words of one tree of scikit-learn, which numbers nodes in depth-first order."""
    order, depth = [0], [0]
    words = []
    for position, node in enumerate(order):  # `order` grows while it is walked
        left = int(tree.children_left[node])
        if left < 0:
            payload = (int(tree.n_node_samples[node]) - 1) << kernels.DEPTH_BITS | depth[position]
            words.append(payload << kernels.EXACT_CODE_SHIFT | n_features)
            continue
        offset = len(order) - position
        order += [left, int(tree.children_right[node])]
        depth += [depth[position] + 1] * 2
        code = _code_at_or_below(float(tree.threshold[node]))
        feature = int(features[tree.feature[node]])
        words.append(code << kernels.EXACT_CODE_SHIFT | offset << n_features.bit_length() | feature)
    return np.array(words, np.int64)


def _code_at_or_below(threshold: float) -> int:
    # scikit-learn compares float32 rows with float64 thresholds: the largest float32 below decides alike.
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    bits = int((rounded + np.float32(0.0)).view(np.int32))
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


def dump(forest: Forest) -> dict[str, NDArray[Any]]:
    """The forest as flat arrays of int32, int64 and float32; `load` gives it back, with identical scores."""
    shape = np.array([forest.n_features, forest.sample_size, forest.n_levels], np.int64)
    return {"nodes": forest.nodes, "roots": forest.roots, "scales": forest.scales, "shape": shape}


def load(arrays: Mapping[str, NDArray[Any]], n_features: int) -> Forest:
    """The forest of these arrays, copied, after everything that a kernel relies on has been checked.

    Raises:
        ArtifactDamaged: arrays, types or sizes are not those of `dump`, the model has not `n_features` features, or a
            tree is not one: a child out of range, twice or not at all, an unknown feature, a threshold that is not
            finite, a leaf at another depth than it says.
    """
    shape = _array(arrays, "shape", (np.int64,), 1, limit=3)
    if shape.shape != (3,) or shape[0] != n_features or not 1 <= n_features <= MAX_FEATURES:
        raise ArtifactDamaged(f"shape is {shape.tolist()}, expected [{n_features}, sample_size, n_levels]; train again")
    sample_size, n_levels = int(shape[1]), int(shape[2])
    nodes = _array(arrays, "nodes", (np.int32, np.int64), 1, limit=MAX_NODES)
    roots = _array(arrays, "roots", (np.int32,), 1, limit=MAX_TREES + 1)
    scales = _array(arrays, "scales", (np.float32,), 2, limit=2 * MAX_FEATURES)
    _require(scales.shape == (n_features, 2), "scales", "do not match the features")
    _require(bool(np.all(np.isfinite(scales)) and np.all(scales[:, 1] > 0)), "scales", "are not finite and positive")
    _require(1 <= sample_size < 2**27 and 0 <= n_levels < 2**kernels.DEPTH_BITS, "shape", "is out of bounds")
    _require(roots.size >= 2 and roots[0] == 0 and roots[-1] == nodes.size, "roots", "do not span the nodes")
    _require(bool(np.all(np.diff(roots.astype(np.int64)) > 0)), "roots", "do not ascend")
    forest = Forest(nodes, roots, scales, sample_size, n_levels)
    _check_trees(forest)
    return forest


def _check_trees(forest: Forest) -> None:
    """In breadth-first order the k-th inner node of a tree has the children 2 k + 1 and 2 k + 2, k from 0, and no others.

    That makes every node but the root the child of exactly one smaller node: no cycle, nothing out of range.
    """
    item_bits = forest.nodes.itemsize * 8
    feature_bits = forest.n_features.bit_length()
    shift = kernels.EXACT_CODE_SHIFT if item_bits == 64 else feature_bits + forest.n_levels
    _require(item_bits - shift >= min(MIN_CODE_BITS, 32), "shape", "leaves no bits for thresholds")
    nodes = forest.nodes.astype(np.int64)
    index = np.arange(nodes.size)
    feature = nodes & (2**feature_bits - 1)
    offset = (nodes >> feature_bits) & (2 ** (shift - feature_bits) - 1)
    payload = (nodes >> shift) & (2 ** (item_bits - shift) - 1)
    inner = offset > 0
    _require(bool(np.all(np.where(inner, feature < forest.n_features, feature == forest.n_features))), "nodes",
             "name a feature that does not exist")  # fmt: skip
    sizes = np.diff(forest.roots)
    root = np.repeat(forest.roots[:-1], sizes)
    inner_before = np.cumsum(inner) - inner
    rank = inner_before - inner_before[root]
    left = root + 2 * rank + 1
    _require(bool(np.all((index + offset == left)[inner])), "nodes", "have children that are not theirs")
    n_inner = np.add.reduceat(inner, forest.roots[:-1])
    _require(bool(np.all(sizes == 2 * n_inner + 1)), "nodes", "do not form trees")
    parent = index.copy()
    parent[left[inner]] = parent[left[inner] + 1] = index[inner]
    depth = np.zeros(nodes.size, np.int64)
    for _ in range(forest.n_levels):
        depth = np.where(parent == index, 0, depth[parent] + 1)
    _require(bool(np.all((payload & (2**kernels.DEPTH_BITS - 1))[~inner] == depth[~inner])), "nodes",
             "have leaves at another depth than they say")  # fmt: skip
    leaf_rows = np.where(inner, 0, (payload >> kernels.DEPTH_BITS) + 1)
    _require(bool(np.all(np.add.reduceat(leaf_rows, forest.roots[:-1]) <= forest.sample_size)), "nodes",
             "hold more rows than the sample")  # fmt: skip
    if item_bits == 64:
        _require(bool(np.all(np.isfinite(_thresholds(nodes[inner])))), "nodes", "have thresholds that are not finite")


def _thresholds(nodes: NDArray[np.int64]) -> NDArray[np.float32]:
    code = (nodes >> kernels.EXACT_CODE_SHIFT).astype(np.int32)
    return (code ^ ((code >> 31) & 0x7FFFFFFF)).view(np.float32)


def _array(
    arrays: Mapping[str, NDArray[Any]], name: str, dtypes: tuple[type[Any], ...], rank: int, *, limit: int
) -> NDArray[Any]:
    if name not in arrays:
        raise ArtifactDamaged(f"the forest has no array {name!r}; train it again")
    array = np.asarray(arrays[name])
    if array.dtype not in [np.dtype(dtype) for dtype in dtypes] or array.ndim != rank or not 0 < array.size <= limit:
        raise ArtifactDamaged(f"array {name!r} of the forest is {array.dtype} {array.shape}; train it again")
    return np.array(array, order="C")


def _require(condition: bool, name: str, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise ArtifactDamaged(f"array {name!r} of the forest is damaged: its values {what}; train it again")


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

    `values` (total,): the rows one after another. `row_starts` (n + 1,): row i is `values[row_starts[i]:row_starts[i + 1]]`
    and as long as its model has features. `model_index` (n,): the place of its model in the block. Result (n,).

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


def _check_compact(n_features: int, sample_size: int, n_levels: int) -> None:
    code_bits = 32 - n_features.bit_length() - n_levels
    leaf_bits = (sample_size - 1).bit_length() + kernels.DEPTH_BITS
    if code_bits < max(MIN_CODE_BITS, leaf_bits):
        raise ValueError(
            f"{n_features} features and samples of {sample_size} rows do not fit nodes of 4 bytes; pass compact=False"
        )


def _scales(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre and 1 / spread of each feature: the median, and the median distance from it of the rows that are not on it.

    Leaving out the rows on the median keeps a resolution for a count that is nearly always 0. Taken from up to
    `SCALE_ROWS` evenly spaced rows; a feature that does not vary among them is scaled by its largest distance overall.
    """
    some = np.sort(values[:: -(-values.shape[0] // SCALE_ROWS)].T.copy(), axis=1)
    centre = some[:, some.shape[1] // 2]
    with np.errstate(over="ignore"):
        distance = np.sort(np.abs(some - centre[:, None]), axis=1)
    n_on_centre = (distance == 0).sum(axis=1)
    middle = np.minimum((n_on_centre + some.shape[1]) // 2, some.shape[1] - 1)
    spread = distance[np.arange(centre.size), middle].astype(np.float64)
    for feature in np.flatnonzero(spread == 0):
        spread[feature] = np.max(np.abs(values[:, feature] - np.float64(centre[feature])))
    # Kept within what 1 / spread and z can be in float32; a feature without any spread is never asked.
    inverse = 1.0 / np.clip(np.where(spread > 0, spread, 1.0), 1e-37, 1e37)
    return np.column_stack([centre, inverse]).astype(np.float32)
