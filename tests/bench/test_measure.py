"""The measure of the quality benchmark: what counts as found, and what as a false alarm."""

from __future__ import annotations

import numpy as np
import pytest
from bench.quality.measure import Ruler, average_precision, measured, oracle_found
from sklearn.metrics import average_precision_score

MINUTE, FIVE_MINUTES = 60, 300


def flags(n: int, *ranges: tuple[int, int]) -> np.ndarray:
    result = np.zeros(n, np.bool_)
    for first, end in ranges:
        result[first:end] = True
    return result


def slowly(anomalous: np.ndarray, labels: np.ndarray, step_s: int) -> tuple[int, int, int, int, int]:
    """The protocol again, row by row and without a vector: segments, found, false alarms, quiet rows, stray rows."""
    n, hour = len(labels), max(1, 3600 // step_s)
    segments, at = [], 0
    while at < n:
        if labels[at]:
            first = at
            while at < n and labels[at]:
                at += 1
            segments.append((first, at))
        at += 1
    nobody = [any(first - 6 <= row < end + max(6, hour) for first, end in segments) for row in range(n)]
    false, began, last = 0, None, None
    for row in range(n):
        if anomalous[row] and not nobody[row]:
            if last is None or row - last > hour:
                began, false = row, false + 1
                further = 0
            while row - began >= hour * (further + 1):
                further, false = further + 1, false + 1
            last = row
    found = 0
    for first, end in segments:
        inside = any(anomalous[row] for row in range(first, end))
        low = max(0, first - 6)
        on = any(anomalous[row] and not nobody[row] for row in range(max(0, low - hour), low))
        anew = any(
            anomalous[row] and not any(anomalous[before] for before in range(max(0, row - hour), row))
            for row in range(low, end)
        )
        found += inside and (anew or not on)
    quiet = max(1, n - sum(nobody))
    stray = sum(bool(anomalous[row]) and not nobody[row] for row in range(n))
    return len(segments), found, false, quiet, stray


@pytest.mark.parametrize("step_s", [60, 300, 600, 1800, 3600, 7200])
def test_random_flags_and_labels_are_measured_as_the_protocol_says(step_s: int) -> None:
    """The vectors of the measure count what the sentences of the protocol count."""
    rng = np.random.default_rng(step_s)
    for _ in range(60):
        n = int(rng.integers(5, 400))
        on, off = rng.choice([0.005, 0.02, 0.1]), rng.choice([0.05, 0.3, 0.7])
        both = []
        for _ in range(2):
            state, rows = False, []
            for _ in range(n):
                state = not state if rng.random() < (off if state else on) else state
                rows.append(state)
            both.append(np.array(rows))
        outcome = measured(both[0], both[1], step_s)
        counted = (
            len(outcome.starts), sum(outcome.found), outcome.false_alarms, outcome.quiet_rows, outcome.stray_rows
        )  # fmt: skip
        assert counted == slowly(both[0], both[1], step_s)


def test_an_alarm_that_goes_on_counts_once_more_for_each_further_hour() -> None:
    """Otherwise an alarm that never ends would be a bargain."""
    labels = flags(200)
    assert measured(flags(200, (10, 11)), labels, FIVE_MINUTES).false_alarms == 1
    assert measured(flags(200, (10, 22)), labels, FIVE_MINUTES).false_alarms == 1
    assert measured(flags(200, (10, 23)), labels, FIVE_MINUTES).false_alarms == 2
    assert measured(flags(200, (10, 11), (22, 23)), labels, FIVE_MINUTES).false_alarms == 2  # one, an hour long
    assert measured(flags(200, (10, 11), (23, 24)), labels, FIVE_MINUTES).false_alarms == 2  # two


def test_an_alarm_that_was_on_before_finds_nothing_unless_it_begins_anew() -> None:
    """Being always on is not finding."""
    labels = flags(300, (100, 120))
    assert measured(flags(300, (0, 300)), labels, FIVE_MINUTES).found == (False,)
    assert measured(flags(300, (100, 101)), labels, FIVE_MINUTES).found == (True,)
    again = measured(flags(300, (90, 92), (105, 106)), labels, FIVE_MINUTES)
    assert again.found == (True,)  # it had been silent for an hour
    assert again.delays == (5,)


def test_an_hour_after_a_segment_and_six_rows_before_it_belong_to_nobody() -> None:
    """A window still sees the segment for as long."""
    labels = flags(300, (100, 120))
    assert measured(flags(300, (94, 95), (131, 132)), labels, FIVE_MINUTES).false_alarms == 0
    assert measured(flags(300, (93, 94)), labels, FIVE_MINUTES).false_alarms == 1
    assert measured(flags(300, (132, 133)), labels, FIVE_MINUTES).false_alarms == 1


def test_average_precision_is_that_of_scikit_learn() -> None:
    """Ties included."""
    rng = np.random.default_rng(3)
    for n in (20, 500):
        labels = rng.random(n) < 0.2
        scores = np.round(rng.normal(size=n) + labels, 1)
        assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))


def test_the_oracle_is_never_beaten_by_a_threshold_within_one_false_alarm_a_week() -> None:
    """It is the upper bound of what calibration can reach."""
    rng = np.random.default_rng(5)
    labels = flags(4_000, (500, 520), (1_500, 1_530), (3_000, 3_100))
    scores = rng.normal(size=4_000) + 2.0 * labels
    weeks = Ruler(labels, FIVE_MINUTES).quiet.sum() * FIVE_MINUTES / 604_800
    best = oracle_found(scores, labels, FIVE_MINUTES)
    for threshold in np.quantile(scores, np.linspace(0.99, 1.0, 30)):
        outcome = measured(scores >= threshold, labels, FIVE_MINUTES)
        assert outcome.false_alarms > weeks or sum(outcome.found) <= best
