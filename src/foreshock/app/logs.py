"""Logs: one line an entry on stderr, readable on a terminal and JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure_logs() -> None:
    """Call it once, in a command that runs for long."""
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
