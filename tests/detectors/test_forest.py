"""The packed isolation forest scores as scikit-learn does, is small and explained, and never comes from damage."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest

from foreshock.core.errors import ArtifactDamaged
from foreshock.detectors import forest as packed
from foreshock.detectors import forest_kernels as kernels

Rows = NDArray[np.float64]


def _rows(n: int = 2_000, *, seed: int = 0) -> Rows:
    """Six features as services have them: two Gaussian, a heavy tail, a count, a rare flag, a constant."""
    rng = np.random.default_rng(seed)
    latency = rng.normal(40.0, 5.0, n)
    return np.column_stack(
        [
            latency,
            0.5 * latency + rng.normal(size=n),
            np.exp(rng.normal(0.0, 1.5, n)),
            rng.poisson(4.0, n),
            rng.random(n) < 0.02,
            np.full(n, 7.0),
        ]
    )


def _far_rows(rows: Rows) -> Rows:
    """Rows inside the training range, just outside it and 1e6 ranges away, on both sides, and between float32 steps."""
    span = np.ptp(rows, axis=0) + 1.0
    inside = rows[:200]
    return np.vstack(
        [inside, inside + span, inside - span, inside + 1e6 * span, inside - 1e6 * span, inside * (1 + 3e-8)]
    )


def _sklearn(rows: Rows, seed: int = 0, **settings_: Any) -> IsolationForest:
    return IsolationForest(**({"n_estimators": 50, "random_state": seed} | settings_)).fit(rows)


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"max_samples": 16},
        {"max_samples": 1.0},
        {"max_features": 0.5},
        {"bootstrap": True},
        {"max_samples": 1},
        {"n_estimators": 3},
    ],
    ids=str,
)
def test_packed_sklearn_forest_repeats_score_samples(settings_: dict[str, Any]) -> None:
    """A scikit-learn forest, packed, gives `-score_samples` to 1e-6 on every row, near or far, at any settings."""
    rows = _rows()
    model = _sklearn(rows, **settings_)
    forest = packed.from_sklearn(model)
    questions = np.vstack([rows, _far_rows(rows)])
    assert np.max(np.abs(packed.score(forest, questions) + model.score_samples(questions))) <= 1e-6


def test_rows_on_a_threshold_go_where_sklearn_sends_them() -> None:
    """Rows on a threshold, one float32 above it and one below score as in scikit-learn: float32 against float64."""
    model = _sklearn(_rows())
    splits = [
        (feature, np.float32(threshold))
        for tree in model.estimators_[:5]
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if feature >= 0
    ]
    questions = np.repeat(_rows(1, seed=1), 3 * len(splits), axis=0)
    for place, (feature, threshold) in enumerate(splits):
        below, above = np.nextafter(threshold, np.float32([-np.inf, np.inf]))
        questions[3 * place : 3 * place + 3, feature] = below, threshold, above
    scores = packed.score(packed.from_sklearn(model), questions)
    assert np.max(np.abs(scores + model.score_samples(questions))) <= 1e-6
    assert np.any(scores[1::3] != scores[2::3]), "one float32 makes a difference"


def test_negative_zero_is_zero() -> None:
    """-0.0 and 0.0 are one value, in training and in scoring, as in every comparison of floats."""
    rows = np.where(np.arange(64)[:, None] % 2 == 0, -0.0, 0.0)
    assert packed.fit(rows, n_trees=1, seed=0).nodes.size == 1
    for compact in (True, False):
        forest = packed.fit(np.linspace(-1, 1, 65)[:, None], seed=0, compact=compact)
        assert packed.score(forest, np.array([[-0.0]])) == packed.score(forest, np.array([[0.0]]))


@pytest.mark.parametrize(
    "rows",
    [
        _rows(),
        np.random.default_rng(1).normal(size=(2_000, 12)),
        np.random.default_rng(2).uniform(size=(2_000, 3)),
        np.exp(3.0 * np.random.default_rng(3).normal(size=(2_000, 12))),
        1e9 + 1e4 * np.random.default_rng(4).normal(size=(2_000, 12)),
        np.random.default_rng(5).choice([1.0, 1e3], size=(2_000, 12))
        * np.random.default_rng(6).normal(1, 0.01, (2_000, 12)),
        np.random.default_rng(7).normal(size=(1_000, 300)),
        np.random.default_rng(8).standard_cauchy(size=(2_000, 12)),
    ],
    ids=["service", "normal", "uniform", "heavy tail", "large offset", "two levels", "300 features", "cauchy"],
)
def test_compact_layout_is_close_to_the_exact_one(rows: Rows) -> None:
    """Four bytes a node cost at most 1e-2 of score on any row, and 1e-4 on average."""
    questions = np.vstack([rows, _far_rows(rows)])
    errors = [
        packed.score(packed.fit(rows, seed=seed), questions)
        - packed.score(packed.fit(rows, seed=seed, compact=False), questions)
        for seed in range(2)
    ]
    assert np.max(np.abs(errors)) <= 1e-2
    assert np.mean(np.abs(errors)) <= 1e-4


def test_compact_rows_never_pass_a_threshold_they_do_not_exceed() -> None:
    """Beyond every threshold of a feature the compact code still grows: a far row is as far as in the exact layout."""
    rows = np.random.default_rng(0).normal(size=(1_000, 4))
    far = np.vstack([sign * scale * np.eye(4) for sign in (1, -1) for scale in (6.0, 1e3, 1e12, 3e38)])
    compact, exact = (packed.fit(rows, seed=3, compact=compact) for compact in (True, False))
    np.testing.assert_allclose(packed.score(compact, far), packed.score(exact, far), atol=1e-3)


def _permutation_p(distances: NDArray[np.float64], n_own: int) -> float:
    """How often a random split of these forests in two groups sets them as far apart as the given one does."""

    def gap(order: NDArray[np.int64]) -> float:
        ordered = distances[np.ix_(order, order)]
        own, other, mixed = ordered[:n_own, :n_own], ordered[n_own:, n_own:], ordered[:n_own, n_own:]
        return float(2 * mixed.mean() - own.sum() / (own.size - n_own) - other.sum() / (other.size - len(other)))

    rng = np.random.default_rng(0)
    observed = gap(np.arange(len(distances)))
    drawn = [gap(rng.permutation(len(distances))) for _ in range(999)]
    return (1 + sum(value >= observed for value in drawn)) / (1 + len(drawn))


def _ks_distances(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    grid = np.quantile(scores, np.linspace(0, 1, 400))
    shares = np.array([np.searchsorted(np.sort(one), grid) / one.size for one in scores])
    return np.abs(shares[:, None] - shares[None]).max(axis=2)


def _spearman_distances(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 - np.corrcoef([rankdata(one) for one in scores])


@pytest.fixture(scope="module")
def sklearn_scores() -> NDArray[np.float64]:
    """Twelve scikit-learn forests' scores of the same rows, one line a seed."""
    rows = _rows()
    return np.array([-_sklearn(rows, seed).score_samples(rows) for seed in range(12)])


def _own_scores(fit: Callable[[int], packed.Forest]) -> NDArray[np.float64]:
    return np.array([packed.score(fit(seed), _rows()) for seed in range(12)])


@pytest.mark.parametrize("distances", [_ks_distances, _spearman_distances])
def test_scores_cannot_be_told_from_sklearn(
    sklearn_scores: NDArray[np.float64], distances: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    """Own forests differ from scikit-learn's, in ranks and in distribution, no more than two of scikit-learn's do.

    The yardstick is the spread over seeds: with the names shuffled, the two groups lie as far apart in more than 5 %.
    """
    own = _own_scores(lambda seed: packed.fit(_rows(), n_trees=50, seed=seed))
    assert _permutation_p(distances(np.vstack([own, sklearn_scores])), len(own)) > 0.05


def test_a_wrong_forest_is_told_from_sklearn(sklearn_scores: NDArray[np.float64]) -> None:
    """The test above can fail: forests of 64 rows a tree, and forests blind to one feature, are found out."""
    blind = _rows()
    blind[:, 2] = 0.0
    for distances, fit in (
        (_ks_distances, lambda seed: packed.fit(_rows(), n_trees=50, sample_size=64, seed=seed)),
        (_spearman_distances, lambda seed: packed.fit(blind, n_trees=50, seed=seed)),
    ):
        own = _own_scores(fit)
        assert _permutation_p(distances(np.vstack([own, sklearn_scores])), len(own)) <= 0.002


def test_equal_seeds_give_equal_arrays_and_others_do_not() -> None:
    """The seed alone decides: equal arrays for equal seeds, whatever the dtype or the memory order."""
    rows = _rows().astype(np.float32).astype(np.float64)
    first = packed.fit(rows, seed=5)
    for other in (rows.astype(np.float32), np.asfortranarray(rows), rows.copy()):
        again = packed.fit(other, seed=5)
        assert np.array_equal(first.nodes, again.nodes)
        assert np.array_equal(first.roots, again.roots)
        assert np.array_equal(first.scales, again.scales)
    assert not np.array_equal(first.nodes, packed.fit(rows, seed=6).nodes)
    assert packed.fit(rows, seed=-1).nodes.size > 0


def test_the_unit_of_a_feature_does_not_matter() -> None:
    """Another unit (a power of 2, so that no float32 is rounded) leaves every exact score as it was."""
    rows = _rows()
    scale = 2.0 ** np.array([17, -17, 0, -60, 40, 3])
    plain, scaled = (packed.fit(values, seed=1, compact=False) for values in (rows, rows * scale))
    assert np.array_equal(packed.score(plain, rows), packed.score(scaled, rows * scale))


def test_score_of_a_forest_worked_by_hand() -> None:
    """Two rows, one split: all paths are 1 long and c(2) is 1, so each score is 2 ** -1; a lone row scores 0.5 too."""
    forest = packed.fit(np.array([[0.0], [1.0]]), n_trees=5, seed=0)
    assert packed.score(forest, np.array([[0.0], [1.0], [9.0]])).tolist() == [0.5, 0.5, 0.5]
    assert packed.score(packed.fit(np.array([[3.0]]), seed=0), np.array([[3.0], [4.0]])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 100, 256, 257])
def test_small_samples_are_used_whole(n_rows: int) -> None:
    """With fewer rows than `sample_size` each tree sees them all, as in scikit-learn."""
    forest = packed.fit(np.arange(n_rows, dtype=float)[:, None], seed=0)
    arrays = packed.dump(forest)
    leaves_of_a_tree = np.add.reduceat(np.unpackbits(arrays["leaves"], count=forest.nodes.size), forest.roots[:-1])
    assert forest.sample_size == min(n_rows, 256)
    assert (arrays["leaf_rows"].astype(int) + 1).sum() == forest.sample_size * forest.n_trees
    assert leaves_of_a_tree.max() <= forest.sample_size


def test_constant_rows_make_single_leaves() -> None:
    """Where nothing varies no tree splits, and every row, also one never seen, scores 2 ** (-c(n) / c(n)) = 0.5."""
    forest = packed.fit(np.full((300, 3), 4.0), seed=0)
    assert forest.nodes.size == forest.n_trees
    np.testing.assert_allclose(packed.score(forest, np.array([[4.0, 4.0, 4.0], [9.0, 9.0, 9.0]])), 0.5, rtol=1e-12)


def test_average_path_length_is_that_of_the_paper() -> None:
    """c(n) = 2 H(n - 1) - 2 (n - 1) / n with H(i) about ln(i) + 0.5772, also where the table of small n ends."""
    rows = np.array([3, 256, kernels.TABLE_SIZE - 1, kernels.TABLE_SIZE, 10_000])
    expected = [2 * (math.log(n - 1) + 0.5772156649015329) - 2 * (n - 1) / n for n in rows]
    assert [kernels.average_path_length(n) for n in (1, 2)] == [0.0, 1.0]
    np.testing.assert_allclose([kernels.average_path_length(n) for n in rows], expected, rtol=1e-15)


@pytest.mark.parametrize("compact", [True, False])
def test_a_spike_in_one_feature_gets_the_most_credit(compact: bool) -> None:
    """Whichever of 12 features is moved by ten standard deviations leads the credits, with a positive one."""
    rows = np.random.default_rng(0).normal(size=(3_000, 12))
    forest = packed.fit(rows, seed=0, compact=compact)
    spikes = np.median(rows, axis=0) + 10.0 * np.eye(12)
    credit = packed.credits(forest, spikes)
    assert np.argmax(credit, axis=1).tolist() == list(range(12))
    assert np.all(credit.max(axis=1) > 1.0)


@pytest.mark.parametrize("compact", [True, False])
def test_credits_sum_to_the_shortened_path(compact: bool) -> None:
    """A row's credits are the expected path less its own: with its score, 2 ** -(path / c(n)), they add up."""
    rows = _rows()
    forest = packed.fit(rows, seed=0, compact=compact)
    questions = np.vstack([rows[:100], _far_rows(rows)])
    path = -np.log2(packed.score(forest, questions)) * kernels.average_path_length(forest.sample_size)
    expected = packed.expected_paths(forest)
    credit = packed.credits(forest, questions, expected)
    np.testing.assert_allclose(credit.sum(axis=1), expected[forest.roots[:-1]].mean() - path, atol=1e-4)
    assert np.array_equal(credit, packed.credits(forest, questions))
    assert np.all(credit[:, 5] == 0.0), "the constant feature splits nothing"


@pytest.mark.filterwarnings("ignore")
def test_credits_agree_with_shap() -> None:
    """On scikit-learn's forest, packed: the same base and sums as TreeExplainer, and the same leader of every spike.

    Shapley values spread what two features did together otherwise than the path does, so single ones differ a little;
    a lost feature or a sign that is turned shows in both.
    """
    import shap

    rows = np.random.default_rng(0).normal(size=(1_000, 6)).astype(np.float32)
    theirs = IsolationForest(n_estimators=50, random_state=0, max_samples=128).fit(rows)
    forest = packed.from_sklearn(theirs)
    spikes = rows[np.abs(rows).max(axis=1) < 1.5][:24].copy()  # ordinary but for the spike
    spikes[np.arange(24), np.arange(24) % 6] += 8.0
    explainer = shap.TreeExplainer(theirs)
    shorter = -explainer.shap_values(spikes)  # theirs explain the path, ours by how much it is shorter
    credit = packed.credits(forest, spikes)
    base = np.mean(packed.expected_paths(forest)[forest.roots[:-1]])
    assert base == pytest.approx(float(np.squeeze(explainer.expected_value)), abs=1e-4)
    assert credit.sum(axis=1) == pytest.approx(shorter.sum(axis=1), abs=1e-4)
    assert np.array_equal(credit.argmax(axis=1), shorter.argmax(axis=1))
    assert np.array_equal(credit.argmax(axis=1), np.arange(24) % 6)
    assert np.corrcoef(credit.ravel(), shorter.ravel())[0, 1] > 0.95


def test_expected_path_at_the_root_is_the_mean_path_of_the_sample() -> None:
    """Of a forest that saw all rows, the expected path at the roots is the mean over those rows' own paths."""
    rows = _rows(200)
    forest = packed.fit(rows, seed=0, compact=False)
    paths = -np.log2(packed.score(forest, rows)) * kernels.average_path_length(200)
    assert packed.expected_paths(forest)[forest.roots[:-1]].mean() == pytest.approx(paths.mean(), abs=1e-4)


@pytest.mark.parametrize("compact", [True, False])
def test_a_block_scores_bit_for_bit_as_its_forests(compact: bool) -> None:
    """Models of different features, trees and samples in one block: each row gets its own model's score, to the bit."""
    rng = np.random.default_rng(0)
    forests, questions = [], []
    for index in range(17):
        n_features = int(rng.integers(1, 40))
        rows = rng.normal(size=(400, n_features)) * 10.0 ** rng.integers(-3, 4, n_features)
        n_trees, sample_size = int(rng.integers(1, 30)), int(rng.integers(1, 300))
        forests.append(packed.fit(rows, n_trees=n_trees, sample_size=sample_size, seed=index, compact=compact))
        questions.append(1.5 * rows[:1])
    block = packed.pack(forests)
    index = rng.permutation(np.repeat(np.arange(17), 2))
    lengths = [forests[model].n_features for model in index]
    flat = np.concatenate([questions[model][0] for model in index])
    scores = packed.score_fleet(block, flat, np.cumsum([0, *lengths]), index)
    assert scores.tolist() == [packed.score(forests[model], questions[model])[0] for model in index]
    for model, forest in enumerate(forests):
        view = block.forest(model)
        assert np.shares_memory(view.nodes, block.nodes)
        assert np.array_equal(packed.credits(view, questions[model]), packed.credits(forest, questions[model]))


def test_a_block_refuses_rows_that_are_not_its_models() -> None:
    """An unknown model, a row of another length, rows beyond the values, a NaN: refused before anything is read."""
    forest = packed.fit(np.random.default_rng(0).normal(size=(50, 2)), n_trees=3, seed=0)
    block = packed.pack([forest, forest])
    good: dict[str, Any] = {"values": np.zeros(4), "row_starts": np.array([0, 2, 4]), "model_index": np.array([0, 1])}
    assert packed.score_fleet(block, **good).shape == (2,)
    assert packed.score_fleet(block, np.zeros(0), np.array([0]), np.zeros(0, np.int64)).shape == (0,)
    for change, message in (
        ({"model_index": np.array([0, 2])}, "2 models"),
        ({"model_index": np.array([-1, 0])}, "2 models"),
        ({"row_starts": np.array([0, 1, 4])}, "as long"),
        ({"row_starts": np.array([-2, 0, 2])}, "row_starts"),
        ({"values": np.zeros(3)}, "leave the values"),
        ({"row_starts": np.array([0, 4])}, "do not match"),
        ({"values": np.array([0.0, 0.0, np.nan, 0.0])}, "row 1"),
    ):
        with pytest.raises(ValueError, match=message):
            packed.score_fleet(block, **(good | change))
    with pytest.raises(ValueError, match="compact"):
        packed.pack([forest, packed.fit(np.zeros((5, 2)), seed=0, compact=False)])
    with pytest.raises(ValueError, match="needs forests"):
        packed.pack([])


def test_threads_agree() -> None:
    """Four threads, each fitting and scoring at once, get what one gets."""
    rows = _rows()

    def work(seed: int) -> list[float]:
        return packed.score(packed.fit(rows, seed=seed), rows).tolist()

    alone = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    """NaN, an infinity and what float32 cannot hold are refused, with the row, by fit, score and credits."""
    rows = _rows(50)
    forests = [packed.fit(rows, seed=0, compact=compact) for compact in (True, False)]
    rows[17, 3] = bad
    calls: list[Callable[[], object]] = [lambda: packed.fit(rows, seed=0)]
    for forest in forests:
        calls += [lambda forest=forest: packed.score(forest, rows), lambda forest=forest: packed.credits(forest, rows)]
    for call in calls:
        with pytest.raises(ValueError, match="row 17"):
            call()


def test_wrong_shapes_and_parameters_are_refused() -> None:
    """Other features than the model's, no rows, no trees, too many nodes, too much for four bytes: all refused."""
    rows = _rows(50)
    forest = packed.fit(rows, seed=0)
    for call, message in (
        (lambda: packed.score(forest, rows[:, :3]), r"expected \(n, 6\)"),
        (lambda: packed.score(forest, rows[0]), r"expected \(n, 6\)"),
        (lambda: packed.credits(forest, rows[:, :3]), r"expected \(n, 6\)"),
        (lambda: packed.credits(forest, rows, np.zeros(3, np.float32)), "own"),
        (lambda: packed.fit(rows[:0], seed=0), "needs a row"),
        (lambda: packed.fit(rows[0], seed=0), "needs a row"),
        (lambda: packed.fit(rows, n_trees=0, seed=0), "n_trees"),
        (lambda: packed.fit(rows, n_trees=2_001, seed=0), "n_trees"),
        (lambda: packed.fit(rows, sample_size=0, seed=0), "sample_size"),
        (lambda: packed.fit(np.zeros((4_000, 1)), n_trees=200, sample_size=4_000, seed=0), "nodes"),
        (lambda: packed.fit(np.zeros((300, 1_024)), seed=0), "compact=False"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert packed.score(forest, rows[:0]).shape == (0,)


def test_a_model_of_usual_size_stays_below_65_kilobytes() -> None:
    """100 trees of 256 rows and 12 features take at most 65 KB, in memory as dumped, roots and scales included."""
    forest = packed.fit(np.random.default_rng(0).normal(size=(5_000, 12)), seed=0)
    dumped = sum(array.nbytes for array in packed.dump(forest).values())
    assert dumped < forest.size_bytes <= 65_000


@pytest.mark.parametrize(("n_features", "sample_size"), [(1, 2), (6, 256), (6, 300), (300, 64)])
@pytest.mark.parametrize("compact", [True, False])
def test_dump_and_load_give_the_same_forest(n_features: int, sample_size: int, compact: bool) -> None:
    """A loaded forest equals the dumped one bit for bit, and so do its scores; its arrays are its own and read-only."""
    rows = np.random.default_rng(0).normal(size=(400, n_features))
    forest = packed.fit(rows, n_trees=11, sample_size=sample_size, seed=0, compact=compact)
    arrays = {name: array.copy() for name, array in packed.dump(forest).items()}
    assert {array.dtype.name for array in arrays.values()} <= {"float32", "int32", "int64", "uint8"}
    loaded = packed.load(arrays, n_features)
    for array in arrays.values():
        array[...] = 0
    assert np.array_equal(loaded.nodes, forest.nodes)
    assert loaded.nodes.dtype == forest.nodes.dtype
    assert np.array_equal(packed.score(loaded, rows), packed.score(forest, rows))
    assert not loaded.nodes.flags.writeable


def test_a_packed_sklearn_forest_survives_dump_and_load() -> None:
    """The exact layout of a scikit-learn forest comes back with identical scores."""
    rows = _rows()
    forest = packed.from_sklearn(_sklearn(rows))
    assert np.array_equal(packed.score(packed.load(packed.dump(forest), 6), rows), packed.score(forest, rows))


def _dumped(*, compact: bool) -> dict[str, NDArray[Any]]:
    forest = packed.fit(_rows(300), n_trees=5, sample_size=32, seed=0, compact=compact)
    return {name: array.copy() for name, array in packed.dump(forest).items()}


def _set(name: str, place: Any, value: Any) -> Callable[[dict[str, NDArray[Any]]], None]:
    def damage(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name][place] = value

    return damage


def _replace(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[dict[str, NDArray[Any]]], None]:
    def damage(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name] = change(arrays[name])

    return damage


def _leaf_first(arrays: dict[str, NDArray[Any]]) -> None:
    """The root becomes a leaf and a leaf becomes inner: the counts still match, but children precede their parents."""
    is_leaf = np.unpackbits(arrays["leaves"], count=int(arrays["roots"][-1]))
    last = int(arrays["roots"][1]) - 1
    is_leaf[0], is_leaf[last] = 1, 0
    arrays["leaves"] = np.packbits(is_leaf)


def _chain(arrays: dict[str, NDArray[Any]]) -> None:
    """A tree of ten levels, in the exact layout, where the shape allows five."""
    is_leaf = np.array([0, 1] * 10 + [1], np.uint8)
    arrays["leaves"] = np.packbits(is_leaf)
    arrays["roots"] = np.array([0, 21], np.int32)
    arrays["splits"], arrays["leaf_rows"] = arrays["splits"][:10], np.zeros(11, np.uint8)


DAMAGE: dict[str, Callable[[dict[str, NDArray[Any]]], None]] = {
    "other features": _set("shape", 0, 7),
    "no sample": _set("shape", 1, 0),
    "sample smaller than its leaves": _set("shape", 1, 2),
    "levels beyond what a leaf can say": _set("shape", 2, 32),
    "negative levels": _set("shape", 2, -1),
    "too few levels": _set("shape", 2, 1),
    "short shape": _replace("shape", lambda array: array[:2]),
    "trees from nowhere": _set("roots", 0, 1),
    "trees beyond the nodes": _set("roots", -1, 2**31 - 1),
    "empty tree": _set("roots", 2, 0),
    "no tree": _replace("roots", lambda array: array[:1]),
    "too many trees": _replace("roots", lambda _: np.arange(2_002, dtype=np.int32)),
    "NaN scale": _set("scales", (0, 0), np.nan),
    "infinite scale": _set("scales", (0, 1), np.inf),
    "no spread": _set("scales", (0, 1), 0.0),
    "negative codes": _set("scales", (0, 2), -1.0),
    "scales of fewer features": _replace("scales", lambda array: array[:-1]),
    "flat scales": _replace("scales", np.ravel),
    "unknown feature": _set("splits", 3, 6),
    "feature of a leaf": _replace("splits", lambda array: array | 7),
    "offset where none is stored": _set("splits", 3, 1 << 3),
    "one split less": _replace("splits", lambda array: array[:-1]),
    "unsigned splits": _replace("splits", lambda array: array.view(f"u{array.itemsize}")),
    "float splits": _replace("splits", lambda array: array.astype(np.float64)),
    "leaf in the place of a node": _replace("leaves", lambda array: array | 0x80),
    "node in the place of a leaf": _replace("leaves", lambda array: array & 0xF0),
    "leaf before its parent": _leaf_first,
    "a chain": _chain,
    "one byte less": _replace("leaves", lambda array: array[:-1]),
    "one leaf less": _replace("leaf_rows", lambda array: array[:-1]),
    "leaf of more rows than the sample": _set("leaf_rows", 0, 200),
    "too many nodes": _replace("leaves", lambda _: np.zeros(2**17 + 1, np.uint8)),
}


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_load_refuses_damage(damage: Callable[[dict[str, NDArray[Any]]], None], compact: bool) -> None:
    """Every array is checked against the others before a kernel sees it; the error names the forest's array."""
    arrays = _dumped(compact=compact)
    packed.load(arrays, 6)
    damage(arrays)
    with pytest.raises(ArtifactDamaged, match="forest"):
        packed.load(arrays, 6)


@pytest.mark.parametrize("name", ["shape", "roots", "scales", "leaves", "splits", "leaf_rows"])
def test_load_refuses_a_missing_array(name: str) -> None:
    """Each array is needed."""
    arrays = _dumped(compact=True)
    del arrays[name]
    with pytest.raises(ArtifactDamaged, match=name):
        packed.load(arrays, 6)


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf])
def test_load_refuses_thresholds_that_are_not_finite(threshold: float) -> None:
    """In the exact layout a threshold is a float32, and must be finite."""
    arrays = _dumped(compact=False)
    bits = int(np.float32(threshold).view(np.int32))
    code = bits if bits >= 0 else bits ^ 0x7FFFFFFF
    arrays["splits"][2] = code << 32 | 1
    with pytest.raises(ArtifactDamaged, match="not finite"):
        packed.load(arrays, 6)


def test_load_refuses_compact_nodes_without_bits_for_a_code() -> None:
    """Levels and features that leave a compact node no room for a threshold are refused."""
    arrays = _dumped(compact=True)
    arrays["shape"][2] = 28
    with pytest.raises(ArtifactDamaged, match="4 bytes"):
        packed.load(arrays, 6)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans())
def test_whatever_is_altered_load_refuses_it_or_scores_safely(data: st.DataObject, compact: bool) -> None:
    """After any change of any bytes, `load` raises `ArtifactDamaged` or gives a forest with finite scores in (0, 1]."""
    arrays = _dumped(compact=compact)
    for _ in range(data.draw(st.integers(1, 3))):
        array = arrays[data.draw(st.sampled_from(sorted(arrays)))]
        view = array.view(np.uint8).reshape(-1)
        view[data.draw(st.integers(0, view.size - 1))] = data.draw(st.integers(0, 255))
    try:
        forest = packed.load(arrays, 6)
    except ArtifactDamaged:
        return
    questions = _far_rows(_rows(200))
    scores = packed.score(forest, questions)
    assert np.all((scores > 0.0) & (scores <= 1.0))
    assert np.all(np.isfinite(packed.credits(forest, questions)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=n, max_size=n
        )
    ),
    st.integers(0, 2**64),
    st.booleans(),
)
def test_any_finite_rows_make_a_sound_forest(values: list[list[float]], seed: int, compact: bool) -> None:
    """Whatever is finite can be learned: the forest passes `load`'s own checks and its scores lie in (0, 1]."""
    rows = np.array(values)
    forest = packed.fit(rows, n_trees=4, sample_size=32, seed=seed, compact=compact)
    assert np.array_equal(packed.load(packed.dump(forest), 3).nodes, forest.nodes)
    scores = packed.score(forest, rows)
    assert np.all((scores > 0.0) & (scores <= 1.0))
