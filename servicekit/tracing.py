"""Traces, if the standard OTEL_* variables ask for them; else all of this returns at once and imports nothing.

What happens to one thing is one trace, however many processes and hours it takes: whoever works on it later is given
the `traceparent` that was kept with it (https://www.w3.org/TR/trace-context/), not the context that runs there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from servicekit.settings import SettingsError

TRACEPARENT: Final = "traceparent"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACE_ID: Final = slice(3, 35)  # of a traceparent

Value = str | int | float | bool


class Kind(Enum):
    """What a span is to whoever it talks to."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(Protocol):
    """Something that is under way."""

    def tell(self, **attributes: Value) -> None:
        """Add what is known now: never a text, a whole number or a secret."""

    def fail(self, reason: str) -> None:
        """Say that it went wrong, in a word of ours."""


class Tracer(Protocol):
    """Who makes spans. A parent that is None is the span that is under way; an empty one is none at all."""

    def span(
        self, name: str, *, parent: str | None, kind: Kind, links: Sequence[str], attributes: Mapping[str, Value]
    ) -> contextlib.AbstractContextManager[Span]:
        """Return a block that is a span."""

    def record(self, name: str, *, parent: str, started_at: datetime, attributes: Mapping[str, Value]) -> None:
        """Make a span of what began at a time and is over now."""

    def traceparent(self) -> str:
        """Return the name of the span that is under way; empty for none."""

    def shutdown(self) -> None:
        """Hand over what was made; return within a few seconds."""


class _NoSpan:
    """Is told everything and keeps nothing."""

    def tell(self, **attributes: Value) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass


NOTHING: Final[contextlib.AbstractContextManager[Span]] = contextlib.nullcontext(_NoSpan())
_tracer: Tracer | None = None


def configure(service: str, replica: str) -> None:
    """Begin to trace if the environment asks for it; raise SettingsError when it asks for what there is not."""
    exporter = _exporter()
    if exporter == "none":
        return
    from servicekit.tracing_export import OpenTelemetryTracer  # noqa: PLC0415  # 10 MiB that most do not want

    use(OpenTelemetryTracer(service=service, replica=replica, to_console=exporter == "console"))


def _exporter() -> str:
    given = os.environ
    if given.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "none"
    named = given.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    exporter = named or ("otlp" if any(given.get(name) for name in _ENDPOINTS) else "none")
    if exporter not in ("otlp", "console", "none"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER: must be otlp, console or none, not {exporter}")
    protocol = next((given[name] for name in _PROTOCOLS if given.get(name)), "grpc")
    if exporter == "otlp" and protocol != "grpc":
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is spoken, not {protocol}")
    return exporter


def use(tracer: Tracer | None) -> None:
    """Trace with this from now on; None for not at all."""
    global _tracer  # noqa: PLW0603  # one for each process, like its logs
    _tracer = tracer


def shutdown() -> None:
    """Hand over what was made."""
    if _tracer is not None:
        _tracer.shutdown()


def is_on() -> bool:
    """Tell whether anybody traces, for whoever would have to prepare something."""
    return _tracer is not None


def span(
    name: str,
    *,
    parent: str | None = None,
    kind: Kind = Kind.INTERNAL,
    links: Sequence[str] = (),
    **attributes: Value,
) -> contextlib.AbstractContextManager[Span]:
    """Return a block that is a span: a child of a traceparent, a root for an empty one, else of what is under way.

    `links` are the traceparents of what it works on together, of which none is its parent.
    """
    if _tracer is None:
        return NOTHING
    return _tracer.span(name, parent=parent, kind=kind, links=links, attributes=attributes)


def record(name: str, *, parent: str, started_at: datetime, **attributes: Value) -> None:
    """Make a span of what began at a time and is over now."""
    if _tracer is not None:
        _tracer.record(name, parent=parent, started_at=started_at, attributes=attributes)


def traceparent() -> str:
    """Return the name of the span that is under way, to be kept with what it is about; empty when nobody traces."""
    return "" if _tracer is None else _tracer.traceparent()


def headers() -> dict[str, str]:
    """Return the headers that tell whoever is called now of the span that is under way."""
    name = traceparent()
    return {TRACEPARENT: name} if name else {}


def trace_id(name: str) -> str:
    """Return the id of the trace that a traceparent names; empty for none."""
    return name[_TRACE_ID]
