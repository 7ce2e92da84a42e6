"""A namespace's query time: what comes in, what goes out, and who waits."""

from __future__ import annotations

import pytest

from foreshock.prometheus.budget import SAVED_MINUTES, Account, Accounts


def spent(per_minute_s: float = 60.0) -> Account:
    """An account that has just been emptied."""
    account = Account(per_minute_s, 0.0)
    account.settle("anything", 0.0, account.left_s)
    return account


def test_five_minutes_are_saved_up_and_no_more() -> None:
    """After an hour of silence a namespace may take five minutes' worth at once."""
    account = spent()
    account.accrue(3600.0)
    assert account.left_s == SAVED_MINUTES * 60.0


def test_what_comes_in_each_minute_is_the_setting() -> None:
    """60 s a minute is a second a second; 6 s a minute a tenth of it."""
    for per_minute_s in (60.0, 6.0):
        account = spent(per_minute_s)
        account.settle("dear", 0.0, 10.0)
        assert account.wait_s("never asked", 0.0) == pytest.approx(600.0 / per_minute_s)
        assert account.wait_s("never asked", 600.0 / per_minute_s) == pytest.approx(0.0)


def test_a_cheap_query_passes_a_dear_one_that_waits() -> None:
    """Each waits until what it took the last time is there; of a second a second half goes to the cheap one."""
    account = spent()
    account.settle("dear", 0.0, 30.0)
    account.settle("cheap", 0.0, 0.5)
    asked = {"dear": 0, "cheap": 0}
    for now_s in range(31, 31 + 600):
        for query, took_s in (("dear", 30.0), ("cheap", 0.5)):
            if account.wait_s(query, float(now_s)) == 0.0:
                account.settle(query, account.pay(query), took_s)
                asked[query] += 1
    assert asked["cheap"] > 580
    assert 30.0 * asked["dear"] + 0.5 * asked["cheap"] <= 600.0 + 30.0
    assert asked["dear"] >= 9


def test_what_is_under_way_is_paid_already() -> None:
    """Of ten equal queries at once only those start that can all be paid."""
    account = Account(60.0, 0.0)
    account.settle("dear", 0.0, 100.0)
    started = 0
    while account.wait_s("dear", 0.0) == 0.0:
        account.pay("dear")
        started += 1
    assert started == 2


def test_nobody_pays_for_a_server_that_is_away() -> None:
    """What was paid comes back, and the query is no dearer than before."""
    account = Account(60.0, 0.0)
    account.settle("query", 0.0, 1.0)
    before_s = account.left_s
    account.settle("query", account.pay("query"), None)
    assert (account.left_s, account.cost_s("query")) == (before_s, 1.0)


def test_a_query_that_costs_more_than_can_be_saved_is_asked_all_the_same() -> None:
    """It waits for half of the savings, and leaves a debt: without this it would never be judged."""
    account = Account(60.0, 0.0)
    account.settle("huge", 0.0, 1000.0)
    wait_s = account.wait_s("huge", 0.0)
    assert wait_s == pytest.approx(1000.0 - 300.0 + 150.0)
    assert account.wait_s("huge", wait_s) == pytest.approx(0.0)


def test_accounts_without_debts_are_closed_once_there_are_many() -> None:
    """Namespaces come and go; only who owes something is remembered for ever."""
    accounts = Accounts(60.0)
    accounts.of("debtor", 0.0).settle("dear", 0.0, 10_000.0)
    for number in range(3000):
        accounts.of(f"n{number}", 1.0)
    assert len(accounts._of) <= 1001
    assert accounts.of("debtor", 1.0).left_s < 0.0
