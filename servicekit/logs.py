"""Structured logs: one line per outcome, on standard error, as JSON or, for a person, in columns."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, TextIO, cast

import structlog

from servicekit import tracing
from servicekit.log_lines import GatheredLines

LogFormat = Literal["auto", "json", "console"]

# Tells replicas apart: a container's name, or the machine's.
REPLICA: Final = socket.gethostname()
# What structlog and `logging` call by other names.
_LEVELS: Final = {"warn": "warning", "exception": "error"}
# Left out where there is none, for they say nothing then.
_IDS: Final = ("request_id", "message_id", "trace_id")

# One mapping for all fields: structlog's own has a variable for each, and each line looks at all variables there are.
_bound: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))


def bind(**fields: str) -> None:
    """Have all lines of this task, from now on, say these fields."""
    _bound.set({**_bound.get(), **fields})


def bound() -> Mapping[str, str]:
    """Return what the lines of this task say."""
    return _bound.get()


def configure(*, service: str, replica: str = REPLICA, level: str = "info", log_format: LogFormat = "auto") -> None:
    """Set up the process's logs. `auto` writes columns to a terminal and JSON to anything else."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    # A plain traceback: the richer ones print local variables, and those may be secrets.
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
        if console
        else _to_json
    )
    describe = _describing(service, replica)
    lines = cast("TextIO", sys.stderr if console else GatheredLines(sys.stderr))
    structlog.configure(
        processors=[describe, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )
    # Libraries' lines in the same form.
    handler = logging.StreamHandler(lines)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[remove, renderer],
            foreign_pre_chain=[describe, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    leave_out_header_values()


def leave_out_header_values() -> None:
    """Have gRPC say nothing of headers that are not UTF-8.

    It reads them as Latin-1, and logs the whole value of each, which may be a key, as an error with a traceback.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_value)


def _tells_no_value(record: logging.LogRecord) -> bool:
    cause = record.exc_info[1] if record.exc_info else None
    return not isinstance(cause, UnicodeDecodeError)


def _describing(service: str, replica: str) -> structlog.typing.Processor:
    # One step for all of it: each step of its own takes as long as what it does.
    def describe(_logger: object, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Say who writes a line and when, how severe it is, in whose behalf it is, and of which trace."""
        for key, value in _bound.get().items():
            line.setdefault(key, value)
        line["service"], line["replica"], line["level"] = service, replica, _LEVELS.get(method, method)
        if tracing.is_on():
            line.setdefault("trace_id", tracing.trace_id(tracing.traceparent()))
        for key in _IDS:
            if line.get(key) == "":
                del line[key]
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        line["timestamp"] = f"{_to_the_second(seconds)}.{nanoseconds // 1_000:06}Z"
        return line

    return describe


@lru_cache(maxsize=1)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


# Made once: with `json.dumps` every line would make one of its own.
_ENCODE: Final = json.JSONEncoder(default=repr).encode


def _to_json(logger: object, method: str, line: structlog.typing.EventDict) -> str:
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, method, line)
    return _ENCODE(line)


def masked_number(number: str) -> str:
    """Return a phone number of which only the last four digits can be read."""
    return f"{'*' * max(len(number) - 4, 0)}{number[-4:]}"
