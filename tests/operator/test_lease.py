"""The Lease on a real API server: one leader, given back at once, taken over in time, no write after a long sleep."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.app.hurried import HurriedClock, until
from tests.servers.kubernetes import ControlPlane

from foreshock.app.clock import SystemClock
from foreshock.core.errors import LeaseLost
from foreshock.operator.api import ApiServer
from foreshock.operator.connection import load_kubeconfig
from foreshock.operator.lease import Lease, Timing

FAST = Timing(duration_s=3.0, renew_deadline_s=2.0, retry_s=0.3)  # a fifth of the real ones


async def _epoch() -> int:
    return 0


def _lease(api: ApiServer, namespace: str, identity: str, clock: SystemClock | HurriedClock | None = None) -> Lease:
    return Lease(api, namespace, "foreshock", identity, clock or SystemClock(), newest_epoch=_epoch, timing=FAST)


async def test_one_leads_and_gives_back_at_once(kubernetes: ControlPlane, namespace: str) -> None:
    """The second waits while the first renews; released, it is taken within a retry, with a larger epoch."""
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        one, other = _lease(api, namespace, "one"), _lease(api, namespace, "other")
        first = await one.acquire()
        holding = asyncio.create_task(one.hold())
        waiting = asyncio.create_task(other.acquire())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 2 * FAST.duration_s)
        assert one.is_confirmed
        assert not other.may_decide
        holding.cancel()
        await one.release()
        assert not one.may_decide
        second = await asyncio.wait_for(waiting, 5)
        assert second > first


async def test_a_dead_leader_is_followed_and_wakes_up_powerless(kubernetes: ControlPlane, namespace: str) -> None:
    """Who sleeps through the end of the Lease may begin nothing when it wakes, before anybody told it."""
    clock = HurriedClock()
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        sleeper, other = _lease(api, namespace, "sleeper", clock), _lease(api, namespace, "other")
        epoch = await sleeper.acquire()
        assert sleeper.may_decide
        clock.skip(FAST.duration_s)  # as after SIGSTOP and SIGCONT: its own clock went on, and it did not run
        assert not sleeper.may_decide
        with pytest.raises(LeaseLost):
            sleeper.guard(epoch)
        await asyncio.wait_for(other.acquire(), 4 * FAST.duration_s)
        with pytest.raises(LeaseLost, match="other"):
            await sleeper.renew()


async def test_an_api_server_that_is_away_stops_status_and_not_scoring(
    kubernetes: ControlPlane, namespace: str
) -> None:
    """What the database fences goes on while renewals are tried and nobody answers; the API is not written to."""
    config = load_kubeconfig(kubernetes.kubeconfig)
    away = config._replace(cluster=type(config.cluster)(server="https://127.0.0.1:1", insecure=True))
    clock = HurriedClock()
    async with ApiServer(config) as api, ApiServer(away) as nobody:
        lease = _lease(api, namespace, "one", clock)
        await lease.acquire()
        lease._api = nobody
        clock.skip(FAST.renew_deadline_s)
        assert not lease.may_decide
        await lease.renew()
        assert lease.may_decide
        assert not lease.is_confirmed
        lease._api = api
        await lease.renew()
        assert lease.is_confirmed


async def test_the_epoch_is_above_what_the_database_knows(kubernetes: ControlPlane, namespace: str) -> None:
    """A Lease that was deleted begins again at 1; the database's fence does not."""

    async def known() -> int:
        return 41

    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        lease = Lease(api, namespace, "foreshock", "one", SystemClock(), newest_epoch=known, timing=FAST)
        assert await lease.acquire() == 42


async def test_two_candidates_never_both_lead(kubernetes: ControlPlane, namespace: str) -> None:
    """Ten start at one instant: exactly one gets it."""
    async with ApiServer(load_kubeconfig(kubernetes.kubeconfig)) as api:
        leases = [_lease(api, namespace, f"n{number}") for number in range(10)]
        waiting = [asyncio.create_task(lease.acquire()) for lease in leases]
        await until(lambda: any(task.done() for task in waiting))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), FAST.renew_deadline_s)
        assert sum(lease.may_decide for lease in leases) <= 1
        assert sum(task.done() and not task.cancelled() for task in waiting) == 1
