"""VUS-PR against the same sums written out threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from bench.quality.vus import period_of, vus_pr


def written_out(scores: np.ndarray, labels: np.ndarray, window: int) -> float:
    """The definition in loops over widths, thresholds and segments."""
    n = len(labels)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels.astype(int), [0]])))
    segments = [(first, end - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
    falling = np.sort(scores)[::-1]
    areas = []
    for width in range(window + 1):
        soft = labels.astype(float)
        for first, last in segments:
            for away in range(1, width // 2 + 1):
                slope = np.sqrt(1 - away / width)
                if last + away < n:
                    soft[last + away] += slope
                if first - away >= 0:
                    soft[first - away] += slope
        soft = np.minimum(soft, 1.0)
        merged: list[list[int]] = []
        for first, last in segments:
            if merged and merged[-1][1] >= first - width // 2:
                merged[-1][1] = last + width // 2
            else:
                merged.append([max(0, first - width // 2), last + width // 2])
        area, before = 0.0, 0.0
        for place in np.linspace(0, n - 1, 250).astype(int):
            flagged = scores >= falling[place]
            hits = float((soft * flagged).sum())
            seen = np.mean([flagged[first : last + 1].any() for first, last in merged])
            wide = float(np.where(labels, 1.0, soft * flagged).sum())
            recall = min(1.0, hits / ((labels.sum() + wide) / 2)) * seen
            area += (recall - before) * hits / flagged.sum()
            before = recall
        areas.append(area)
    return float(np.mean(areas))


@pytest.mark.parametrize("seed", range(6))
def test_the_volume_is_the_mean_of_the_areas_written_out(seed: int) -> None:
    """Ties, segments at both ends, and segments that meet when widened."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(120, np.bool_)
    for first in rng.integers(0, 115, 4):
        labels[first : first + int(rng.integers(1, 8))] = True
    labels[0], labels[-1] = seed % 2 == 0, seed % 3 == 0
    scores = np.round(rng.normal(size=120) + labels, 1)
    assert vus_pr(scores, labels, 14) == pytest.approx(written_out(scores, labels, 14))


def test_a_perfect_ranking_beats_noise_and_the_absence_of_labels_has_no_volume() -> None:
    """NaN is not 0: a case without a label says nothing of the ranking."""
    labels = np.zeros(500, np.bool_)
    labels[200:240] = True
    noise = np.random.default_rng(0).normal(size=500)
    assert vus_pr(labels.astype(float), labels, 20) > 0.85
    assert vus_pr(noise, labels, 20) < 0.3
    assert np.isnan(vus_pr(noise, np.zeros(500, np.bool_), 20))


def test_the_period_is_that_of_the_series() -> None:
    """A day of 5-minute steps is found, and 125 is said where nothing repeats."""
    rows = np.arange(4_000)
    assert period_of(np.sin(2 * np.pi * rows / 288)) == pytest.approx(288, abs=1)
    assert period_of(np.ones(4_000)) == 125
