"""The list of sinks: settings, conformance suite and documentation are made from this tuple and nothing else."""

from __future__ import annotations

import sys
from typing import Annotated, TextIO, assert_never

from pydantic import Field

from foreshock.alerting.sinks.base import Sink
from foreshock.alerting.sinks.log import LogSettings, LogSink
from foreshock.alerting.sinks.webhook import WebhookSettings, WebhookSink

SINKS = (LogSettings, WebhookSettings)

SinkSettings = Annotated[LogSettings | WebhookSettings, Field(discriminator="type")]


def build(settings: LogSettings | WebhookSettings, *, stream: TextIO | None = None) -> Sink:
    """Make the sink that these settings describe; `stream` is where `log` writes, stdout where it is not given."""
    match settings:
        case LogSettings():
            return LogSink(settings, sys.stdout if stream is None else stream)
        case WebhookSettings():
            return WebhookSink(settings)
        case _:
            assert_never(settings)
