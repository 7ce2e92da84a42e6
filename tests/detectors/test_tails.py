"""A tail is that of what was measured, and nothing near the middle is ever news."""

from __future__ import annotations

import numpy as np

from foreshock.detectors.tails import fit_tails

STEP_S, BUDGET_PER_S = 300, 1.0 / 604_800


def _noise(n_days: int = 14, n_metrics: int = 1) -> np.ndarray:
    return np.random.default_rng(4).normal(5.0, 1.0, (n_days * 288, n_metrics, 1))


def test_what_was_not_measured_moves_neither_the_middle_nor_the_spread() -> None:
    """Two thirds of the windows missing leave a metric at 5.0 +- 1.0 where it was."""
    statistics = _noise()
    holes = np.where(np.arange(len(statistics))[:, None, None] % 3 == 0, statistics, np.nan)
    tails = fit_tails(holes, np.ones(holes.shape, np.bool_), STEP_S, BUDGET_PER_S)
    np.testing.assert_allclose(tails.middle, 5.0, atol=0.1)
    np.testing.assert_allclose(tails.spread, 1.0, atol=0.1)


def test_nothing_closer_than_the_least_is_unusual() -> None:
    """A statistic that hardly moves has its threshold at the least, in its own unit."""
    tame = 0.1 * (_noise() - 5.0)
    tails = fit_tails(tame, np.ones(tame.shape, np.bool_), STEP_S, BUDGET_PER_S, least=np.array([2.0]))
    np.testing.assert_allclose(tails.excess(tails.middle + 2.0), 1.0)
    free = fit_tails(tame, np.ones(tame.shape, np.bool_), STEP_S, BUDGET_PER_S)
    assert free.excess(free.middle + 1.0).item() > 1.0


def test_metrics_share_the_budget_and_the_statistics_of_one_do_not() -> None:
    """A metric's threshold is the same with one look at it as with three; beside nine others it asks for more."""
    one = _noise()
    alone, looks, many = (
        fit_tails(each, np.ones(each.shape, np.bool_), STEP_S, BUDGET_PER_S).threshold.ravel()[0]
        for each in (one, np.repeat(one, 3, axis=2), np.repeat(one, 10, axis=1))
    )
    assert looks == alone
    assert many > alone


def test_what_was_always_zero_does_not_drown_what_lies_far_beyond() -> None:
    """A metric 20 thresholds away keeps a fifth of the blame beside one that is 10^12 away, and comes second."""
    statistics = np.repeat(_noise(), 3, axis=1)
    tails = fit_tails(statistics, np.ones(statistics.shape, np.bool_), STEP_S, BUDGET_PER_S)
    unit = (tails.spread * tails.threshold)[..., 0]
    blame = tails.blame((tails.middle[..., 0] + unit * [1e12, 20.0, 0.5])[None, :, None], np.ones((1, 3, 1), np.bool_))
    shares = blame.ravel() / blame.sum()
    assert shares[0] > shares[1] > 0.2
    np.testing.assert_allclose(blame.ravel()[2], 0.5)


def test_views_of_one_thing_share_a_threshold_and_spikes_keep_most_of_theirs() -> None:
    """Two scales of the same noise have the geometric mean; one with a spike every few hours keeps three quarters."""
    random = np.random.default_rng(6)
    calm, other, spiky = (random.normal(0.0, 1.0, 14 * 288) for _ in range(3))
    spiky[::50] *= 12.0
    everything = np.ones((14 * 288, 1, 2), np.bool_)

    def thresholds(first: np.ndarray, second: np.ndarray, n_alike: int) -> np.ndarray:
        statistics = np.stack([first, second], axis=-1)[:, None]
        return fit_tails(statistics, everything, STEP_S, BUDGET_PER_S, n_alike=n_alike).threshold[0]

    np.testing.assert_allclose(thresholds(calm, other, 2), np.sqrt(np.prod(thresholds(calm, other, 0))))
    np.testing.assert_allclose(thresholds(calm, spiky, 2)[1], 0.75 * thresholds(calm, spiky, 0)[1])
