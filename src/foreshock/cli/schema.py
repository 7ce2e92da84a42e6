"""`foreshock schema`: what every event looks like, for whoever receives them."""

from __future__ import annotations

import json

import typer

from foreshock.alerting.event import json_schema

NAME = "schema"


def command() -> None:
    """Print the JSON Schema of the event that every sink gets as its CloudEvent.

    For example:

        foreshock schema > anomaly.v1.json
    """
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
