"""What is said about an alert is what a person would have said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.core.verdicts import Cause
from foreshock.diagnosis.narrative import Observation, observe, sentence

POOL_WAIT = Observation("pool_wait", 0.7, 112.3, 41.2, "rising", 3120, "ms")
ERRORS = Observation("error_ratio", 0.2, 0.008, 0.002, "above", 600)
CACHE = Observation("cache_hits", 0.06, 0.94, 0.94)
NAN = float("nan")


@pytest.mark.parametrize(
    ("observations", "cause", "expected"),
    [
        (
            [POOL_WAIT, replace(ERRORS, metric="errors")],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour, rising for 52 minutes. errors moved with it.",
        ),
        (
            [ERRORS, replace(POOL_WAIT, metric="a"), replace(CACHE, metric="b", share=0.3, course="below")],
            Cause.SCORE,
            "error_ratio is 0.8 % where 0.2 % is normal at this hour, above normal for 10 minutes. a and b moved with it.",  # noqa: E501 - one text
        ),
        (
            [replace(POOL_WAIT, metric="busy_workers", unit_hint=""), replace(CACHE, metric="jobs", share=0.3)],
            Cause.SCORE,
            "busy_workers is 112 where 41.2 is normal at this hour, rising for 52 minutes. It no longer follows jobs, which is as usual.",  # noqa: E501 - one text
        ),
        (
            [POOL_WAIT, CACHE],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour, rising for 52 minutes. cache_hits hardly moved.",
        ),
        (
            [POOL_WAIT, replace(ERRORS, share=0.11), CACHE],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour, rising for 52 minutes. error_ratio moved with it.",  # noqa: E501 - one text
        ),
        (
            [replace(POOL_WAIT, course_s=0), CACHE, CACHE],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour. The other 2 metrics hardly moved.",
        ),
        (
            [replace(POOL_WAIT, observed=20.0, course="falling", course_s=7200)],
            Cause.SCORE,
            "pool_wait is 20 ms where 41.2 ms is normal at this hour, falling for 2 hours.",
        ),
        (
            [replace(POOL_WAIT, course="inside")],
            Cause.SCORE,
            "pool_wait is 112 ms: no unusual level, but it does not move as it usually does.",
        ),
        (
            [replace(POOL_WAIT, course="inside"), ERRORS],
            Cause.SCORE,
            "pool_wait is 112 ms: no unusual level by itself, but unusual beside error_ratio.",
        ),
        (
            [replace(POOL_WAIT, course="inside", partner="requests"), CACHE],
            Cause.SCORE,
            "pool_wait is 112 ms and no longer follows requests as it always did. cache_hits hardly moved.",
        ),
        (
            [replace(POOL_WAIT, course="above", partner="error_ratio"), ERRORS],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour, above normal for 52 minutes. It no longer follows error_ratio.",  # noqa: E501 - one text
        ),
        (
            [replace(POOL_WAIT, partner="cache_hits"), CACHE],
            Cause.SCORE,
            "pool_wait is 112 ms where 41.2 ms is normal at this hour, rising for 52 minutes. cache_hits hardly moved.",
        ),
        (
            [replace(POOL_WAIT, course="swinging", reach=(9.0, 290.4), band=(31.0, 52.0))],
            Cause.SCORE,
            "pool_wait swings between 9 ms and 290 ms where 31 ms to 52 ms is normal at this hour, for 52 minutes.",
        ),
        (
            [replace(POOL_WAIT, observed=NAN, course_s=2280)],
            Cause.ABSENT,
            "pool_wait has been missing for 38 minutes, while its datasource answers.",
        ),
        (
            [replace(POOL_WAIT, observed=NAN, course_s=2280), ERRORS],
            Cause.ABSENT,
            "pool_wait has been missing for 38 minutes, while its datasource answers. error_ratio is missing too.",
        ),
        (
            [replace(POOL_WAIT, observed=NAN, course_s=2280), CACHE, CACHE],
            Cause.ABSENT,
            "pool_wait has been missing for 38 minutes, while its datasource answers. Its other metrics are there.",
        ),
        (
            [replace(POOL_WAIT, observed=NAN)],
            Cause.SCORE,
            "pool_wait left its normal band before its samples ended.",
        ),
        ([POOL_WAIT, CACHE], Cause.OUT_OF_RANGE, "pool_wait is 112 ms, which is outside its valid range."),
        (
            [POOL_WAIT, ERRORS],
            Cause.OUT_OF_RANGE,
            "pool_wait is 112 ms, which is outside its valid range. error_ratio left its range too.",
        ),
    ],
)
def test_the_sentences(observations: list[Observation], cause: Cause, expected: str) -> None:
    """Each kind of alert has its own first sentence, and the second one tells who moved along."""
    assert sentence(observations, cause) == expected


def test_an_alert_about_nothing_is_refused() -> None:
    """Without an observation there is nothing to say, and nothing is said."""
    with pytest.raises(ValueError, match="without any observation"):
        sentence([])


@given(
    st.lists(
        st.builds(
            Observation,
            st.sampled_from(["a", "b_seconds", "c_ratio"]),
            st.floats(0, 1),
            st.floats(width=32),
            st.floats(width=32),
            st.sampled_from(["rising", "falling", "above", "below", "swinging", "inside"]),
            st.floats(0, 1e7),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(list(Cause)),
)
def test_any_observation_can_be_said(observations: list[Observation], cause: Cause) -> None:
    """Whatever 32 bits observed, the text begins with the first metric, ends with a full stop and says no `nan`."""
    text = sentence(observations, cause)
    assert text.startswith(observations[0].metric)
    assert text.endswith(".")
    assert "nan" not in text
    assert "inf" not in text


MINUTES = 600
TIMES_S = 60.0 * np.arange(MINUTES)


FLAT = np.full(MINUTES, 40.0)


def seen_with(course: np.ndarray) -> Observation:
    """Ten hours around 40 with a band of plus and minus 8, ending with `course` on top."""
    values = 40 + 2 * np.random.default_rng(3).standard_normal(MINUTES)
    values[-course.size :] += course
    return observe("wait", 0.9, TIMES_S, values, expected=FLAT, lower=FLAT - 8, upper=FLAT + 8)


def test_a_ramp_is_seen_rising_since_it_left_its_band() -> None:
    """A ramp of 2 a minute over fifty minutes leaves the band after about four, and is rising since then."""
    seen = seen_with(2.0 * np.arange(50))
    assert seen.course == "rising"
    assert 40 * 60 <= seen.course_s <= 49 * 60
    assert seen.observed == pytest.approx(40 + 96, abs=4)
    assert seen.expected == 40


def test_a_step_is_above_and_not_rising() -> None:
    """A step of 30 half an hour ago is above normal for half an hour."""
    seen = seen_with(np.full(30, 30.0))
    assert (seen.course, seen.course_s) == ("above", 29 * 60)


def test_a_metric_that_stays_while_its_normal_goes_is_not_rising() -> None:
    """Busy workers that stay at 40 while they are expected to fall to nothing: above normal, and not rising."""
    goes = np.concatenate([FLAT[:-200], np.linspace(40, 0, 200)])
    values = 40 + np.random.default_rng(3).standard_normal(MINUTES)
    seen = observe("busy", 0.9, TIMES_S, values, expected=goes, lower=goes - 8, upper=goes + 8)
    assert seen.course == "above"


def test_a_wider_spread_swings() -> None:
    """Values far above and far below in turn: between what, and what is normal; the last of them is no course."""
    noise = 40 * np.random.default_rng(4).standard_normal(60)
    seen = seen_with(noise)
    assert (seen.course, seen.band) == ("swinging", (32.0, 48.0))
    assert seen.reach[0] < 20
    assert seen.reach[1] > 60
    assert 50 * 60 <= seen.course_s <= 60 * 60


def test_a_fall_is_below_or_falling() -> None:
    """The same two courses downwards."""
    assert seen_with(np.full(30, -30.0)).course == "below"
    assert seen_with(-0.7 * np.arange(60)).course == "falling"


def test_an_excursion_of_yesterday_is_not_part_of_the_course() -> None:
    """The course begins behind the last quarter of an hour inside the band."""
    course = np.zeros(200)
    course[:30] = 50
    course[-20:] = 50
    assert seen_with(course).course_s == 19 * 60


def test_an_unmoved_metric_is_inside() -> None:
    """A metric inside its band has no course."""
    seen = seen_with(np.zeros(1))
    assert (seen.course, seen.course_s) == ("inside", 0.0)


def test_a_metric_that_ended_is_missing_since_its_last_sample() -> None:
    """Samples that ended 38 minutes before the alert: nothing is observed, and the time is counted from there."""
    seen = seen_with(np.full(38, NAN))
    assert np.isnan(seen.observed)
    assert seen.course_s == 38 * 60
    assert np.isnan(seen_with(np.full(MINUTES, NAN)).observed)
