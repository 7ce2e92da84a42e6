"""The demo's shop: what its story promises to the people who watch it."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_exposition

from foreshock.app.shop import (
    CONTROL_RULE,
    DAY_S,
    STATIC_RULES,
    STEP_S,
    Story,
    rules_yaml,
    shop_series,
    write_openmetrics,
)
from foreshock.app.shop_exporter import ShopExporter, scrape_config_yaml

STORY = Story(1_750_032_000)  # 2025-06-16T00:00:00Z, a Monday
POOL_WAIT = "shop_database_connection_pool_wait_milliseconds"


@pytest.fixture(scope="module")
def history() -> dict[str, np.ndarray]:
    series = shop_series(STORY, STORY.history_start_s, STORY.day_start_s + DAY_S - STEP_S)
    return {one.name: one.values for one in series} | {"times_s": series[0].times_s}


def between(history: dict[str, np.ndarray], name: str, start_s: int, end_s: int) -> np.ndarray:
    times_s = history["times_s"]
    return history[name][(times_s >= start_s) & (times_s < end_s)]


def longest_run_s(condition: np.ndarray) -> int:
    """How long the condition held without a break, as a rule's `for` sees it."""
    longest = current = 0
    for holds in condition:
        current = current + 1 if holds else 0
        longest = max(longest, current)
    return max(0, longest - 1) * STEP_S


def test_the_history_is_three_weeks_and_a_day_of_finite_minutes(history: dict[str, np.ndarray]) -> None:
    """Every series has a finite sample for each minute."""
    for name, values in history.items():
        assert values.size == 22 * 1440, name
        assert np.isfinite(values).all(), name


def test_only_the_control_rule_would_fire(history: dict[str, np.ndarray]) -> None:
    """No static rule of the team holds for its `for`; the control rule does, within the drift."""
    comparisons = {">": np.greater, "<": np.less, "==": np.equal}
    for rule in (*STATIC_RULES, CONTROL_RULE):
        selector, comparison, bound = rule.expression.rsplit(" ", 2)
        holds = comparisons[comparison](history[selector.split("{")[0]], float(bound))
        fires = longest_run_s(holds) >= rule.for_s
        assert fires == (rule is CONTROL_RULE), rule.alert
        if fires:
            first = history["times_s"][np.argmax(holds)]
            assert STORY.drift_s[0] + 3600 < first < STORY.drift_s[1]


def test_the_drift_adds_200_ms_in_three_hours_after_weeks_of_flatness(history: dict[str, np.ndarray]) -> None:
    """The pool wait is flat around 40 ms until the drift, 240 ms at its end, and flat again after the repair."""
    before = between(history, POOL_WAIT, STORY.history_start_s, STORY.drift_s[0])
    assert 38 < before.mean() < 43
    assert 2 < before.std() < 4
    assert before.max() < 60
    at_the_end = between(history, POOL_WAIT, STORY.drift_s[1], STORY.drift_s[1] + 1200)
    assert at_the_end.mean() == pytest.approx(240.5, abs=3)
    assert between(history, POOL_WAIT, STORY.repaired_s + 300, STORY.day_start_s + DAY_S).max() < 60


def test_the_sale_doubles_the_traffic_and_touches_nothing_else(history: dict[str, np.ndarray]) -> None:
    """Amid the sale there is twice the traffic of the Monday before, and an ordinary wait, error and hit ratio."""
    middle_s = (STORY.sale_s[0] + 1800, STORY.sale_s[0] + 3600)
    name = "shop_http_requests_per_second"
    week_before = between(history, name, *(instant_s - 7 * DAY_S for instant_s in middle_s))
    assert between(history, name, *middle_s).mean() / week_before.mean() == pytest.approx(2.0, abs=0.1)
    for name in (POOL_WAIT, "shop_http_error_ratio", "shop_cache_hit_ratio"):
        usual = between(history, name, STORY.history_start_s, STORY.day_start_s)
        assert abs(between(history, name, *middle_s).mean() - usual.mean()) < 1.5 * usual.std(), name


def test_errors_stay_far_below_the_teams_rule(history: dict[str, np.ndarray]) -> None:
    """The gateway's failures reach more than 1 % in the drift, and never half of the rule's 5 %."""
    in_drift = between(history, "shop_http_error_ratio", *STORY.drift_s)
    assert 0.01 < in_drift.max() < 0.025
    usual = between(history, "shop_http_error_ratio", STORY.history_start_s, STORY.drift_s[0])
    assert usual.mean() == pytest.approx(0.002, rel=0.05)
    assert usual.max() < 0.006


def test_the_counter_grows_and_resets_once_in_the_second_week(history: dict[str, np.ndarray]) -> None:
    """The counter falls exactly once, to less than a minute's requests."""
    falls = np.flatnonzero(np.diff(history["http_requests_total"]) < 0) + 1
    assert falls.size == 1
    reset_s = history["times_s"][falls[0]] - STORY.history_start_s
    assert 7 * DAY_S < reset_s < 14 * DAY_S
    assert history["http_requests_total"][falls[0]] < 60 * 400


@settings(max_examples=10, deadline=None)
@given(
    first=st.integers(0, 22 * 1440), length=st.integers(0, 600), seed=st.integers(0, 3), more=st.integers(0, 3 * 1440)
)
def test_a_longer_range_holds_the_samples_of_a_shorter_one(first: int, length: int, seed: int, more: int) -> None:
    """What is served live goes on exactly where the backfilled history ended."""
    start_s = STORY.history_start_s + first * STEP_S
    end_s = start_s + length * STEP_S
    short = shop_series(STORY, start_s, end_s, seed=seed)
    long = shop_series(STORY, STORY.history_start_s, end_s + more * STEP_S, seed=seed)
    for one, other in zip(short, long, strict=True):
        np.testing.assert_array_equal(one.values, other.values[first : first + length + 1])


def test_a_seed_is_a_shop_of_its_own() -> None:
    """Two seeds give two histories of the same story."""
    one, other = (shop_series(STORY, STORY.day_start_s, STORY.day_start_s + 3600, seed=seed) for seed in (1, 2))
    assert all(not np.array_equal(a.values, b.values) for a, b in zip(one, other, strict=True))


def test_a_range_outside_the_history_is_refused() -> None:
    """Nothing was measured before the shop opened."""
    with pytest.raises(ValueError, match="the shop opened at"):
        shop_series(STORY, STORY.history_start_s - 60, STORY.day_start_s)


@given(st.floats(1.7e9, 2e9))
def test_the_story_before_an_instant_is_told_completely(now_s: float) -> None:
    """Between the repair and now lies more than an hour, and less than two days since the day began."""
    story = Story.before(now_s)
    assert story.day_start_s % DAY_S == 0
    assert story.repaired_s + 3600 < now_s <= story.day_start_s + 2 * DAY_S


def test_the_file_is_openmetrics_and_promtool_takes_it(tmp_path: Path) -> None:
    """Each family comes with its type and all its samples, `# EOF` last, and promtool makes blocks of it."""
    path = tmp_path / "shop.om"
    written = write_openmetrics(path, STORY, STORY.day_start_s, STORY.day_start_s + 4 * 3600)
    text = path.read_text()
    families = {family.name: family for family in parse_openmetrics(text)}
    assert text.endswith("# EOF\n")
    assert {family.type for family in families.values()} == {"gauge", "counter"}
    assert sum(len(family.samples) for family in families.values()) == written == 6 * 241
    sample = families[POOL_WAIT].samples[0]
    assert sample.labels == {"instance": "shop-0:8080", "job": "checkout"}
    assert float(sample.timestamp) == STORY.day_start_s
    done = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(path), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "data").iterdir())


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """The rule file holds the five rules of the team and the control, and passes `promtool check rules`."""
    path = tmp_path / "rules.yaml"
    path.write_text(rules_yaml())
    assert len(yaml.safe_load(rules_yaml())["groups"][0]["rules"]) == 6
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scrape(exporter: ShopExporter) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{exporter.address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {sample.name: sample.value for family in parse_exposition(text) for sample in family.samples}


def test_the_exporter_goes_on_where_the_history_ends() -> None:
    """Without a fault the exporter serves what the history would have held, the counter in between two minutes."""
    now_s = float(STORY.day_start_s + 20 * 3600)
    expected = shop_series(STORY, int(now_s), int(now_s) + 8 * 3600)
    with ShopExporter(STORY, lambda: now_s) as exporter:
        for minute in (0, 1, 7 * 60):  # the last lies beyond what is generated ahead
            now_s = float(expected[0].times_s[minute]) + 30
            served = scrape(exporter)
            for one in expected[:-1]:
                assert served[one.name] == one.values[minute]
            counter = expected[-1]
            assert counter.values[minute] < served[counter.name] < counter.values[minute + 1]


def test_a_fault_shows_at_once_and_ends_at_once() -> None:
    """Level 1.0 adds what the drift had added at its end; level 0.0 takes it away again."""
    now_s = float(STORY.day_start_s + 20 * 3600)
    with ShopExporter(STORY, lambda: now_s) as exporter:
        healthy = scrape(exporter)
        exporter.fault_level = 1.0
        assert scrape(exporter)[POOL_WAIT] == pytest.approx(healthy[POOL_WAIT] + 200)
        exporter.fault_level = 0.0
        assert scrape(exporter) == healthy


def test_a_closed_exporter_is_gone() -> None:
    """After `close` nobody listens and no thread is left."""
    exporter = ShopExporter(STORY, lambda: float(STORY.day_start_s))
    exporter.close()
    assert not exporter._thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{exporter.address}/metrics", timeout=2)


def test_the_scrape_configuration_keeps_the_labels_of_the_history() -> None:
    """`honor_labels` is set: otherwise the live samples would form a second series beside the backfilled one."""
    job = yaml.safe_load(scrape_config_yaml("127.0.0.1:1234"))["scrape_configs"][0]
    assert job["honor_labels"] is True
    assert job["static_configs"] == [{"targets": ["127.0.0.1:1234"]}]
