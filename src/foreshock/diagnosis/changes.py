"""What changed around a service before it left its envelope: few sentences, the likeliest causes kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from foreshock.diagnosis.quantities import duration

LOOK_BACK_S = 6 * 3_600.0  # a leak that came with a release takes hours to be seen, a shift later it is another story
MOST_SENTENCES = 10
_AT_ONCE_S = 30.0  # nearer than this to the onset is "at the onset": stamps of the API server are whole seconds


class What(StrEnum):
    """What kind of change it was, the likeliest cause of trouble first."""

    ROLLOUT = "rollout"
    CONFIGURATION = "configuration"
    OUT_OF_MEMORY = "out_of_memory"
    NODE = "node"
    SCALING = "scaling"
    RESTART = "restart"
    WARNING = "warning"


_RANK = {what: rank for rank, what in enumerate(What)}
_AFTERWARDS = len(_RANK)  # what came after the onset is a consequence more often than a cause


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changed at `at_s`; `before` and `after` where it is a quantity that moved.

    Equal changes (`what`, `who`, `how`) become one sentence; `where` are the pods in which it happened.
    """

    what: What
    at_s: float
    who: str  # "Deployment checkout", "container app"
    how: str  # "was scaled", "was killed for want of memory"
    before: str = ""
    after: str = ""
    times: int = 1
    where: frozenset[str] = field(default=frozenset())
    note: str = ""  # said at the end, of the newest

    @property
    def said(self) -> str:
        """The sentence without its time.

        >>> Change(What.SCALING, 0.0, "Deployment checkout", "was scaled", "3", "6 replicas", times=2).said
        'Deployment checkout was scaled 2 times, from 3 to 6 replicas'
        """
        words = f"{self.who} {self.how}"
        if self.times > 1:
            words += f" {self.times} times"
        if self.before:
            words += f"{',' if self.times > 1 else ''} from {self.before} to {self.after}"
        if len(self.where) == 1:
            words += f" in pod {min(self.where)}"
        elif self.where:
            words += f" in {len(self.where)} pods"
        return f"{words}: {self.note}" if self.note else words


def sentences(
    changes: Iterable[Change], *, onset_s: float, look_back_s: float = LOOK_BACK_S, most: int = MOST_SENTENCES
) -> tuple[str, ...]:
    """At most `most` sentences, newest first; where there are more changes, the likelier causes are kept.

    `onset_s` is the end of the first anomalous window: times are relative to it. A rollout tells more than a warning,
    what came before the onset more than what came after it, and of two alike the one nearer to the onset.
    """
    near = [each for each in _merged(changes) if each.at_s >= onset_s - look_back_s]
    likeliest = sorted(near, key=lambda each: (_unlikeliness(each, onset_s), abs(each.at_s - onset_s), each.said))
    newest_first = sorted(likeliest[:most], key=lambda each: -each.at_s)
    return tuple(f"{_when(each.at_s - onset_s)}: {each.said}" for each in newest_first)


def _unlikeliness(change: Change, onset_s: float) -> int:
    afterwards = _AFTERWARDS if change.at_s > onset_s + _AT_ONCE_S else 0
    return _RANK[change.what] + afterwards


def _merged(changes: Iterable[Change]) -> list[Change]:
    """Equal things said once: with the time of the last, how often, in which pods, and from where to where."""
    known: dict[tuple[What, str, str], Change] = {}
    for each in sorted(changes, key=lambda one: one.at_s):
        key = (each.what, each.who, each.how)
        first = known.get(key)
        known[key] = each if first is None else replace(
            each, times=first.times + each.times, before=first.before, where=first.where | each.where
        )  # fmt: skip
    return list(known.values())


def _when(after_onset_s: float) -> str:
    if abs(after_onset_s) < _AT_ONCE_S:
        return "at the onset"
    return f"{duration(abs(after_onset_s))} {'after' if after_onset_s > 0 else 'before'}"
