"""Every detector keeps one contract: polarity, growth, honesty about ignorance, units, order, seeds, fleets."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from foreshock.core.errors import ArtifactDamaged
from foreshock.core.frame import Array, Frame
from foreshock.detectors.ensemble import ALGORITHMS
from foreshock.detectors.fleet import Fleet
from foreshock.detectors.model import Course, Model, dump, load, train
from foreshock.detectors.rules import Rules
from foreshock.features.schema import Schema

STEP_S, N_DAYS, PER_DAY = 300, 8, 288
NAMES = ("latency", "errors", "queue")


def _history(seed: int = 1, *, scale: float = 1.0, n_metrics: int = 3) -> Array:
    random = np.random.default_rng(seed)
    n = N_DAYS * PER_DAY
    common = random.normal(0, 1, n)
    columns = [100 + 10 * np.sin(2 * np.pi * np.arange(n) / PER_DAY) + common + 0.3 * random.normal(0, 1, n)]
    columns += [50 + common + 0.3 * random.normal(0, 1, n) for _ in range(n_metrics - 1)]
    return np.asarray(scale * np.column_stack(columns), dtype=np.float32).astype(np.float64)


def _course(algorithm: str, names: tuple[str, ...] = NAMES, rules: Rules | None = None) -> Course:
    schema = Schema(names, STEP_S, 3600)
    return Course(schema, rules or Rules.none(len(names)), algorithm, 1 / 604_800, None, "UTC")


def _train(algorithm: str, values: Array, names: tuple[str, ...] = NAMES) -> Model:
    frame = Frame(0, STEP_S, names, values)
    return train(frame, _course(algorithm, names), np.ones(frame.n_times, np.bool_))


def _score(model: Model, values: Array, names: tuple[str, ...] = NAMES) -> float:
    rows = Frame(0, STEP_S, names, values)
    return float(model.ensemble.score(model.vectors(rows, len(values) - 1), Rules.none(len(names)))[-1])


@pytest.fixture(scope="module", params=sorted(ALGORITHMS))
def trained(request: pytest.FixtureRequest) -> tuple[str, Model, Array]:
    values = _history()
    return request.param, _train(request.param, values), values


def _moved(values: Array, by: float, metric: int = 0, rows: int = 1) -> Array:
    moved = values.copy()
    moved[-rows:, metric] += by
    return moved


def test_normal_is_below_the_threshold_and_ten_times_further_scores_more(trained: tuple[str, Model, Array]) -> None:
    """A score grows with the deviation and goes on growing outside of what was seen."""
    _, model, values = trained
    scores = [_score(model, _moved(values, by)) for by in (0.0, 20.0, 200.0, 2000.0)]
    assert scores[0] < 1.0 <= scores[2]
    assert scores == sorted(scores)
    assert scores[1] < scores[2] < scores[3]


@pytest.mark.parametrize("metric", range(3))
def test_the_moved_metric_leads_the_contributions(trained: tuple[str, Model, Array], metric: int) -> None:
    """An injected spike ranks first, wherever it is; shares add up to 1."""
    _, model, values = trained
    rows = Frame(0, STEP_S, NAMES, _moved(values, 60.0, metric))
    vectors = model.vectors(rows, rows.n_times - 1)
    shares = model.ensemble.contributions(vectors, Rules.none(3))[0]
    assert int(np.argmax(shares)) == metric
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= 0).all()


def test_equal_input_and_seed_give_equal_arrays(trained: tuple[str, Model, Array]) -> None:
    algorithm, model, values = trained
    again, _ = dump(_train(algorithm, values))
    first, _ = dump(model)
    assert first.keys() == again.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


def test_the_unit_of_a_metric_changes_nothing(trained: tuple[str, Model, Array]) -> None:
    """Seconds or milliseconds: the same deviation has the same score, but for float32's rounding of the samples."""
    algorithm, model, values = trained
    in_ms = _train(algorithm, 1024.0 * values)
    for by in (0.0, 20.0):
        moved = _moved(values, by)
        assert _score(in_ms, 1024.0 * moved) == pytest.approx(_score(model, moved), rel=0.02, abs=0.02)


def test_dump_and_load_give_the_identical_score(trained: tuple[str, Model, Array]) -> None:
    _, model, values = trained
    restored = load(*dump(model))
    for by in (0.0, 15.0, 300.0):
        assert _score(restored, _moved(values, by)) == _score(model, _moved(values, by))


def test_a_fleet_scores_each_member_as_if_it_were_alone(trained: tuple[str, Model, Array]) -> None:
    """The block of a fleet equals its rows, bit for bit."""
    algorithm, model, values = trained
    other = _train(algorithm, _history(9))
    rules = Rules.none(3)
    fleet = Fleet.of([model, other], [rules, rules])
    context = model.schema.context_steps
    contexts = [_moved(values, 9.0)[-context:], _history(9)[-context:]]
    end_s = (len(values) - 1) * STEP_S
    vectors, _ = fleet.vectors(np.stack(contexts), np.array([end_s, end_s]), np.arange(2))
    together = fleet.ensemble.score(vectors, fleet.rules)
    for k, (member, rows) in enumerate(zip((model, other), contexts, strict=True)):
        frame = Frame(end_s - (context - 1) * STEP_S, STEP_S, NAMES, rows)
        alone = member.vectors(frame, context - 1)
        np.testing.assert_array_equal(vectors[k], alone[0])
        assert together[k] == member.ensemble.score(alone, rules)[0]


def test_a_damaged_artifact_is_refused(trained: tuple[str, Model, Array]) -> None:
    """Any array that is missing is a typed error, never a model that scores something."""
    _, model, _ = trained
    arrays, facts = dump(model)
    for name in arrays:
        if name in {"baseline.scale", "ensemble.calibrations", "availability", "screen_quantiles"}:
            with pytest.raises(ArtifactDamaged):
                load({key: array for key, array in arrays.items() if key != name}, facts)
    with pytest.raises(ArtifactDamaged, match="other features"):
        load(arrays, {**facts, "window_s": 1800})


def test_facts_that_ask_for_much_memory_are_refused_before_it_is_taken(trained: tuple[str, Model, Array]) -> None:
    """Arrays of zeros are left out of an artifact: how large they are is for its author to say, within bounds."""
    arrays, facts = dump(trained[1])
    names = [f"m{number}" for number in range(20_000)]
    schema = Schema(tuple(names), facts["step_s"], facts["window_s"])
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactDamaged):
            load(
                {name: array for name, array in arrays.items() if not name.startswith("baseline.")},
                {**facts, "metrics": names, "fingerprint": schema.fingerprint},
            )
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_training_never_changes_its_input(trained: tuple[str, Model, Array]) -> None:
    algorithm, _, values = trained
    copy = values.copy()
    _train(algorithm, copy)
    np.testing.assert_array_equal(copy, values)


def test_an_incident_in_the_history_does_not_hide_the_next_one() -> None:
    """Three hours of trouble on one day of the history: the same trouble a week later is found all the same."""
    values = _history()
    values[3 * PER_DAY : 3 * PER_DAY + 36, 1] += 25.0
    assert _score(_train("ensemble", values), _moved(values, 25.0, 1)) >= 1.0


def test_min_deviation_silences_what_nobody_would_get_up_for() -> None:
    """Below both minima nothing counts, at any scale and in any channel."""
    values, names = _history(), NAMES
    rules = Rules.none(3)
    strict = Rules(rules.direction, np.full(3, 500.0), *(getattr(rules, name) for name in Rules.__slots__[2:]))
    frame = Frame(0, STEP_S, names, values)
    model = train(frame, _course("ensemble", names, strict), np.ones(frame.n_times, np.bool_))
    vectors = model.vectors(Frame(0, STEP_S, names, _moved(values, 100.0)), len(values) - 1)
    assert model.ensemble.score(vectors, strict)[0] < 1.0
    far = model.vectors(Frame(0, STEP_S, names, _moved(values, 2000.0)), len(values) - 1)
    assert model.ensemble.score(far, strict)[0] >= 1.0
