"""What query time a namespace has left, and which of its queries may be asked now. No I/O: time is an argument."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

SAVED_MINUTES = 5
"""How much of its budget a namespace that asks little saves up: trainings after a start read weeks at once."""
_MOST_COSTS = 10_000
_MOST_ACCOUNTS = 1_000


@dataclass(slots=True)
class Account:
    """One namespace's query time: so much comes in each minute, and what a query took goes out.

    A query waits until what it cost the last time is there, so that a cheap one passes a dear one that waits, and one
    that was never asked passes unless there are debts. It pays when it starts and settles when it ends.
    """

    per_minute_s: float
    at_s: float
    left_s: float = field(init=False)
    costs_s: dict[Hashable, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left_s = self._most_s

    @property
    def _most_s(self) -> float:
        return SAVED_MINUTES * self.per_minute_s

    def accrue(self, now_s: float) -> bool:
        """Add what has come in; whether nothing more fits."""
        self.left_s = min(self._most_s, self.left_s + (now_s - self.at_s) * self.per_minute_s / 60.0)
        self.at_s = now_s
        return self.left_s >= self._most_s

    def cost_s(self, query: Hashable) -> float:
        """What a query took the last time; 0 for one that was never asked."""
        return self.costs_s.get(query, 0.0)

    def wait_s(self, query: Hashable, now_s: float) -> float:
        """How long a query has to wait; 0 means that it may be asked now."""
        self.accrue(now_s)
        needed_s = min(self.cost_s(query), self._most_s / 2)  # all of it is never there where others ask too
        return max(0.0, (needed_s - self.left_s) * 60.0 / self.per_minute_s)

    def pay(self, query: Hashable) -> float:
        """Take what a query is expected to cost, until it is settled."""
        paid_s = self.cost_s(query)
        self.left_s -= paid_s
        return paid_s

    def settle(self, query: Hashable, paid_s: float, took_s: float | None) -> None:
        """Take what a query did cost instead; nothing, for `took_s` None, where that was not its fault."""
        self.left_s += paid_s - (took_s or 0.0)
        if took_s is not None:
            if len(self.costs_s) >= _MOST_COSTS:
                self.costs_s.clear()  # they are known again after the next round
            self.costs_s[query] = took_s


@dataclass(slots=True)
class Accounts:
    """The accounts of all namespaces of a datasource; those that are full again are closed once there are many."""

    per_minute_s: float
    _of: dict[str, Account] = field(default_factory=dict)

    def of(self, namespace: str, now_s: float) -> Account:
        """The account of a namespace, which begins with all that may be saved up."""
        account = self._of.get(namespace)
        if account is None:
            if len(self._of) >= _MOST_ACCOUNTS:
                self._of = {name: each for name, each in self._of.items() if not each.accrue(now_s)}
            account = self._of[namespace] = Account(self.per_minute_s, now_s)
        return account
