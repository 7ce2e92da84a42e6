"""The `alertmanager` sink: every alert to every peer, again each minute while it fires, and for 15 minutes after.

Alertmanager keeps nothing over a restart and ends by itself what nobody re-sends. Each peer has a place of its own in
what was sent: one that is away is left alone by new events, and is told everything that stands once it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import aiohttp
from pydantic import AfterValidator, Field, model_validator
from yarl import URL

from foreshock.alerting.sinks.access import Tls, read_password, read_secret
from foreshock.alerting.sinks.base import BaseSinkSettings, Standing, one_line
from foreshock.alerting.sinks.http import Poster, checked_url
from foreshock.alerting.sinks.templates import alert
from foreshock.core.access import Login
from foreshock.core.clock import Clock
from foreshock.core.errors import ForeshockError, SinkRejected, SinkUnavailable

PATH = "api/v2/alerts"
_BACK_OFF_CAP_S = 60.0


class AlertmanagerSettings(BaseSinkSettings):
    """`{name: oncall, type: alertmanager, urls: ['http://am-0:9093', 'http://am-1:9093']}`."""

    type: Literal["alertmanager"] = "alertmanager"
    urls: tuple[Annotated[str, AfterValidator(checked_url), Field(max_length=2_048)], ...] = Field(
        min_length=1, max_length=10, description="Every peer of the cluster, never a load balancer before them."
    )
    basic_auth: Login | None = Field(None, description="A user name with its password or password_file.")
    bearer_token_file: Path | None = Field(None, description="A mounted secret, read again for every request.")
    tls: Tls | None = Field(None, description="Authorities and a client's certificate, where the system's do not fit.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="For one request, in seconds.")
    resend_s: float = Field(60.0, gt=0, le=600, description="How often what fires is sent again, in seconds.")
    allow_private: bool = Field(
        default=True, description="Allow private and loopback addresses; metadata addresses are refused always."
    )

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.basic_auth is not None and self.bearer_token_file is not None:
            raise ValueError("set basic_auth or bearer_token_file, not both")
        return self


class _Peer:
    """One Alertmanager: requests go out one after another, so that an end never overtakes its beginning."""

    def __init__(self, url: str, poster: Poster) -> None:
        base = URL(url)
        self.url = base / PATH
        self.is_behind = False  # it missed something: the next re-send that it takes makes good for all
        self.fell_behind = asyncio.Event()
        self._poster = poster
        self._one_at_a_time = asyncio.Lock()

    async def post(self, alerts: Sequence[dict[str, Any]], headers: dict[str, str], *, is_resend: bool) -> None:
        was_behind = self.is_behind
        async with self._one_at_a_time:
            if self.is_behind and not was_behind and not is_resend:  # it fell behind while this one waited
                raise SinkUnavailable(f"{self.url.origin()} fell behind.")
            try:
                await self._poster.post(self.url, one_line(alerts, ascii_only=False).encode(), headers)
            except SinkUnavailable:
                self.is_behind = True
                self.fell_behind.set()
                raise


class AlertmanagerSink:
    """Delivered means that one peer took it: they tell each other, and the re-send tells those that were away."""

    def __init__(self, settings: AlertmanagerSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._poster = Poster(
            settings.name, timeout_s=settings.timeout_s, allow_private=settings.allow_private, tls=settings.tls
        )
        self._peers = tuple(_Peer(url, self._poster) for url in settings.urls)
        self._sending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"AlertmanagerSink(name={self.name!r}, peers={len(self._peers)})"

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """Give it to every peer that keeps up, or to all where none does; return at the first that took it.

        Raises:
            SinkUnavailable: no peer took it, and one may later.
            SinkRejected: every peer that answered refuses it.

        """
        del event_id  # an annotation of the alert
        alerts, headers = [self._alert(event)], self._headers()
        keeping_up = [peer for peer in self._peers if not peer.is_behind] or list(self._peers)
        tasks = {asyncio.create_task(peer.post(alerts, headers, is_resend=False)) for peer in keeping_up}
        for task in tasks:
            self._sending.add(task)
            task.add_done_callback(self._sent)
        errors: list[BaseException] = []
        waiting = tasks
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            failed = [error for task in done if (error := task.exception()) is not None]
            if len(failed) < len(done):
                return
            errors += failed
        raise min(errors, key=lambda error: not isinstance(error, SinkUnavailable))

    async def repeat(self, standing: Standing, failed: Callable[[str], None]) -> None:
        """Re-send all that stands to each peer for ever, at its own pace; `failed` hears of what was not taken."""
        async with asyncio.TaskGroup() as tasks:
            for peer in self._peers:
                tasks.create_task(self._repeat_to(peer, standing, failed))

    async def close(self) -> None:
        """Close the connections; calling it twice is harmless."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._poster.close()

    async def _repeat_to(self, peer: _Peer, standing: Standing, failed: Callable[[str], None]) -> None:
        failures = 0
        while True:
            try:
                async for events in standing():
                    with contextlib.suppress(SinkRejected):  # of a bad one among good ones, which were taken; `send`
                        alerts = [self._alert(event) for event in events]  # has told of it already
                        await peer.post(alerts, self._headers(), is_resend=True)
            except ForeshockError as error:
                failures += 1
                failed(str(error))
                await self._clock.sleep(min(_BACK_OFF_CAP_S, self._settings.resend_s, 2.0 ** min(failures - 1, 10)))
                continue
            failures, peer.is_behind = 0, False
            peer.fell_behind.clear()
            resting = asyncio.ensure_future(self._clock.sleep(self._settings.resend_s))
            news = asyncio.ensure_future(peer.fell_behind.wait())
            try:
                await asyncio.wait([resting, news], return_when=asyncio.FIRST_COMPLETED)
            finally:
                resting.cancel()
                news.cancel()

    def _alert(self, event: dict[str, Any]) -> dict[str, Any]:
        return alert(event, now_s=self._clock.now_s(), resend_s=self._settings.resend_s)

    def _headers(self) -> dict[str, str]:
        settings, headers = self._settings, {"Content-Type": "application/json"}
        if settings.basic_auth is not None:
            login = settings.basic_auth
            headers["Authorization"] = aiohttp.encode_basic_auth(login.username, read_password(self.name, login))
        elif settings.bearer_token_file is not None:
            token = read_secret(self.name, "bearer_token_file", settings.bearer_token_file)
            headers["Authorization"] = f"Bearer {token.decode(errors='replace')}"
        return headers

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who fell behind is told by the re-send
