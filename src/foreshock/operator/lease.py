"""Who leads: one Lease, taken for 15 s, renewed every 2 s, given back on SIGTERM. Its transitions are the epoch.

A holder may be paused for minutes and wake up in the middle of a write. So nobody asks "do I lead?" but `is_confirmed`:
did the API server confirm it within the renewal deadline, by the clock that goes on while a process stands still? The
database is fenced on its own by the epoch, hence it may also be written while the API server is known to be away
(`may_decide`): scoring outlives an outage of the API server, and whoever takes over has fenced the old leader off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, KubernetesRefused, KubernetesUnavailable, LeaseLost
from foreshock.operator.watch import Kind, Requests

LEASES = Kind("Lease", "/apis/coordination.k8s.io/v1", "leases")
_CONFLICT, _NOT_FOUND = 409, 404


@dataclass(frozen=True, slots=True)
class Timing:
    """client-go's numbers: how long a Lease lasts, when an unconfirmed holder stops, how often it is renewed."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


TIMING = Timing()


@dataclass(frozen=True, slots=True)
class _Record:
    """What the API server said last, and when by our monotonic clock it changed: other clocks are not trusted."""

    version: str
    holder: str
    transitions: int
    duration_s: float
    seen_s: float
    renewed: str


class Lease:
    """`acquire`, then `hold` beside the work; `hold` ends only with `LeaseLost`."""

    def __init__(
        self,
        api: Requests,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        *,
        newest_epoch: Callable[[], Awaitable[int]],
        timing: Timing = TIMING,
        trouble: Callable[[ForeshockError], None] = lambda _: None,
    ) -> None:
        """`trouble` hears why the Lease cannot be asked for: without the right to write it, nobody ever leads."""
        self._api, self._namespace, self._name, self.identity = api, namespace, name, identity
        self._clock, self._newest_epoch, self._timing, self._trouble = clock, newest_epoch, timing, trouble
        self._seen: _Record | None = None
        self._confirmed_s = self._away_s = float("-inf")
        self.epoch = 0

    # --- may we? --------------------------------------------------------------------------------------------------

    @property
    def is_confirmed(self) -> bool:
        """Whether the API server confirmed the Lease within the renewal deadline: a write may begin."""
        return self._clock.monotonic_s() - self._confirmed_s < self._timing.renew_deadline_s

    @property
    def may_decide(self) -> bool:
        """Whether a write that the database fences may begin: confirmed, or tried a moment ago and nobody answered."""
        recent_s = self._timing.renew_deadline_s - self._timing.retry_s
        return self.is_confirmed or (self.epoch > 0 and self._clock.monotonic_s() - self._away_s < recent_s)

    def guard(self, epoch: int) -> None:
        """Return if a fenced write of this epoch may begin.

        Raises:
            LeaseLost: this process may have slept through the end of its Lease, or leads anew since: what an earlier
                leadership decided is not for this one to write.

        """
        if self.epoch != epoch or not self.may_decide:
            raise LeaseLost("The Lease was not confirmed in time: nothing is written until it is.")

    # --- life -----------------------------------------------------------------------------------------------------

    async def acquire(self) -> int:
        """Return the epoch of this leadership once the Lease is ours; no answer of the API server ends the waiting."""
        while True:
            try:
                if await self._try_to_take():
                    return self.epoch
            except ForeshockError as error:  # away, refused, or the database does not say its epoch: try again
                self._trouble(error)
            await self._clock.sleep(self._timing.retry_s)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: another replica holds the Lease.

        """
        while True:
            await self._clock.sleep(self._timing.retry_s)
            await self.renew()

    async def renew(self) -> None:
        """Confirm the Lease once; an API server that does not answer is noted and no loss.

        Raises:
            LeaseLost: another replica holds it.

        """
        try:
            record = await self._read()
            if record is None or (record.holder not in {"", self.identity}):
                raise self._lost(record)
            if record.holder == "" or record.transitions != self.epoch:  # given back, or taken and given back
                raise self._lost(record)
            began_s = self._clock.monotonic_s()
            await self._write(record.version, self.identity, self.epoch)
            self._confirmed_s = began_s
        except KubernetesRefused as error:
            if error.status == _CONFLICT:  # somebody wrote in between; the next read says who
                return
            self._away_s = self._clock.monotonic_s()  # forbidden for a while is as good as away
        except KubernetesUnavailable:
            self._away_s = self._clock.monotonic_s()

    async def release(self) -> None:
        """Give the Lease back, so that the next replica need not wait for its end."""
        if self.epoch == 0:
            return
        with contextlib.suppress(ForeshockError, TimeoutError):
            async with asyncio.timeout(3):
                record = await self._read()
                if record is not None and record.holder == self.identity:
                    await self._write(record.version, "", self.epoch, duration_s=1)
        self._forget()

    # --- requests -------------------------------------------------------------------------------------------------

    async def _try_to_take(self) -> bool:
        record = await self._read()
        if record is not None and record.holder not in {"", self.identity}:
            age_s = self._clock.monotonic_s() - record.seen_s
            if age_s < record.duration_s:
                return False
        epoch = max(record.transitions if record else 0, await self._newest_epoch()) + 1
        began_s = self._clock.monotonic_s()
        try:
            await self._write(record.version if record else None, self.identity, epoch)
        except KubernetesRefused as error:
            if error.status == _CONFLICT:  # another candidate was faster
                return False
            raise
        self.epoch, self._confirmed_s = epoch, began_s
        return True

    async def _read(self) -> _Record | None:
        try:
            found = await self._api.request("GET", LEASES.path(self._namespace, self._name), timeout_s=self._request_s)
        except KubernetesRefused as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        spec: dict[str, Any] = found.get("spec") or {}
        version, renewed = str(found["metadata"]["resourceVersion"]), str(spec.get("renewTime"))
        before = self._seen
        same = before is not None and (before.holder, before.renewed) == (spec.get("holderIdentity") or "", renewed)
        self._seen = _Record(
            version, str(spec.get("holderIdentity") or ""), int(spec.get("leaseTransitions") or 0),
            float(spec.get("leaseDurationSeconds") or self._timing.duration_s),
            before.seen_s if same and before is not None else self._clock.monotonic_s(), renewed,
        )  # fmt: skip
        return self._seen

    async def _write(self, version: str | None, holder: str, epoch: int, *, duration_s: float | None = None) -> None:
        now = datetime.fromtimestamp(self._clock.now_s(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if version is not None:
            metadata["resourceVersion"] = version
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(duration_s or self._timing.duration_s)),
                "leaseTransitions": epoch,
                "renewTime": now,
                "acquireTime": now,
            },
        }
        if version is None:
            await self._api.request("POST", LEASES.path(self._namespace), body, timeout_s=self._request_s)
        else:
            path = LEASES.path(self._namespace, self._name)
            await self._api.request("PUT", path, body, timeout_s=self._request_s)

    @property
    def _request_s(self) -> float:
        """A renewal must not wait longer than it can be repeated before the deadline."""
        return max(0.5, self._timing.renew_deadline_s / 4)

    def _lost(self, record: _Record | None) -> LeaseLost:
        self._forget()
        holder = record.holder if record else ""
        return LeaseLost(f"The Lease {self._namespace}/{self._name} is held by {holder or 'nobody'} since.")

    def _forget(self) -> None:
        self._confirmed_s = self._away_s = float("-inf")
        self.epoch = 0
