"""Says in two sentences what a person who looked at the graphs would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from foreshock.core.frame import Array
from foreshock.core.verdicts import Cause
from foreshock.diagnosis.quantities import duration, number, quantity, unit_of

Course = Literal["rising", "falling", "above", "below", "inside"]

# Less than a seventh of the score is not worth a name in a sentence.
_WORTH_A_NAME = 1 / 7
_A_CROWD = 8


@dataclass(frozen=True, slots=True)
class Observation:
    """What one metric did until the alert; `course_s` is for how long it has taken that `course`.

    `observed` and `expected` are in the metric's unit, NaN where unknown; `partner` is the metric whose relation with
    this one broke, where that is what happened.
    """

    metric: str
    share: float
    observed: float
    expected: float
    course: Course = "inside"
    course_s: float = 0.0
    unit_hint: str = ""
    partner: str | None = None


def observe(
    metric: str,
    share: float,
    times_s: Array,
    values: Array,
    *,
    expected: Array,
    lower: Array,
    upper: Array,
    unit_hint: str = "",
    partner: str | None = None,
) -> Observation:
    """Describe the end of a metric's history: its arrays (n_times,) end at the instant of the alert.

    `observed` is the median of the last five values, so that one sample does not speak for all; of those outside the
    band where the newest is: a fault of two minutes is not told by the minutes before it. The course begins behind the
    last quarter of an hour, or three values, in which the metric was inside its band.
    """
    measured = np.flatnonzero(np.isfinite(values))
    if measured.size == 0:
        silent_s = float(times_s[-1] - times_s[0]) if times_s.size else 0.0
        return Observation(metric, share, float("nan"), float("nan"), "inside", silent_s, unit_hint, partner)
    last = measured[-5:]
    outside = last[(values[last] > upper[last]) | (values[last] < lower[last])]
    told = outside if outside.size and outside[-1] == last[-1] else last
    observed, usual = float(np.median(values[told])), _median(expected[last])
    course: Course = "inside"
    since = _onset(times_s[measured], values[measured], lower[measured], upper[measured], above=observed >= usual)
    begun = measured[since:]
    course_s = float(times_s[-1] - times_s[begun[0]]) if begun.size else 0.0
    if begun.size:
        away = np.abs(values[begun] - expected[begun])
        grows = begun.size >= 6 and _median(away[begun.size * 2 // 3 :]) > 1.5 * _median(away[: begun.size // 3])
        course = ("rising" if grows else "above") if observed >= usual else ("falling" if grows else "below")
    if measured[-1] < values.size - 1:  # it ended before the alert: what counts is for how long it has been missing
        observed, course_s = float("nan"), float(times_s[-1] - times_s[measured[-1]])
    return Observation(metric, share, observed, usual, course, course_s, unit_hint, partner)


def _onset(times_s: Array, values: Array, lower: Array, upper: Array, *, above: bool) -> int:
    """The row since which the values are outside on that side; the number of rows where they are inside at the end."""
    outside = values > upper if above else values < lower
    if not outside[-5:].any():
        return values.size
    onset = quiet = values.size
    for row in range(values.size - 1, -1, -1):
        if outside[row]:
            onset = quiet = row
        elif quiet - row >= 3 and times_s[min(quiet, values.size - 1)] - times_s[row] >= 900:
            break
    return onset


def _median(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def sentence(observations: Sequence[Observation], cause: Cause = Cause.SCORE, n_metrics: int = 0) -> str:
    """Two sentences about one alert: what the first metric did, and who moved with it. Largest share first.

    `n_metrics` is of the detector, where only those that matter are among the observations.

    Raises:
        ValueError: there is no observation to speak of.

    """
    if not observations:
        raise ValueError("an alert without any observation has no story")
    if (crowd := _crowd(observations, n_metrics)) and cause is Cause.SCORE:
        return crowd
    return f"{_lead(observations[0], cause)} {_company(observations, n_metrics)}".rstrip()


def _lead(first: Observation, cause: Cause) -> str:
    match cause:
        case Cause.ABSENT:
            for_how_long = f" for {duration(first.course_s)}" if first.course_s else ""
            return f"{first.metric} has been missing{for_how_long}, while its datasource answers."
        case Cause.OUT_OF_RANGE:
            return f"{first.metric} is {_said(first.observed, first)}, which is outside its valid range."
        case Cause.SCORE:
            return _moved(first)
        case _:
            assert_never(cause)


def _moved(first: Observation) -> str:
    if not np.isfinite(first.observed):
        return f"{first.metric} left its normal band before its samples ended."
    observed, expected = _said(first.observed, first), _said(first.expected, first)
    if first.partner is not None:
        return f"{first.metric} is {observed} and no longer follows {first.partner} as it always did."
    if first.course == "inside" or not np.isfinite(first.expected):
        return f"{first.metric} is {observed}, a level that it knows, but it no longer moves as it usually does."
    if observed == expected:  # the same words for two numbers would read as a mistake
        observed, expected = number(first.observed), number(first.expected)
    course = {"rising": "rising", "falling": "falling", "above": "above normal", "below": "below normal"}[first.course]
    for_how_long = f", {course} for {duration(first.course_s)}" if first.course_s else ""
    return f"{first.metric} is {observed} where {expected} is normal at this hour{for_how_long}."


def _said(value: float, about: Observation) -> str:
    return quantity(value, about.unit_hint or unit_of(about.metric))


def _crowd(observations: Sequence[Observation], n_metrics: int) -> str:
    """Two sentences where nobody leads: many metrics that moved by a little at once; else nothing."""
    if n_metrics < _A_CROWD or observations[0].share >= _WORTH_A_NAME:
        return ""
    named = _listed([one.metric for one in observations[:3]])
    return (
        f"Many of the {n_metrics} metrics moved at once, none of them far by itself. "
        f"{named} moved most beyond what they usually do together."
    )


def _company(observations: Sequence[Observation], n_metrics: int) -> str:
    """Who moved with the first one; nothing where there is nobody else."""
    others = [one.metric for one in observations[1:] if one.share >= _WORTH_A_NAME][:3]
    if others:
        return f"{_listed(others)} moved with it."
    match max(len(observations), n_metrics) - 1:
        case 0:
            return ""
        case 1 if len(observations) > 1:
            return f"{observations[1].metric} hardly moved."
        case count:
            return f"The other {count} metrics hardly moved."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
