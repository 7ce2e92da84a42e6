"""The compiled half of the isolation forest: grow, narrow, score and explain packed trees (Liu, Ting and Zhou, 2008).

One node is one integer, its fields from the top bit down:

    inner node   code of the threshold | offset of the left child, >= 1  | feature
    leaf         rows - 1 and depth    | 0                               | n_features, a feature that no row has

Trees lie one after another, each in breadth-first order, so the right child follows the left one and a walk is
`at += offset + (code of the row > code of the threshold)`: no branch. At a leaf the offset is 0 and the code of the
missing feature is the smallest there is, so the walk stays where it is and eight trees can advance in lockstep.
Only cache misses cost time, and eight at once overlap.

Feature fields are as wide as `n_features` needs. The two layouts differ in width and in the code:

    exact    int64   32 bits of code (the bits of a float32, made monotone), the rest for offsets
    compact  int32   as many offset bits as the tree has levels, the remaining 14 to 24 for the code:
                     sign(z) * log2(1 + |z|), linear between powers of two, of z = (x - centre) / spread

In breadth-first order the left child of node i of a tree is at most 2 i + 1, hence an offset below 2 ** levels.
The compact code is fine where the rows are (the centre) and reaches far at a constant relative error, so that a heavy
tail does not take the resolution from the bulk. Both are monotone: a row at or below a threshold never goes right.

The path length of a row in one tree is depth + c(rows) of its leaf, with c as in `average_path_length`, and the score
is 2 ** (-mean path / c(sample_size)). No function here keeps state or allocates more than scratch: all are thread-safe.

This is one file, long as it is, because numba's cache notices changes of the file of a kernel only.
"""

# ruff: noqa: FBT003 - kernels take flat arrays, and numba has no keyword-only arguments

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numba
import numpy as np

# What a kernel is given is typed by numba, of any width and sign; to mypy it is Any.
Array: TypeAlias = Any
Integer: TypeAlias = Any
Real: TypeAlias = Any
Flag: TypeAlias = Any

# A leaf's payload: depth in the low bits, rows - 1 above. 31 levels hold a sample of 2 ** 31 rows.
DEPTH_BITS = 5
EXACT_CODE_SHIFT = 32
LANES = 8
TABLE_SIZE = 1024

_ONE_BITS = 0x3F800000  # float32 1.0
_MAGNITUDE = 0x7FFFFFFF
_LOWEST = -(2**63)
_ONE = np.uint64(1)
_DEPTH_SHIFT = np.uint64(DEPTH_BITS)
_DEPTH_MASK = np.uint64((1 << DEPTH_BITS) - 1)
_EULER = 0.5772156649015329
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _average_path_length(rows: Real) -> Real:
    if rows <= 1:
        return 0.0
    if rows == 2:
        return 1.0
    return 2.0 * (math.log(rows - 1.0) + _EULER) - 2.0 * (rows - 1.0) / rows


# Leaves are small: their c(n) is looked up in a table that stays in the first-level cache.
_C = np.array([_average_path_length(rows) for rows in range(TABLE_SIZE)])
_c_formula: Any = numba.njit(_average_path_length)


@numba.njit(nogil=True, cache=True)
def average_path_length(rows: Integer) -> Real:
    """c(n) = 2 (ln(n - 1) + 0.5772...) - 2 (n - 1) / n, the mean path of an unsuccessful search; c(1) = 0, c(2) = 1."""
    return _C[rows] if rows < TABLE_SIZE else _c_formula(rows)


@numba.njit(nogil=True, cache=True)
def _bit_length(value: Integer) -> Integer:
    bits = 0
    while value > 0:
        bits += 1
        value >>= 1
    return bits


@numba.njit(nogil=True, cache=True)
def code_shift(item_bits: Integer, n_features: Integer, n_levels: Integer) -> Integer:
    """How many bits lie below the code of a node: 32 in the exact layout, feature and offset in the compact one."""
    return EXACT_CODE_SHIFT if item_bits == 64 else _bit_length(n_features) + n_levels


@numba.njit(nogil=True, cache=True)
def compact_code_limit(shift: Integer) -> Integer:
    """The largest compact code, held within the 24 bits that float32 arithmetic has."""
    return (1 << (min(32 - shift, 24) - 1)) - 1


@numba.njit(nogil=True, cache=True)
def _exact_code(bits: Integer) -> Integer:
    # Negative floats are stored as magnitudes: flipped, their order is that of integers.
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@numba.njit(nogil=True, cache=True)
def _bend(values: Array, scales: Array, scratch: Array) -> None:
    """Write 1 + |z| of z = (value - centre) / spread: its bits, less those of 1.0, are about 2 ** 23 log2."""
    for j in range(values.shape[0]):
        scratch[j] = np.float32(1.0) + abs((np.float32(values[j]) - scales[j, 0]) * scales[j, 1])


@numba.njit(nogil=True, cache=True)
def encode_row(values: Array, scales: Array, shift: Integer, exact: Flag, scratch: Array, codes: Array) -> Flag:
    """Write the code of each value, shifted to where a node has it; false when a value is not a finite float32.

    `values` (n_features,) are rounded to float32 first, as scikit-learn does. `scales` (n_features, 3): centre,
    1 / spread and codes per bit of log2. `scratch` float32 (n_features,), `codes` int64 (n_features + 1,): the last is
    that of leaves, the lowest there is.
    """
    n_features = values.shape[0]
    bits = scratch.view(np.int32)
    finite: Flag = True
    for j in range(n_features):
        finite &= abs(np.float32(values[j])) < np.float32(np.inf)
    if exact:
        for j in range(n_features):
            scratch[j] = np.float32(values[j]) + np.float32(0.0)  # -0.0 becomes 0.0
        for j in range(n_features):
            codes[j] = _exact_code(np.int64(bits[j])) << EXACT_CODE_SHIFT
    else:
        limit = np.float32(compact_code_limit(shift))
        _bend(values, scales, scratch)
        for j in range(n_features):
            code = np.int64(min(np.float32(bits[j] - _ONE_BITS) * scales[j, 2], limit))
            codes[j] = (code if np.float32(values[j]) >= scales[j, 0] else -code) << shift
    codes[n_features] = _LOWEST
    return finite


@numba.njit(nogil=True, cache=True)
def _step(
    nodes: Array, codes: Array, at: Integer, feature_bits: Integer, feature_mask: Integer, offset_mask: Integer
) -> Integer:
    """Go one level down from node `at`; a leaf is its own child."""
    node = nodes[at]
    word = np.uint64(node)
    return at + ((word >> feature_bits) & offset_mask) + np.uint64(codes[word & feature_mask] > node)


@numba.njit(nogil=True, cache=True)
def _leaf_path(node: Integer, shift: Integer, payload_mask: Integer) -> Real:
    payload = (np.uint64(node) >> shift) & payload_mask
    return np.int64(payload & _DEPTH_MASK) + average_path_length((payload >> _DEPTH_SHIFT) + _ONE)


@numba.njit(nogil=True, cache=True)
def _payload_mask(item_bits: Integer, shift: Integer) -> Integer:
    return (1 << (item_bits - shift)) - 1


@numba.njit(nogil=True, cache=True)
def _path_sum(nodes: Array, roots: Array, codes: Array, n_features: Integer, n_levels: Integer) -> Real:
    """The path lengths of one row, summed over all trees, eight trees in lockstep."""
    item_bits = nodes.itemsize * 8
    shift = code_shift(item_bits, n_features, n_levels)
    low = np.uint64(_bit_length(n_features))
    feature = np.uint64((1 << _bit_length(n_features)) - 1)
    offset = np.uint64((1 << (shift - _bit_length(n_features))) - 1)
    payload = np.uint64(_payload_mask(item_bits, shift))
    n_trees = roots.shape[0] - 1
    total = 0.0
    tree = 0
    while tree + LANES <= n_trees:
        # Eight names and not an array: they stay in registers.
        a, b, c, d = (
            np.uint64(roots[tree]),
            np.uint64(roots[tree + 1]),
            np.uint64(roots[tree + 2]),
            np.uint64(roots[tree + 3]),
        )
        e, f, g, h = (
            np.uint64(roots[tree + 4]),
            np.uint64(roots[tree + 5]),
            np.uint64(roots[tree + 6]),
            np.uint64(roots[tree + 7]),
        )
        for _ in range(n_levels):
            a = _step(nodes, codes, a, low, feature, offset)
            b = _step(nodes, codes, b, low, feature, offset)
            c = _step(nodes, codes, c, low, feature, offset)
            d = _step(nodes, codes, d, low, feature, offset)
            e = _step(nodes, codes, e, low, feature, offset)
            f = _step(nodes, codes, f, low, feature, offset)
            g = _step(nodes, codes, g, low, feature, offset)
            h = _step(nodes, codes, h, low, feature, offset)
        for leaf in (a, b, c, d, e, f, g, h):
            total += _leaf_path(nodes[leaf], np.uint64(shift), payload)
        tree += LANES
    while tree < n_trees:
        a = np.uint64(roots[tree])
        for _ in range(n_levels):
            a = _step(nodes, codes, a, low, feature, offset)
        total += _leaf_path(nodes[a], np.uint64(shift), payload)
        tree += 1
    return total


@numba.njit(nogil=True, cache=True)
def _anomaly_score(path_sum: Real, n_trees: Integer, sample_size: Integer) -> Real:
    """2 ** (-mean path / c(sample_size)); a sample of one row knows nothing and scores 0.5, as in scikit-learn."""
    normal_path = average_path_length(sample_size)
    return 2.0 ** (-path_sum / (n_trees * normal_path)) if normal_path > 0.0 else 0.5


@numba.njit(nogil=True, cache=True)
def score_rows(
    nodes: Array, roots: Array, scales: Array, n_levels: Integer, sample_size: Integer, rows: Array, scores: Array
) -> Integer:
    """Score rows (n, n_features) float64 by one forest; the index of the first row that is not finite, or -1."""
    n_features = rows.shape[1]
    exact = nodes.itemsize == 8
    shift = code_shift(nodes.itemsize * 8, n_features, n_levels)
    scratch = np.empty(n_features, np.float32)
    codes = np.empty(n_features + 1, np.int64)
    for i in range(rows.shape[0]):
        if not encode_row(rows[i], scales, shift, exact, scratch, codes):
            return i
        path_sum = _path_sum(nodes, roots, codes, n_features, n_levels)
        scores[i] = _anomaly_score(path_sum, roots.shape[0] - 1, sample_size)
    return -1


@numba.njit(nogil=True, cache=True)
def score_fleet_rows(
    nodes: Array,
    roots: Array,
    scales: Array,
    headers: Array,
    values: Array,
    row_starts: Array,
    model_index: Array,
    scores: Array,
) -> Integer:
    """Score each row by its own model, as `score_rows` does, bit for bit; the first row that is not finite, or -1.

    `headers` int64 (n_models, 7): first node, first root, first scale, trees, features, levels, sample size.
    Row i is `values[row_starts[i]:row_starts[i + 1]]`.
    """
    widest = 0
    for m in range(headers.shape[0]):
        widest = max(widest, headers[m, 4])
    scratch = np.empty(widest, np.float32)
    codes = np.empty(widest + 1, np.int64)
    exact = nodes.itemsize == 8
    for i in range(model_index.shape[0]):
        header = headers[model_index[i]]
        node, root, scale, n_trees = header[0], header[1], header[2], header[3]
        n_features, n_levels, sample_size = header[4], header[5], header[6]
        shift = code_shift(nodes.itemsize * 8, n_features, n_levels)
        row = values[row_starts[i] : row_starts[i + 1]]
        if not encode_row(row, scales[scale : scale + n_features], shift, exact, scratch[:n_features], codes):
            return i
        path_sum = _path_sum(nodes[node:], roots[root : root + n_trees + 1], codes, n_features, n_levels)
        scores[i] = _anomaly_score(path_sum, n_trees, sample_size)
    return -1


@numba.njit(nogil=True, cache=True)
def expect_paths(nodes: Array, n_features: Integer, n_levels: Integer, expected: Array) -> None:
    """Write for each node the mean path length of the sample's rows that reached it, in a whole tree's edges.

    A leaf's is its own path length; a parent's is the mean of its children, weighted by their rows. Children have
    larger indices, so one pass from the end suffices.
    """
    item_bits = nodes.itemsize * 8
    shift = code_shift(item_bits, n_features, n_levels)
    low = _bit_length(n_features)
    offset_mask = (1 << (shift - low)) - 1
    payload_mask = _payload_mask(item_bits, shift)
    n_rows = np.empty(nodes.shape[0], np.int64)
    for i in range(nodes.shape[0] - 1, -1, -1):
        node = np.int64(nodes[i])
        offset = (node >> low) & offset_mask
        if offset == 0:
            n_rows[i] = (((node >> shift) & payload_mask) >> DEPTH_BITS) + 1
            expected[i] = _leaf_path(node, np.uint64(shift), np.uint64(payload_mask))
        else:
            left = i + offset
            n_rows[i] = n_rows[left] + n_rows[left + 1]
            expected[i] = (n_rows[left] * expected[left] + n_rows[left + 1] * expected[left + 1]) / n_rows[i]


@numba.njit(nogil=True, cache=True)
def credit_rows(
    nodes: Array, roots: Array, scales: Array, n_levels: Integer, expected: Array, rows: Array, credits_: Array
) -> Integer:
    """Credit each split with how much it shortened the expected path (Saabas, 2014); the first row not finite, or -1.

    A split on feature f from a node to its child adds expected[node] - expected[child] to `credits_[i, f]`, averaged
    over the trees.
    """
    n_features = rows.shape[1]
    exact = nodes.itemsize == 8
    shift = code_shift(nodes.itemsize * 8, n_features, n_levels)
    low = np.uint64(_bit_length(n_features))
    feature_mask = np.uint64((1 << _bit_length(n_features)) - 1)
    offset_mask = np.uint64((1 << (shift - _bit_length(n_features))) - 1)
    credit = np.empty(n_features + 1)
    n_trees = roots.shape[0] - 1
    scratch = np.empty(n_features, np.float32)
    codes = np.empty(n_features + 1, np.int64)
    for i in range(rows.shape[0]):
        if not encode_row(rows[i], scales, shift, exact, scratch, codes):
            return i
        credit[:] = 0.0
        for tree in range(n_trees):
            at = np.uint64(roots[tree])
            for _ in range(n_levels):
                # At a leaf the child is the leaf: nothing is added, to the credit of the missing feature.
                child = _step(nodes, codes, at, low, feature_mask, offset_mask)
                credit[np.uint64(nodes[at]) & feature_mask] += expected[at] - expected[child]
                at = child
        for j in range(n_features):
            credits_[i, j] = credit[j] / n_trees
    return -1


@numba.njit(nogil=True, cache=True)
def _random_bits(state: Array) -> Integer:
    """The next 64 bits of splitmix64 (Steele, Lea and Flood, 2014); `state` is uint64 (1,)."""
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _random_below(state: Array, limit: Integer) -> Integer:
    return np.int64(((_random_bits(state) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def _random_unit(state: Array) -> Real:
    return np.float64(_random_bits(state) >> np.uint64(11)) * 2.0**-53


@numba.njit(nogil=True, cache=True)
def _draw_sample(state: Array, population: Array, rows: Array, columns: Array) -> None:
    """Copy rows drawn without replacement to `columns` (n_features, sample_size); `population` stays a permutation."""
    for k in range(columns.shape[1]):
        pick = k + _random_below(state, population.shape[0] - k)
        row = population[pick]
        population[pick] = population[k]
        population[k] = row
        for j in range(columns.shape[0]):
            columns[j, k] = rows[row, j]


@numba.njit(nogil=True, cache=True)
def _draw_split(state: Array, columns: Array, members: Array, candidates: Array) -> tuple[Integer, Real]:
    """A feature that is not constant among `members`, all equally likely, and a threshold uniform in its range.

    The feature is -1 when all are constant. The threshold is below the largest value, so that both sides get a row.
    """
    remaining = candidates.shape[0]
    while remaining > 0:
        pick = _random_below(state, remaining)
        feature = candidates[pick]
        column = columns[feature]
        low = high = column[members[0]]
        for k in range(1, members.shape[0]):
            value = column[members[k]]
            low, high = min(low, value), max(high, value)
        if low < high:
            span = np.float64(high) - np.float64(low)
            threshold = np.float32(np.float64(low) + _random_unit(state) * span)
            return feature, threshold if threshold < high else low
        remaining -= 1
        candidates[pick] = candidates[remaining]
        candidates[remaining] = feature
    return -1, np.float32(0.0)


@numba.njit(nogil=True, cache=True)
def _partition(column: Array, threshold: Real, members: Array) -> Integer:
    """Move the members at or below the threshold to the front, without a branch; how many they are."""
    n_left = 0
    for k in range(members.shape[0]):
        member = members[k]
        members[k] = members[n_left]
        members[n_left] = member
        n_left += column[member] <= threshold
    return n_left


@numba.njit(nogil=True, cache=True)
def grow(
    rows: Array, varying: Array, n_trees: Integer, sample_size: Integer, n_levels: Integer, seed: Integer
) -> tuple[Array, Array]:
    """Grow trees of the exact layout: int64 nodes, int32 roots (n_trees + 1,), the last being the number of nodes.

    Each tree sees `sample_size` rows drawn without replacement. A node is split at a uniform threshold of a random
    feature that varies in it, until it holds one row, only equal rows, or lies at depth `n_levels`. `varying` lists the
    features worth trying. Nodes are made in breadth-first order: the queue of the walk is the tree itself.
    """
    n_features = rows.shape[1]
    feature_bits = _bit_length(n_features)
    largest = 2 * sample_size - 1
    nodes = np.empty(n_trees * largest, np.int64)
    roots = np.zeros(n_trees + 1, np.int32)
    state = np.empty(1, np.uint64)
    state[0] = seed
    population = np.arange(rows.shape[0]).astype(np.uint32)
    candidates = varying.copy()
    columns = np.empty((n_features, sample_size), np.float32)
    members = np.empty(sample_size, np.uint32)  # unsigned: no check for an index from the end
    first, end, depth = np.empty(largest, np.int64), np.empty(largest, np.int64), np.empty(largest, np.int64)
    threshold = np.empty(1, np.float32)
    threshold_bits = threshold.view(np.int32)
    for tree in range(n_trees):
        _draw_sample(state, population, rows, columns)
        members[:] = np.arange(sample_size)
        root = np.int64(roots[tree])
        first[0], end[0], depth[0] = 0, sample_size, 0
        n_nodes = 1
        at = 0
        while at < n_nodes:
            inside = members[first[at] : end[at]]
            feature = -1
            if inside.shape[0] > 1 and depth[at] < n_levels:
                feature, threshold[0] = _draw_split(state, columns, inside, candidates)
            if feature < 0:
                payload = ((inside.shape[0] - 1) << DEPTH_BITS) | depth[at]
                nodes[root + at] = (payload << EXACT_CODE_SHIFT) | n_features
            else:
                middle = first[at] + _partition(columns[feature], threshold[0], inside)
                code = _exact_code(np.int64(threshold_bits[0])) << EXACT_CODE_SHIFT
                nodes[root + at] = code | ((n_nodes - at) << feature_bits) | feature
                first[n_nodes], end[n_nodes], depth[n_nodes] = first[at], middle, depth[at] + 1
                first[n_nodes + 1], end[n_nodes + 1], depth[n_nodes + 1] = middle, end[at], depth[at] + 1
                n_nodes += 2
            at += 1
        roots[tree + 1] = root + n_nodes
    return nodes[: roots[n_trees]].copy(), roots


@numba.njit(nogil=True, cache=True)
def narrow(nodes: Array, n_levels: Integer, scales: Array, compact: Array) -> None:
    """Write the nodes of an exact forest as `compact` int32 ones, thresholds coded as `encode_row` codes rows.

    The third column of `scales` is filled in: each feature's codes just reach its farthest threshold, so that the bits
    are spent where trees ask. Rows beyond it still get a larger code.
    """
    n_features = scales.shape[0]
    feature_bits = _bit_length(n_features)
    feature_mask = (1 << feature_bits) - 1
    offset_mask = (1 << (EXACT_CODE_SHIFT - feature_bits)) - 1
    shift = code_shift(32, n_features, n_levels)
    threshold_bits, bent_bits = np.empty(1, np.int32), np.empty(1, np.int32)
    threshold, bent = threshold_bits.view(np.float32), bent_bits.view(np.float32)
    farthest = np.zeros(n_features, np.int64)
    for node in nodes:
        feature = node & feature_mask
        if feature < n_features:
            threshold_bits[0] = _exact_code(node >> EXACT_CODE_SHIFT)  # the flip is its own inverse
            _bend(threshold, scales[feature : feature + 1], bent)
            farthest[feature] = max(farthest[feature], bent_bits[0] - _ONE_BITS)
    for j in range(n_features):
        # Four codes are left for rounding and for the rows beyond.
        scales[j, 2] = (compact_code_limit(shift) - 4) / max(farthest[j], 1)
    codes = np.empty(2, np.int64)
    for i in range(nodes.shape[0]):
        feature = nodes[i] & feature_mask
        offset = (nodes[i] >> feature_bits) & offset_mask
        code = nodes[i] >> EXACT_CODE_SHIFT
        if feature < n_features:
            threshold_bits[0] = _exact_code(code)
            encode_row(threshold, scales[feature : feature + 1], shift, False, bent, codes)
            code = codes[0] >> shift
        compact[i] = np.int32(np.int64((code << shift) | (offset << feature_bits) | feature))
