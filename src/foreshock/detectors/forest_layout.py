"""The packed forest itself: its arrays, where their fields lie, and the ways in and out (dump, load, scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.core.errors import ArtifactDamaged
from foreshock.detectors import forest_kernels as kernels

MAX_TREES = 2_000
MAX_NODES = 2**20
MAX_FEATURES = 4_095
# Fewer bits cannot keep the compact layout within 1e-2 of the exact one, at most, and 1e-4 on average.
MIN_CODE_BITS = 14

Nodes = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """A forest is its packed arrays and two numbers; it never changes, and any thread may score with it.

    `nodes` (n_nodes,): int32 in the compact layout, int64 in the exact one. `roots` int32 (n_trees + 1,): where each
    tree begins, and the end. `scales` float32 (n_features, 3): how `forest_kernels.encode_row` codes a value in the
    compact layout. `n_levels`: no leaf lies deeper. The arrays are read-only, also because kernels are then compiled
    for one kind of array.
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
        """What the arrays take in memory; dumped it is about two thirds."""
        return int(self.nodes.nbytes + self.roots.nbytes + self.scales.nbytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of a node lie, for numpy; the kernels have their own copy of this arithmetic."""

    item_bits: int
    n_features: int
    n_levels: int

    @classmethod
    def of(cls, forest: Forest) -> Layout:
        return cls(forest.nodes.dtype.itemsize * 8, forest.n_features, forest.n_levels)

    @property
    def exact(self) -> bool:
        return self.item_bits == 64

    @property
    def feature_bits(self) -> int:
        return self.n_features.bit_length()

    @property
    def shift(self) -> int:
        return kernels.EXACT_CODE_SHIFT if self.exact else self.feature_bits + self.n_levels

    @property
    def offset_mask(self) -> int:
        return (1 << (self.shift - self.feature_bits)) - 1

    def holds(self, sample_size: int) -> bool:
        """Whether a code is wide enough to tell thresholds apart, and to tell the rows of a leaf."""
        return self.item_bits - self.shift >= max(MIN_CODE_BITS, (sample_size - 1).bit_length() + kernels.DEPTH_BITS)

    def feature(self, nodes: Nodes) -> NDArray[np.int64]:
        return nodes.astype(np.int64) & ((1 << self.feature_bits) - 1)

    def offset(self, nodes: Nodes) -> NDArray[np.int64]:
        return (nodes.astype(np.int64) >> self.feature_bits) & self.offset_mask

    def payload(self, nodes: Nodes) -> NDArray[np.int64]:
        return (nodes.astype(np.int64) >> self.shift) & ((1 << (self.item_bits - self.shift)) - 1)


def dump(forest: Forest) -> dict[str, NDArray[Any]]:
    """The forest as flat arrays, about 40 KB; `load` gives it back bit for bit.

    What follows from the breadth-first order is left out: `leaves` (one bit a node) says which nodes are leaves,
    `splits` holds code and feature of the others, `leaf_rows` the rows of each leaf less one. `shape` is n_features,
    sample_size, n_levels.
    """
    layout = Layout.of(forest)
    inner = layout.offset(forest.nodes) > 0
    no_offset = np.array(~(layout.offset_mask << layout.feature_bits), forest.nodes.dtype)
    leaf_rows = layout.payload(forest.nodes[~inner]) >> kernels.DEPTH_BITS
    return {
        "shape": np.array([forest.n_features, forest.sample_size, forest.n_levels], np.int64),
        "roots": forest.roots,
        "scales": forest.scales,
        "leaves": np.packbits(~inner),
        "splits": np.bitwise_and(forest.nodes[inner], no_offset),
        "leaf_rows": leaf_rows.astype(np.uint8 if forest.sample_size <= 256 else np.int32),
    }


def load(arrays: Mapping[str, NDArray[Any]], n_features: int) -> Forest:
    """The forest that `dump` wrote, after everything that a kernel relies on has been checked.

    Children are computed and not read: the k-th inner node of a tree, from 0, has the children 2 k + 1 and 2 k + 2.
    That each lies behind its parent is checked, so every node but the root is the child of one smaller node: no cycle.

    Raises:
        ArtifactDamaged: arrays, types or sizes are not those of `dump`, the model has not `n_features` features, or
            the leaves make no trees, a feature is unknown, a threshold not finite, a tree too deep, a leaf too large.

    """
    shape = _array(arrays, "shape", (np.int64,), limit=3)
    if shape.shape != (3,) or shape[0] != n_features or not 1 <= n_features <= MAX_FEATURES:
        raise ArtifactDamaged(f"the forest has shape {shape.tolist()}, not {n_features} features; train it again")
    sample_size, n_levels = int(shape[1]), int(shape[2])
    roots = _array(arrays, "roots", (np.int32,), limit=MAX_TREES + 1)
    scales = _array(arrays, "scales", (np.float32,), rank=2, limit=3 * MAX_FEATURES)
    packed = _array(arrays, "leaves", (np.uint8,), limit=MAX_NODES // 8)
    splits = _array(arrays, "splits", (np.int32, np.int64), limit=MAX_NODES)
    leaf_rows = _array(arrays, "leaf_rows", (np.uint8, np.int32), limit=MAX_NODES).astype(np.int64) + 1
    layout = Layout(splits.dtype.itemsize * 8, n_features, n_levels)
    _require(1 <= sample_size < 2**27 and 0 <= n_levels < 2**kernels.DEPTH_BITS, "shape", "is out of bounds")
    _require(layout.exact or layout.holds(sample_size), "shape", "does not fit nodes of 4 bytes")
    _require(scales.shape == (n_features, 3), "scales", "does not match the features")
    _require(
        bool(np.all(np.isfinite(scales) & (scales >= [-np.inf, 1e-38, 0.0]))), "scales", "is not finite and positive"
    )
    _require(
        roots.size > 1 and roots[0] == 0 and bool(np.all(np.diff(roots.astype(np.int64)) > 0)), "roots", "descends"
    )
    n_nodes = int(roots[-1])
    _require(packed.size == -(-n_nodes // 8), "leaves", "does not match the roots")
    is_leaf = np.unpackbits(packed, count=n_nodes).astype(np.bool_)
    _require(splits.size == n_nodes - is_leaf.sum(), "splits", "does not match the leaves")
    _require(leaf_rows.size == is_leaf.sum(), "leaf_rows", "does not match the leaves")
    _require(
        bool(np.all((layout.feature(splits) < n_features) & (layout.offset(splits) == 0))), "splits", "names no feature"
    )
    if layout.exact:
        _require(bool(np.all(np.isfinite(_thresholds(splits)))), "splits", "has thresholds that are not finite")
    offset, depth = _offsets_and_depths(is_leaf, roots, n_levels)
    rows = np.zeros(n_nodes, np.int64)
    rows[is_leaf] = leaf_rows
    _require(bool(leaf_rows.min() > 0 and np.all(np.add.reduceat(rows, roots[:-1]) <= sample_size)), "leaf_rows",
             "exceeds the sample")  # fmt: skip
    nodes = np.empty(n_nodes, np.int64)
    nodes[~is_leaf] = splits | (offset[~is_leaf] << layout.feature_bits)
    payload = ((rows - 1) << kernels.DEPTH_BITS | depth)[is_leaf]
    nodes[is_leaf] = payload << layout.shift | n_features
    return Forest(nodes.astype(splits.dtype), roots, scales, sample_size, n_levels)


def _offsets_and_depths(
    is_leaf: NDArray[np.bool_], roots: NDArray[np.int32], n_levels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How far the left child of each node is, and how deep each node lies, from the breadth-first order alone."""
    inner = ~is_leaf
    sizes = np.diff(roots)
    _require(
        bool(np.all(sizes == 2 * np.add.reduceat(inner, roots[:-1], dtype=np.int64) + 1)), "leaves", "forms no trees"
    )
    index = np.arange(is_leaf.size)
    root = np.repeat(roots[:-1].astype(np.int64), sizes)
    inner_before: NDArray[np.int64] = np.cumsum(inner) - inner
    left = root + 2 * (inner_before - inner_before[root]) + 1
    _require(bool(np.all((left > index)[inner])), "leaves", "has children before their parents")
    parent = root.copy()  # a root is its own
    parent[left[inner]] = parent[left[inner] + 1] = index[inner]
    depth = np.zeros(is_leaf.size, np.int64)
    for _ in range(n_levels + 1):
        depth = np.where(parent == index, 0, depth[parent] + 1)
    _require(int(depth.max()) <= n_levels, "leaves", "makes trees that are too deep")
    return left - index, depth


def _thresholds(splits: NDArray[np.int64]) -> NDArray[np.float32]:
    code = (splits >> kernels.EXACT_CODE_SHIFT).astype(np.int32)
    return (code ^ ((code >> 31) & 0x7FFFFFFF)).view(np.float32)


def _array(
    arrays: Mapping[str, NDArray[Any]], name: str, dtypes: tuple[type[Any], ...], *, rank: int = 1, limit: int
) -> NDArray[Any]:
    if name not in arrays:
        raise ArtifactDamaged(f"the forest has no array {name!r}; train it again")
    array = np.asarray(arrays[name])
    if array.dtype not in [np.dtype(dtype) for dtype in dtypes] or array.ndim != rank or array.size > limit:
        raise ArtifactDamaged(f"array {name!r} of the forest is {array.dtype} {array.shape}; train it again")
    return np.array(array, order="C")


def _require(condition: bool, name: str, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise ArtifactDamaged(f"array {name!r} of the forest {what}; train it again")


def from_sklearn(model: Any) -> Forest:
    """Pack a fitted scikit-learn `IsolationForest`, exact layout: `score` repeats its `-score_samples` to 1e-6.

    The model is read by attributes alone, so scikit-learn stays a matter of the caller.
    """
    n_features = int(model.n_features_in_)
    sample_size = int(model.max_samples_)
    trees = [
        # Where every tree sees all features, scikit-learn hands it the rows as they are.
        _breadth_first(estimator.tree_, list(features if len(features) < n_features else range(n_features)), n_features)
        for estimator, features in zip(model.estimators_, model.estimators_features_, strict=True)
    ]
    nodes = np.concatenate(trees)
    n_levels = max(int(estimator.tree_.max_depth) for estimator in model.estimators_)
    if len(trees) > MAX_TREES or nodes.size > MAX_NODES or n_features > MAX_FEATURES:
        raise ValueError(f"{len(trees)} trees, {nodes.size} nodes, {n_features} features: too large to pack")
    roots = np.cumsum([0, *(tree.size for tree in trees)]).astype(np.int32)
    scales = np.tile(np.array([0.0, 1.0, 0.0], np.float32), (n_features, 1))
    return Forest(nodes, roots, scales, sample_size, n_levels)


def _breadth_first(tree: Any, features: list[int], n_features: int) -> NDArray[np.int64]:
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
