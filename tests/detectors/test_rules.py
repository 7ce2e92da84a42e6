"""What of a window counts at all."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.detectors.rules import Rules, has_passed
from foreshock.features.schema import INDEX, STATISTICS


@pytest.mark.parametrize(("last", "passed"), [(1.0, True), (19.0, False)])
def test_a_spike_is_over_once_the_newest_samples_are_calm(last: float, *, passed: bool) -> None:
    """Its window still scatters by twenty usual distances: that counts while the metric deviates, and no longer."""
    vector = np.zeros((1, 1, len(STATISTICS)))
    for name, value in (
        ("deviation_standard_deviation", 20.0),
        ("deviation_maximum", 60.0),
        ("gap_root_mean_square", 20.0),
        ("deviation_last", last),
    ):
        vector[..., INDEX[name]] = value
    assert has_passed(vector).item() is passed
    assert Rules.none(1).spread_counts(vector).item() is not passed
    assert Rules.none(1).any_counts(vector).item() is not passed


def test_noise_that_grew_has_not_passed() -> None:
    """A window that scatters twice as widely as usual counts also where its last samples happen to be calm."""
    vector = np.zeros((1, 1, len(STATISTICS)))
    for name in ("deviation_standard_deviation", "deviation_maximum", "gap_root_mean_square"):
        vector[..., INDEX[name]] = 2.0
    assert not has_passed(vector).any()
    assert Rules.none(1).any_counts(vector).all()
