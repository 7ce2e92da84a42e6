"""The scenario language: what it reads, what it refuses with which line, and what series it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scenarios.language import AlertPromise, Scenario, VerdictPromise, parse
from tests.scenarios.promises import SeenAlert, broken_alerts, broken_verdicts
from tests.scenarios.series import START_S, frame_of
from tests.scenarios.words import ScenarioError

from foreshock.core.verdicts import (
    Anomalous,
    Cause,
    Contribution,
    Ignorance,
    Inconclusive,
    Judgement,
    Normal,
    Subject,
    Verdict,
)

FILES = sorted(Path(__file__).parent.glob("*.scenario"))

SKETCH = """
# The pool wait creeps for three hours. No static rule sees it.
load step=1m seed=7
  pool_wait_ms   daily 40 amplitude 5 noise 2 for 7d       ramp to 240 for 3h   flat 40 for 1h   missing for 8m
  requests       daily 900 amplitude 300 noise 20 for 7d   the same for 4h8m
detector false_alarm_budget=1/7d throttle.sigma=3 seasonality=[1d,7d]
metric pool_wait_ms direction=up min_relative_deviation=0.05
train on 0..7d
by 7d1h      anomalous      top=pool_wait_ms
at 7d4h7m    inconclusive   reason=Stale
alerts       firing by 7d1h   resolved after 7d3h   nothing else
"""


def series_of(text: str, *, before: str = "") -> np.ndarray:
    """The values of one series `x` that was written as `text`, half an hour of them at least."""
    frame = frame_of(parse(f"load step=1m seed=1\n{before}  x  {text}\ntrain on 0..1m\nalerts none\n"))
    return frame.values[:, frame.metrics.index("x")]


def test_the_sketch_of_the_style_guide_is_understood() -> None:
    """Every statement of the sketch, and the two additions, arrive where they belong."""
    scenario = parse(SKETCH, "sketch")
    assert scenario.metrics == ("pool_wait_ms", "requests")
    assert (scenario.step_s, scenario.seed, scenario.train_until_s) == (60, 7, 7 * 86_400)
    assert scenario.spec == {"false_alarm_budget": "1/7d", "throttle": {"sigma": 3}, "seasonality": ["1d", "7d"]}
    assert scenario.metric_fields == {"pool_wait_ms": {"direction": "up", "min_relative_deviation": 0.05}}
    assert scenario.verdicts == (
        VerdictPromise(9, "by", 7 * 86_400 + 3600, "anomalous", top="pool_wait_ms"),
        VerdictPromise(10, "at", 7 * 86_400 + 4 * 3600 + 420, "inconclusive", reason=Ignorance.STALE),
    )
    train_s = 7 * 86_400
    assert scenario.alerts == (AlertPromise(11, train_s, train_s + 3600, resolved_after_s=train_s + 3 * 3600),)
    assert scenario.nothing_else


def test_the_sketch_becomes_the_series_that_it_describes() -> None:
    """Noise stays until it is said again, the ramp ends at its target, what is missing is NaN."""
    frame = frame_of(parse(SKETCH))
    wait = frame.values[:, 0]
    assert frame.n_times == 7 * 1440 + 4 * 60 + 8
    assert frame.start_s == START_S
    assert wait[: 7 * 1440].mean() == pytest.approx(40, abs=0.1)
    assert np.diff(wait[: 7 * 1440]).std() == pytest.approx(2 * np.sqrt(2), rel=0.05)
    assert wait[7 * 1440 + 170 : 7 * 1440 + 180].mean() == pytest.approx(235, abs=3)
    assert wait[-68:-8].mean() == pytest.approx(40, abs=1)
    assert np.isnan(wait[-8:]).all()
    assert np.isfinite(frame.values[:, 1]).all()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_parses_tells_its_story_and_promises_something(file: Path) -> None:
    """Each scenario opens with a comment, and its series are finite but for what is said to be missing."""
    text = file.read_text()
    scenario = parse(text, file.name)
    frame = frame_of(scenario)
    assert text.startswith("# ")
    assert scenario.verdicts or scenario.alerts or scenario.nothing_else
    assert frame.n_times * frame.step_s == scenario.series[0].duration_s
    if "missing for" not in text and "gaps of" not in text:
        assert np.isfinite(frame.values).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  x  flat 1 for 1h", "line 1: an indented line is a series and belongs under `load`"),
        ("lode step=1m", "line 1: 'lode' is no statement: load, detector, metric, train, at, by, alerts"),
        ("train on 0..7d", "line 1: a scenario begins with `load` and its series"),
        ("load stop=1m", "line 1: stop=1m is not understood here; known are step, seed"),
        ("load step=0", "line 1: the step is at least one second"),
        ("load seed=x", "line 1: seed=x is no whole number"),
        ("load step=1m again", "line 1: 'again' is not understood here"),
        ("load step=1w", "line 1: '1w' is not a duration such as 90s, 15m, 1h or 1d12h"),
    ],
)
def test_a_broken_first_line_is_refused_with_its_number(line: str, message: str) -> None:
    """Each mistake in the first line has a sentence that names it."""
    with pytest.raises(ScenarioError) as caught:
        parse(line)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ("x", "line 2: x has no segment"),
        ("1x flat 1 for 1h", "line 2: '1x' is no name of a metric"),
        ("x flat for 1h", "line 2: 'for' is no number, the level should stand there"),
        ("x flat 1", "line 2: the line ends where 'for' should follow"),
        ("x flat 1 for 90s", "line 2: 90 s is not a multiple of the step of 60 s"),
        ("x flat 1 for 0", "line 2: 0 s is not a multiple of the step of 60 s"),
        ("x round 1 for 1h", "line 2: 'round' is no shape of a series"),
        ("x the same for 1h", "line 2: a series begins with one of daily, flat, follows, not with 'the same'"),
        ("x daily 1 peak 2h for 1h", "line 2: 'peak' stands where 'amplitude' should"),
        ("x flat 1 noise 2 ar=1 for 1h", "line 2: ar lies between 0 and 1, as in ar=0.9"),
        ("x follows y times 1 plus 0 for 1h", "line 2: y is followed here, so it must stand above"),
        ("x flat 1 for 1h\n  x flat 1 for 1h", "line 3: x is there already"),
        ("x flat 1 for 1h\n  y flat 1 for 2h", "line 3: y is 7200 s long, x 3600"),
    ],
)
def test_a_broken_series_is_refused_with_its_line(series: str, message: str) -> None:
    """Each mistake under `load` has a sentence that names it."""
    with pytest.raises(ScenarioError) as caught:
        parse(f"load step=1m\n  {series}\n")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("train on 1d..2d", "line 3: training begins with the series: `train on 0..7d`"),
        ("train on 0..4h", "line 3: 4h is no row of the series: multiples of 60 s below 14400 s are"),
        ("at 3h normal", "line 3: verdicts are about instants after `train on`, which stands above"),
        ("alerts none", "line 3: `alerts` stands below `train on`"),
        ("metric y role=load", "line 3: there is no series 'y' under `load`"),
        ("load step=1m", "line 3: there is one `load` in a scenario"),
        ("detector a=[1", "line 3: a=[1 is not YAML"),
        ("train on 0..2h\nat 1h normal", "line 4: verdicts are about instants after `train on`, which stands above"),
        ("train on 0..2h\nat 3h odd", "line 4: 'odd' is no verdict: normal, anomalous, inconclusive"),
        ("train on 0..2h\nat 3h anomalous cause=Boredom", "line 4: 'Boredom' is not a valid Cause"),
        ("train on 0..2h\nby 3h anomalous top=y", "line 4: there is no series 'y' under `load`"),
        ("train on 0..2h\nalerts firing after 3h by 2h30m", "line 4: `by` lies before `after`"),
        ("train on 0..2h\nalerts maybe", "line 4: 'maybe' stands where 'firing' should"),
        ("train on 0..2h", "line 1: a scenario without `at`, `by` or `alerts` promises nothing"),
        ("", "line 1: `train on 0..7d` is missing"),
    ],
)
def test_a_broken_statement_is_refused_with_its_line(rest: str, message: str) -> None:
    """Each mistake in a statement has a sentence that names it."""
    with pytest.raises(ScenarioError) as caught:
        parse(f"load step=1m\n  x flat 1 for 4h\n{rest}\n")
    assert str(caught.value) == message


@given(st.text(alphabet="loadflt trinby=.#\n0123456789hm", max_size=200))
def test_any_text_is_a_scenario_or_an_error_of_the_language(text: str) -> None:
    """Whatever is written, nothing but a `ScenarioError` with a line comes back."""
    try:
        parse(text)
    except ScenarioError as error:
        message = str(error)
    else:
        message = "line 0: it is a scenario"
    assert message.startswith("line ")


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("flat 40 for 1h", 30, 40.0),
        ("daily 100 amplitude 30 for 1d", 14 * 60, 130.0),
        ("daily 100 amplitude 30 peak 6h for 1d", 18 * 60, 70.0),
        ("daily 100 amplitude 0 weekly 20 for 1d", 0, 120.0),
        ("flat 10 for 1h ramp by 60 for 1h the same for 1h", 89, 40.0),
        ("flat 10 for 1h ramp by 60 for 1h the same for 1h", 170, 70.0),
        ("flat 10 for 1h ramp to 70 for 1h the same for 1h", 170, 70.0),
        ("flat 10 for 1h step by 5 for 1h step by 5 for 1h", 170, 20.0),
        ("flat 10 for 1h step by 5 for 1h flat 10 for 1h", 170, 10.0),
        ("flat 10 for 1h spike by 5 for 1h the same for 1h", 90, 15.0),
        ("flat 10 for 1h spike by 5 for 1h the same for 1h", 150, 10.0),
        ("flat 10 for 1h times 0.5 for 1h the same for 1h", 90, 5.0),
        ("flat 10 for 1h burst times 2 for 1h the same for 1h", 90, 20.0),
        ("flat 10 for 1h burst times 2 for 1h the same for 1h", 150, 10.0),
        ("flat 10 for 1h ramp by 5 for 1h hold for 1h", 150, 15.0),
        ("flat 10 nightly by 7 at 2h lasting 40m for 1d", 2 * 60 + 39, 17.0),
        ("flat 10 nightly by 7 at 2h lasting 40m for 1d", 2 * 60 + 40, 10.0),
    ],
)
def test_a_shape_is_what_it_says(text: str, row: int, expected: float) -> None:
    """Without noise each shape has its value, while it lasts and after it."""
    assert series_of(text)[row] == pytest.approx(expected)


def test_noise_has_its_spread_and_its_memory() -> None:
    """Autocorrelated noise keeps the standard deviation that was written, and correlates as was written."""
    values = series_of("flat 0 noise 3 ar=0.9 for 30d")
    assert values.std() == pytest.approx(3, rel=0.1)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(0.9, abs=0.02)


def test_the_spread_grows_and_the_mean_stays() -> None:
    """`spread grows to 4` multiplies the noise by four at its end, and keeps it there."""
    values = series_of("flat 100 noise 2 for 2d spread grows to 4 for 2d the same for 2d")
    assert values[-2880:].std() == pytest.approx(8, rel=0.1)
    assert values[:2880].std() == pytest.approx(2, rel=0.1)
    assert values[2880:5760].mean() == pytest.approx(100, abs=0.5)


def test_wandering_is_slow() -> None:
    """A wandering level moves far in days and hardly within a minute."""
    values = series_of("flat 100 wander 5 for 60d")
    assert values.std() == pytest.approx(5, rel=0.3)
    assert np.diff(values).std() < 0.5


def test_gaps_recur_and_whoever_follows_sees_what_happened() -> None:
    """Gaps of three minutes an hour lose 5 %; a follower of that series is measured throughout."""
    before = "  y  flat 5 noise 1 for 1h   gaps of 3m every 1h for 10h\n"
    frame = frame_of(
        parse(f"load seed=2\n{before}  x  follows y times 2 plus 1 for 11h\ntrain on 0..1m\nalerts none\n")
    )
    y, x = frame.values.T
    assert np.isnan(y).sum() == 30
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[np.isfinite(y)], 2 * y[np.isfinite(y)] + 1, rtol=1e-6)


def test_a_new_neighbour_changes_nothing() -> None:
    """The noise of a series hangs on the seed and its name, so that a scenario can grow."""
    alone = series_of("flat 5 noise 1 for 2h")
    np.testing.assert_array_equal(alone, series_of("flat 5 noise 1 for 2h", before="  y  flat 1 noise 1 for 2h\n"))


SUBJECT = Subject("default", "scenario")


def judged(scenario: Scenario, verdicts: dict[int, Verdict], top: str = "pool_wait_ms") -> list[Judgement]:
    """One judgement for each minute since the training, normal where nothing else is said."""
    end_s, train_s = scenario.series[0].duration_s, scenario.train_until_s
    found = {at_s: verdicts.get(at_s - train_s, Normal(0.2)) for at_s in range(train_s + 60, end_s, 60)}
    shares = (Contribution(top, 0.9), Contribution("requests", 0.1))
    return [
        Judgement(SUBJECT, START_S + at_s, verdict, shares if isinstance(verdict, Anomalous) else ())
        for at_s, verdict in found.items()
    ]


STALE = {4 * 3600 + 420: Inconclusive(Ignorance.STALE)}


@pytest.mark.parametrize(
    ("verdicts", "top", "complaints"),
    [
        (STALE | {3000: Anomalous(1.4)}, "pool_wait_ms", []),
        (STALE | {3660: Anomalous(1.4)}, "pool_wait_ms", ["sketch:9: by 7d1h: none of 60 judgements is anomalous, "]),
        (STALE | {3000: Anomalous(1.4)}, "requests", ["sketch:9: by 7d1h: the contributions are [('requests', 0.9)"]),
        ({3000: Anomalous(1.4)}, "pool_wait_ms", ["sketch:10: at 7d4h7m: the verdict is Normal(score=0.2)"]),
        (
            {3000: Anomalous(1.4), 4 * 3600 + 420: Inconclusive(Ignorance.NO_DATA)},
            "pool_wait_ms",
            ["sketch:10: at 7d4h7m: the reason is NoData"],
        ),
    ],
)
def test_broken_promises_about_verdicts_are_told(verdicts: dict[int, Verdict], top: str, complaints: list[str]) -> None:
    """Kept promises give no complaint, each broken one gives one, with its line and what was found."""
    scenario = parse(SKETCH, "sketch")
    found = broken_verdicts(scenario, judged(scenario, verdicts, top))
    assert [text.startswith(start) for text, start in zip(found, complaints, strict=True)] == [True] * len(complaints)


def test_the_cause_of_a_verdict_is_part_of_the_promise() -> None:
    """`cause=Absent` is broken by a score, and an instant without judgement breaks any promise."""
    scenario = parse(SKETCH.replace("at 7d4h7m    inconclusive   reason=Stale", "at 7d2h anomalous cause=Absent"), "s")
    verdicts: dict[int, Verdict] = {3000: Anomalous(2.0), 7200: Anomalous(1.2)}
    assert broken_verdicts(scenario, judged(scenario, verdicts)) == ["s:10: at 7d2h: the cause is Score"]
    verdicts[7200] = Anomalous(1.2, Cause.ABSENT)
    judgements = judged(scenario, verdicts)
    assert broken_verdicts(scenario, judgements) == []
    assert broken_verdicts(scenario, judgements[:100]) == ["s:10: at 7d2h: nothing was judged at that instant"]


def alert(start_s: int, end_s: int | None, top: str = "pool_wait_ms") -> SeenAlert:
    train_s = START_S + 7 * 86_400
    return SeenAlert(train_s + start_s, None if end_s is None else train_s + end_s, top)


@pytest.mark.parametrize(
    ("alerts", "complaints"),
    [
        ([alert(3000, 12_000)], []),
        ([], ["sketch:11: nothing fired between 7d and 7d1h; no alert"]),
        ([alert(3000, None)], ["sketch:11: the alert is still firing at the end"]),
        ([alert(3000, 9000)], ["sketch:11: the alert ended at 7d2h30m"]),
        (
            [alert(3000, 12_000), alert(13_000, None)],
            ["sketch: fired unexpectedly: 7d3h36m40s..… pool_wait_ms"],
        ),
        (
            [alert(4000, 12_000)],
            [
                "sketch:11: nothing fired between 7d and 7d1h; 7d1h6m40s..7d3h20m pool_wait_ms",
                "sketch: fired unexpectedly: 7d1h6m40s..7d3h20m pool_wait_ms",
            ],
        ),
    ],
)
def test_broken_promises_about_alerts_are_told(alerts: list[SeenAlert], complaints: list[str]) -> None:
    """Kept promises give no complaint, each broken one gives one."""
    assert broken_alerts(parse(SKETCH, "sketch"), alerts) == complaints


def test_what_alerts_must_name_and_how_they_must_end_is_checked() -> None:
    """`top`, `still firing` and `none` are each broken by their opposite."""
    head = SKETCH[: SKETCH.index("alerts")]
    named = parse(head + "alerts firing by 7d1h top=requests still firing", "named")
    assert broken_alerts(named, [alert(60, None, "requests"), alert(9000, None)]) == []
    assert broken_alerts(named, [alert(60, 9000)]) == [
        "named:11: the alert names pool_wait_ms first, not requests",
        "named:11: the alert ended at 7d2h30m and should still be firing",
    ]
    silent = parse(head + "alerts none", "silent")
    assert broken_alerts(silent, []) == []
    assert broken_alerts(silent, [alert(60, 120)]) == ["silent: fired unexpectedly: 7d1m..7d2m pool_wait_ms"]
