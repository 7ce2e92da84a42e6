"""The 2-sigma check: the share that it lets through, and what passes whatever that share is."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.detectors.model import SCREEN_SHARES
from foreshock.engine.throttle import limits, passes, share_let_through


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_the_share_of_normal_windows_that_passes_is_that_of_sigma(sigma: float) -> None:
    """Of a calm statistic, two-sided: 32 %, 4.6 % and 0.27 %."""
    held_out = np.random.default_rng(1).uniform(0.0, 0.9, 100_000)
    quantiles = np.quantile(held_out, 1.0 - SCREEN_SHARES)[None, :]
    passed = passes(held_out, limits(quantiles, np.array([sigma]))).mean()
    assert passed == pytest.approx(share_let_through(sigma), rel=0.05)


def test_what_lies_beyond_its_own_threshold_passes_however_ordinary_that_is() -> None:
    """One metric of many that is often out of its range does not hide what the others say."""
    quantiles = np.full((1, len(SCREEN_SHARES)), 5.0)
    limit = limits(quantiles, np.array([2.0]))
    assert passes(np.array([0.9, 1.1, np.nan]), limit).tolist() == [False, True, True]
