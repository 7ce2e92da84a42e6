"""What every sink promises: an event was taken, or one of two errors says whether sending it again can help."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

SinkName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=63,
        description="What manifests call this sink: lower-case letters, digits and dashes.",
    ),
]


class BaseSinkSettings(BaseModel):
    """What the settings of all sinks share: frozen, unknown keys refused, and no value repeated in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: SinkName
    severities: frozenset[Literal["critical", "warning", "info"]] = Field(
        default=frozenset({"critical", "warning", "info"}), min_length=1,
        description="Of the alerts of which severities it is told; all where it is not set.",
    )  # fmt: skip
    max_false_share: float | None = Field(
        default=None, gt=0, lt=1,
        description="Told only of alerts of which no larger share is expected to be false by the budgets of all.",
    )  # fmt: skip
    during_maintenance: bool = Field(
        default=False,
        description="Told at once of an incident that begins in a maintenance; the others when it outlasts it.",
    )


class Sink(Protocol):
    """A receiver of events. `send` returns only once the receiver took the event; sent twice is taken once."""

    @property
    def name(self) -> str:
        """The name that the administrator gave; it stands in logs, metrics and the outbox."""
        ...

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """Deliver one CloudEvent; every delivery of the same `event_id` carries that identity.

        Raises:
            SinkUnavailable: it may be taken later, and not before `retry_after_s` where that is set.
            SinkRejected: this event will never be taken.

        """
        ...

    async def close(self) -> None:
        """Release what the sink holds; calling it twice is harmless."""
        ...


Standing = Callable[[], AsyncIterator[Sequence[dict[str, Any]]]]
"""Yields, in pieces, the events of what fires and of what ended a short while ago, as this sink has taken them."""


@runtime_checkable
class RepeatingSink(Sink, Protocol):
    """A receiver that forgets: what stands is sent again for as long as it does."""

    async def repeat(self, standing: Standing, failed: Callable[[str], None]) -> None:
        """Re-send for ever; `failed` hears of each time that a receiver did not take it."""
        ...


def one_line(event: object, *, ascii_only: bool) -> str:
    """The event as JSON without a line break, whatever its strings hold."""
    return json.dumps(event, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))
