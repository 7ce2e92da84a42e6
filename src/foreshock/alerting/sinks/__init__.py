"""The list of sinks: settings, conformance suite and documentation are made from this tuple and nothing else."""

from __future__ import annotations

import sys
from typing import Annotated, TextIO, assert_never

from pydantic import Field

from foreshock.alerting.sinks.alertmanager import AlertmanagerSettings, AlertmanagerSink
from foreshock.alerting.sinks.base import Sink
from foreshock.alerting.sinks.kafka import KafkaSettings, KafkaSink
from foreshock.alerting.sinks.kubernetes_event import EventApi, KubernetesEventSettings, KubernetesEventSink
from foreshock.alerting.sinks.log import LogSettings, LogSink
from foreshock.alerting.sinks.webhook import WebhookSettings, WebhookSink
from foreshock.core.clock import Clock
from foreshock.core.errors import InvalidSettings, Problem

SINKS = (LogSettings, WebhookSettings, KafkaSettings, AlertmanagerSettings, KubernetesEventSettings)

AnySettings = LogSettings | WebhookSettings | KafkaSettings | AlertmanagerSettings | KubernetesEventSettings
SinkSettings = Annotated[AnySettings, Field(discriminator="type")]


def build(
    settings: AnySettings, clock: Clock, *, stream: TextIO | None = None, event_api: EventApi | None = None
) -> Sink:
    """Make the sink that these settings describe; `stream` is where `log` writes, stdout where it is not given.

    Raises:
        InvalidSettings: a sink needs the API server of `foreshock operator`, and there is none.

    """
    match settings:
        case LogSettings():
            return LogSink(settings, sys.stdout if stream is None else stream)
        case WebhookSettings():
            return WebhookSink(settings)
        case KafkaSettings():
            return KafkaSink(settings)
        case AlertmanagerSettings():
            return AlertmanagerSink(settings, clock)
        case KubernetesEventSettings():
            if event_api is None:
                sentence = (
                    f"The sink {settings.name!r} writes Kubernetes Events, which only foreshock operator can: "
                    "remove it from the settings of foreshock run."
                )
                raise InvalidSettings((Problem("", "sinks", sentence),))
            return KubernetesEventSink(settings, event_api)
        case _:
            assert_never(settings)
