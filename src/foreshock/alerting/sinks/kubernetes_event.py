"""The `kubernetes_event` sink: one Event a transition, beside the detector, where `kubectl describe` shows it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from foreshock.alerting.sinks.base import BaseSinkSettings
from foreshock.alerting.sinks.templates import summary
from foreshock.core.errors import KubernetesRefused, KubernetesUnavailable, SinkRejected, SinkUnavailable

_CONFLICT = 409
_TOO_MANY_NAME_CHARS = 200


class KubernetesEventSettings(BaseSinkSettings):
    """`{name: events, type: kubernetes_event}`: the API server is the one that the operator watches."""

    type: Literal["kubernetes_event"] = "kubernetes_event"
    during_maintenance: bool = True  # it pages nobody


class EventApi(Protocol):
    """The port to the API server: what `foreshock operator` has, and `foreshock run` has not."""

    async def create_event(self, namespace: str, detector: str, document: dict[str, Any]) -> None:
        """Create it about this detector; raises `KubernetesRefused` or `KubernetesUnavailable`."""
        ...


class KubernetesEventSink:
    """Delivered means 201, or 409 "already exists": the Event's name is made from the incident and what happened."""

    def __init__(self, settings: KubernetesEventSettings, api: EventApi) -> None:
        self._settings, self._api = settings, api

    def __repr__(self) -> str:
        return f"KubernetesEventSink(name={self.name!r})"

    @property
    def name(self) -> str:
        return self._settings.name

    async def send(self, event: dict[str, Any], *, event_id: str) -> None:
        """Create one Event.

        Raises:
            SinkUnavailable: the API server is away or asks for patience.
            SinkRejected: it refuses the Event, for example by a quota or for want of a right.

        """
        namespace, _, detector = event["data"]["detector"].partition("/")
        incident, status, _ = event_id.split("/")
        document = {
            "metadata": {"name": f"{detector[:_TOO_MANY_NAME_CHARS].rstrip('.-')}.{incident[:16]}.{status}"},
            "type": "Warning" if status == "firing" else "Normal",
            "reason": f"Anomaly{status.title()}",
            "message": summary(event),
            "firstTimestamp": event["time"],
            "lastTimestamp": event["time"],
            "count": 1,
        }
        try:
            await self._api.create_event(namespace, detector, document)
        except KubernetesRefused as error:
            if error.status != _CONFLICT:
                raise SinkRejected(f"Sink {self.name!r}: the API server refuses an Event: {error}") from error
        except KubernetesUnavailable as error:
            raise SinkUnavailable(f"Sink {self.name!r}: {error}", retry_after_s=error.retry_after_s) from error

    async def close(self) -> None:
        """The connection is the operator's."""
