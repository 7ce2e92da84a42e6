"""Says in two sentences what a person who looked at the graphs would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from foreshock.core.frame import Array
from foreshock.core.verdicts import Cause
from foreshock.diagnosis.quantities import duration, number, quantity, unit_of

Course = Literal["rising", "falling", "above", "below", "swinging", "inside"]

# Less than a seventh of the score is not worth a name in a sentence, unless the figure shows it outside its band.
_WORTH_A_NAME, _WORTH_OUTSIDE = 1 / 7, 1 / 100
_A_CROWD = 8
_SWINGS = 30  # the newest values, which swing where they are often outside on both sides


@dataclass(frozen=True, slots=True)
class Observation:
    """What one metric did until the alert; `course_s` is for how long it has taken that `course`.

    `observed` and `expected` are in the metric's unit, NaN where unknown; `partner` is a metric whose relation with
    this one broke. What swings has its `reach` and that of its band, lowest and highest each.
    """

    metric: str
    share: float
    observed: float
    expected: float
    course: Course = "inside"
    course_s: float = 0.0
    unit_hint: str = ""
    partner: str | None = None
    reach: tuple[float, float] = (float("nan"), float("nan"))
    band: tuple[float, float] = (float("nan"), float("nan"))


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
    last quarter of an hour, or three values, in which the metric was inside its band. It rises or falls only where the
    values themselves do: a metric that stays while it was expected to go is above or below.
    """
    measured = np.flatnonzero(np.isfinite(values))
    if measured.size == 0:
        silent_s = float(times_s[-1] - times_s[0]) if times_s.size else 0.0
        return Observation(metric, share, float("nan"), float("nan"), "inside", silent_s, unit_hint, partner)
    last = measured[-5:]
    outside = last[(values[last] > upper[last]) | (values[last] < lower[last])]
    told = outside if outside.size and outside[-1] == last[-1] else last
    observed, usual = float(np.median(values[told])), _median(expected[last])
    if (swinging := _swinging(metric, share, times_s, values, expected, lower, upper, unit_hint, partner)) is not None:
        return swinging
    course: Course = "inside"
    since = _onset(times_s[measured], values[measured], lower[measured], upper[measured], above=observed >= usual)
    begun = measured[since:]
    course_s = float(times_s[-1] - times_s[begun[0]]) if begun.size else 0.0
    if begun.size:
        away = np.abs(values[begun] - expected[begun])
        first, newest = slice(begun.size // 3), slice(begun.size * 2 // 3, None)
        growth = _median(away[newest]) - _median(away[first])
        went = _median(values[begun][newest]) - _median(values[begun][first])
        went = went if observed >= usual else -went
        grows = begun.size >= 6 and growth > 0.5 * _median(away[first]) and went > 0.5 * growth
        course = ("rising" if grows else "above") if observed >= usual else ("falling" if grows else "below")
    if measured[-1] < values.size - 1:  # it ended before the alert: what counts is for how long it has been missing
        observed, course_s = float("nan"), float(times_s[-1] - times_s[measured[-1]])
    return Observation(metric, share, observed, usual, course, course_s, unit_hint, partner)


def _swinging(
    metric: str,
    share: float,
    times_s: Array,
    values: Array,
    expected: Array,
    lower: Array,
    upper: Array,
    unit_hint: str,
    partner: str | None,
) -> Observation | None:
    """The observation of a metric that is there and is often above its band and often below it; else None."""
    measured = np.flatnonzero(np.isfinite(values))
    last = measured[-_SWINGS:]
    above, below = int((values[last] > upper[last]).sum()), int((values[last] < lower[last]).sum())
    if min(above, below) < 3 or 4 * min(above, below) < above + below or measured[-1] < values.size - 1:
        return None
    away, width = np.abs(values - expected)[measured], (0.5 * (upper - lower))[measured]
    since = _onset(times_s[measured], away, -width, width, above=True)
    course_s = float(times_s[-1] - times_s[measured[since]]) if since < measured.size else 0.0
    low, high = (float(each) for each in np.quantile(values[last], [0.05, 0.95]))
    return Observation(
        metric, share, float(np.median(values[last])), _median(expected[last]), "swinging", course_s, unit_hint,
        partner, (low, high), (_median(lower[last]), _median(upper[last])),
    )  # fmt: skip


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
    return f"{_lead(observations, cause)} {_company(observations, cause, n_metrics)}".rstrip()


def _lead(observations: Sequence[Observation], cause: Cause) -> str:
    first = observations[0]
    match cause:
        case Cause.ABSENT:
            for_how_long = f" for {duration(first.course_s)}" if first.course_s else ""
            return f"{first.metric} has been missing{for_how_long}, while its datasource answers."
        case Cause.OUT_OF_RANGE:
            return f"{first.metric} is {_said(first.observed, first)}, which is outside its valid range."
        case Cause.SCORE:
            return _moved(first, _others(observations))
        case _:
            assert_never(cause)


def _moved(first: Observation, others: Sequence[Observation]) -> str:
    if not np.isfinite(first.observed):
        return f"{first.metric} left its normal band before its samples ended."
    observed, expected = _said(first.observed, first), _said(first.expected, first)
    if first.course == "inside" or not np.isfinite(first.expected):
        if first.partner is not None:
            return f"{first.metric} is {observed} and no longer follows {first.partner} as it always did."
        if others:
            return f"{first.metric} is {observed}: no unusual level by itself, but unusual beside {_named(others)}."
        return f"{first.metric} is {observed}: no unusual level, but it does not move as it usually does."
    if first.course == "swinging":
        low, high, normal_low, normal_high = (_said(each, first) for each in (*first.reach, *first.band))
        for_how_long = f", for {duration(first.course_s)}" if first.course_s else ""
        return (
            f"{first.metric} swings between {low} and {high} where {normal_low} to {normal_high} is normal at this hour"
            f"{for_how_long}."
        )
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


def _others(observations: Sequence[Observation]) -> list[Observation]:
    return [
        one for one in observations[1:] if one.share >= (_WORTH_A_NAME if one.course == "inside" else _WORTH_OUTSIDE)
    ][:3]


def _company(observations: Sequence[Observation], cause: Cause, n_metrics: int) -> str:
    """Who moved with the first one; nothing where there is nobody else, or where the first sentence named them."""
    first, others = observations[0], _others(observations)
    n_rest = max(len(observations), n_metrics) - 1
    if cause is not Cause.SCORE:
        return _beside_a_rule(cause, [one.metric for one in others], n_rest)
    if first.course == "inside" and first.partner is None and others:
        return ""
    if others and first.course != "inside":
        return _along(first, others)
    if n_rest == 1 and len(observations) > 1:
        return f"{observations[1].metric} hardly moved."
    return f"The other {n_rest} metrics hardly moved." if n_rest else ""


def _along(first: Observation, others: Sequence[Observation]) -> str:
    """Who left its band too; who did not and is blamed all the same is blamed for having stayed."""
    moved = [one.metric for one in others if one.course != "inside" and one.metric != first.partner]
    if any(one.metric == first.partner for one in others):  # else a broken relation is no news beside the move itself
        return f"It no longer follows {first.partner}{f', and {_listed(moved)} moved with it' if moved else ''}."
    if moved:
        return f"{_listed(moved)} moved with it."
    return f"It no longer follows {_named(others)}, which {'is' if len(others) == 1 else 'are'} as usual."


def _beside_a_rule(cause: Cause, others: Sequence[str], n_rest: int) -> str:
    """Who is missing too, or left its range too: of a rule nothing more is known."""
    if cause is Cause.ABSENT:
        if others:
            return f"{_listed(others)} {'is' if len(others) == 1 else 'are'} missing too."
        return ("", "Its other metric is there.", "Its other metrics are there.")[min(n_rest, 2)]
    return f"{_listed(others)} left {'its range' if len(others) == 1 else 'their ranges'} too." if others else ""


def _named(observations: Sequence[Observation]) -> str:
    return _listed([one.metric for one in observations])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
