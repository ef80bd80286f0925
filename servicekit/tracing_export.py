"""Traces by OpenTelemetry's SDK, sent by OTLP over gRPC. Imported only where the environment asks for traces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from servicekit.clock import to_milliseconds
from servicekit.tracing import TRACEPARENT, Kind, Span, Value

# A collector that is away must not hold up a stop.
SHUTDOWN_SECONDS: Final = 3.0
_NANOSECONDS: Final = 1_000_000  # in a millisecond

_KINDS: Final = {kind: trace.SpanKind[kind.name] for kind in Kind}
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OpenTelemetryTracer:
    """Makes spans that the SDK samples and exports as the OTEL_* variables say."""

    def __init__(self, *, service: str, replica: str, to_console: bool = False) -> None:
        resource = _named(Resource.create({"service.instance.id": replica}), f"textway-{service}")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            SimpleSpanProcessor(ConsoleSpanExporter()) if to_console else BatchSpanProcessor(OTLPSpanExporter())
        )
        self._tracer = self._provider.get_tracer("textway")

    def add(self, processor: SpanProcessor) -> None:
        """Let somebody else see the spans too."""
        self._provider.add_span_processor(processor)

    @contextlib.contextmanager
    def span(
        self, name: str, *, parent: str | None, kind: Kind, links: Sequence[str], attributes: Mapping[str, Value]
    ) -> Iterator[Span]:
        """See Tracer. Exceptions are not recorded: their texts may hold what is nobody's business."""
        begun = self._tracer.start_span(
            name,
            context=None if parent is None else _context(parent),
            kind=_KINDS[kind],
            links=[trace.Link(linked) for each in links if (linked := _span_context(each)).is_valid],
            attributes=_named_attributes(attributes),
        )
        with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield _LiveSpan(begun)

    def record(self, name: str, *, parent: str, started_at: datetime, attributes: Mapping[str, Value]) -> None:
        """See Tracer."""
        self._tracer.start_span(
            name,
            context=_context(parent),
            start_time=to_milliseconds(started_at) * _NANOSECONDS,
            attributes=_named_attributes(attributes),
        ).end()

    def traceparent(self) -> str:
        """See Tracer."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get(TRACEPARENT, "")

    def shutdown(self) -> None:
        """See Tracer."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(SHUTDOWN_SECONDS)


class _LiveSpan:
    def __init__(self, begun: trace.Span) -> None:
        self._begun = begun

    def tell(self, **attributes: Value) -> None:
        self._begun.set_attributes(_named_attributes(attributes))

    def fail(self, reason: str) -> None:
        self._begun.set_status(trace.Status(trace.StatusCode.ERROR, reason))


def _named(resource: Resource, name: str) -> Resource:
    # The SDK calls a service that the environment does not name `unknown_service`.
    is_named = not str(resource.attributes.get("service.name", "")).startswith("unknown_service")
    return resource if is_named else resource.merge(Resource({"service.name": name}))


def _context(parent: str) -> otel_context.Context:
    # Begun from an empty one, so that what happens to run here is nobody's parent.
    return _PROPAGATOR.extract({TRACEPARENT: parent}, context=otel_context.Context())


def _span_context(traceparent: str) -> trace.SpanContext:
    return trace.get_current_span(_context(traceparent)).get_span_context()


def _named_attributes(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {name if "." in name else f"textway.{name}": value for name, value in attributes.items()}
