"""What the harness asks of a detector, ours or a peer: scores of the judged rows, 1.0 where the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bench.quality.cases import Case
from bench.quality.measure import WEEK_S, Scores


class Mode(StrEnum):
    """`adapt` lives on after the training rows as production does, without verdicts; `frozen` keeps the first model."""

    ADAPT = "adapt"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Budget:
    """Accepted false alarms, as the user writes them: 1/7d."""

    text: str
    per_s: float

    @property
    def per_week(self) -> float:
        return self.per_s * WEEK_S


class NotApplicable(Exception):
    """The detector cannot judge this case in this mode; the report says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Throttled:
    """The same life with the throttle on."""

    scores: Scores
    asked: int  # windows that the cheap check saw, forced ones aside
    let_through: int  # of these, windows that were judged in full


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What was said of the judged rows: anomalous at 1.0, NaN where nothing can be said."""

    scores: Scores
    throttled: Throttled | None = None  # None where there is no throttle to compare with


class Contender(Protocol):
    """One row of the table."""

    name: str
    modes: tuple[Mode, ...]

    def scores(
        self, case: Case, mode: Mode, budgets: Sequence[Budget], progress: Callable[[float], None]
    ) -> dict[Budget, Answer]:
        """What the detector says of the rows after the training ones, per budget.

        Raises:
            NotApplicable: this case is not for this detector.

        """
        ...
