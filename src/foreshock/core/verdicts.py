"""What is said about one window: `Normal`, `Anomalous` or `Inconclusive`. Ignorance has a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a window is anomalous."""

    SCORE = "Score"  # the model's score reached 1.0
    ABSENT = "Absent"  # a series that was always there is gone while its datasource answers
    OUT_OF_RANGE = "OutOfRange"  # a value left the `valid_range` of the manifest


class Ignorance(StrEnum):
    """Why nothing can be said about a window."""

    STALE = "Stale"  # the newest samples are missing, and not yet for long enough to be absent
    TOO_FEW_SAMPLES = "TooFewSamples"  # less than half of the window was measured
    NO_DATA = "NoData"  # the query has never returned a sample in this window
    DATASOURCE_UNAVAILABLE = "DatasourceUnavailable"
    QUERY_REJECTED = "QueryRejected"
    TOO_MANY_SERIES = "TooManySeries"
    QUERY_BUDGET_SPENT = "QueryBudgetSpent"  # the namespace has used its query time
    PARTIAL_RESPONSE = "PartialResponse"  # the datasource itself warns that data is missing
    WARMING_UP = "WarmingUp"  # there is not enough history for any model yet
    MODEL_UNUSABLE = "ModelUnusable"  # the artifact is damaged or was trained on other features
    SUSPENDED = "Suspended"


@dataclass(frozen=True, slots=True)
class Normal:
    """The window lies inside the envelope: `score` < 1.0, and 0 is the middle of normal."""

    score: float


@dataclass(frozen=True, slots=True)
class Anomalous:
    """The window lies outside the envelope: `score` >= 1.0, the further outside the higher."""

    score: float
    cause: Cause = Cause.SCORE


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Nothing can be said; this neither fires nor resolves anything."""

    reason: Ignorance
    message: str = ""


Verdict = Normal | Anomalous | Inconclusive


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is judged: one detector, and one group of it where `group_by` splits it."""

    namespace: str
    name: str
    group: tuple[tuple[str, str], ...] = ()  # label pairs in the order of their names

    @property
    def detector(self) -> str:
        """`namespace/name`, the subject of every event."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        if not self.group:
            return self.detector
        return f"{self.detector}{{{','.join(f'{name}={value}' for name, value in self.group)}}}"


@dataclass(frozen=True, slots=True)
class Contribution:
    """How much one metric had to do with a score: the `share`s of one judgement add up to 1."""

    metric: str
    share: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict about one window of one subject, which ended at `at_s`."""

    subject: Subject
    at_s: int
    verdict: Verdict
    contributions: tuple[Contribution, ...] = ()  # largest first; empty unless anomalous
