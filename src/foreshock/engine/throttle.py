"""The 2-sigma check: decide cheaply whether the full model needs to look at a window. Pure.

The cheap statistic is the largest deviation over all of the vector's scales and relations, compared with its own
held-out quantile: at `sigma: 2` the 4.6 % of normal windows that deviate most pass, and whatever lies beyond the
statistic's own threshold. The check never looks at the last point alone, and never chooses what a model learns from.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from foreshock.core.frame import Array
from foreshock.detectors.model import SCREEN_SHARES

_THRESHOLD = 1.0  # of each part of the cheap statistic: where one part is often beyond it, the others would not pass


def share_let_through(sigma: float) -> float:
    """The share of a normal distribution that lies beyond `sigma` standard deviations on either side.

    >>> round(share_let_through(2.0), 4)
    0.0455
    """
    return 1.0 - erf(sigma / sqrt(2.0))


def limits(screen_quantiles: Array, sigma: Array) -> Array:
    """The cheap statistic above which a window passes: (n,) from (n, n_shares) held-out quantiles and (n,) sigmas."""
    shares = np.array([share_let_through(float(each)) for each in sigma])
    grid = SCREEN_SHARES[::-1]  # np.interp wants them ascending
    quantiles = [np.interp(share, grid, row[::-1]) for share, row in zip(shares, screen_quantiles, strict=True)]
    return np.asarray(np.minimum(quantiles, _THRESHOLD))


def passes(cheap: Array, limit: Array) -> NDArray[np.bool_]:
    """Whether the full model looks: (n,); a statistic that is missing passes, since nothing speaks against it."""
    return ~(cheap <= limit)


def skipped_score(cheap: Array, limit: Array) -> Array:
    """The score that a skipped window keeps: it grows with the cheap statistic and stays below a half."""
    return np.asarray(0.5 * np.clip(cheap / np.maximum(limit, 1e-12), 0.0, 1.0))
