"""Who may ask a datasource now: its requests in flight, and where namespaces are told apart the share of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from foreshock.core.errors import QueryBudgetSpent
from foreshock.prometheus.budget import Account, Accounts
from foreshock.prometheus.settings import Datasource
from foreshock.prometheus.tenancy import namespace_of

PER_NAMESPACE = 2
"""Requests in flight of one namespace, where namespaces are told apart: others find a place beside it."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose query it is; those that read no series are nobody's, and share one account."""

    namespace: str
    account: Account
    query: Hashable  # what costs about the same again

    @property
    def whose(self) -> str:
        """The beginning of a sentence."""
        return f"the namespace {self.namespace} has" if self.namespace else "the queries that read no series have"


class Places:
    """At most `concurrency` requests in flight; of a namespace at most two, and no more than its query time pays for.

    `charged` hears of the seconds that a namespace's requests took.
    """

    def __init__(
        self, datasource: Datasource, monotonic_s: Callable[[], float], charged: Callable[[str, float], None]
    ) -> None:
        self._datasource, self._monotonic_s, self._charged = datasource, monotonic_s, charged
        self.free = asyncio.Semaphore(datasource.concurrency)
        self.turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # gone when nobody asks
        self._accounts = Accounts(datasource.namespace_query_time_s)
        self._answered_at_s = -float("inf")  # when the server last answered anybody

    def asker(self, query: str, n_times: int) -> Asker | None:
        """Whose query it is, where namespaces are told apart: found in what is sent, so that no caller can forget it.

        Raises:
            QueryRejected: the query could read more than one namespace.
        """
        label = self._datasource.namespace_label
        if label is None:
            return None
        namespace = namespace_of(query, label) or ""
        # the same query costs another amount over weeks, as trainings ask it, than over the last minute
        return Asker(namespace, self._accounts.of(namespace, self._monotonic_s()), (query, n_times.bit_length()))

    @contextlib.asynccontextmanager
    async def taken(self, asker: Asker | None) -> AsyncIterator[None]:
        """One of the datasource's places, and before that one of the namespace's own, for what it can pay.

        Raises:
            QueryBudgetSpent: it cannot pay.
        """
        if asker is None:
            async with self.free:
                yield
            return
        self._refuse_who_cannot_pay(asker)  # before it waits behind the others for a place
        turns = self.turns.setdefault(asker.namespace, asyncio.Semaphore(PER_NAMESPACE))
        async with turns, self.free:
            self._refuse_who_cannot_pay(asker)
            with self._paid(asker):
                yield

    def answered(self) -> None:
        """The server has answered somebody: it is there."""
        self._answered_at_s = self._monotonic_s()

    def _refuse_who_cannot_pay(self, asker: Asker) -> None:
        wait_s = asker.account.wait_s(asker.query, self._monotonic_s())
        if wait_s <= 0.0:
            return
        cost_s = asker.account.cost_s(asker.query)
        took = f"this query took {cost_s:.1f} s the last time and is asked again" if cost_s else "it is asked again"
        raise QueryBudgetSpent(
            f"datasource {self._datasource.name}: {asker.whose} used the query time of "
            f"{self._datasource.namespace_query_time_s} s a minute, and {took} in about {max(1.0, wait_s):.0f} s; make "
            "expensive queries cheaper, for example by recording rules, or raise the interval of their detectors",
            retry_after_s=wait_s,
        )

    @contextlib.contextmanager
    def _paid(self, asker: Asker) -> Iterator[None]:
        """Settle what a request took; while nobody is answered the server is away, and nobody pays for that."""
        paid_s, began_s = asker.account.pay(asker.query), self._monotonic_s()
        try:
            yield
        finally:
            took_s = self._monotonic_s() - began_s
            is_due = self._answered_at_s >= began_s
            asker.account.settle(asker.query, paid_s, took_s if is_due else None)
            if is_due:
                self._charged(asker.namespace, took_s)
