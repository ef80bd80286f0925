"""Structured logs: one line per outcome, on standard error, as JSON or, for a person, in columns."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["auto", "json", "console"]


def configure(*, service: str, level: str = "info", log_format: LogFormat = "auto") -> None:
    """Set up the process's logs. `auto` writes columns to a terminal and JSON to anything else."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    # A plain traceback: the richer ones print local variables, and those may be secrets.
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.contextvars.bind_contextvars(service=service)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def masked_number(number: str) -> str:
    """Return a phone number of which only the last four digits can be read."""
    return f"{'*' * max(len(number) - 4, 0)}{number[-4:]}"
