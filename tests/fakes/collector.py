"""A collector of traces: takes spans by OTLP over gRPC and keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, kw_only=True)
class CollectedSpan:
    """One span, with ids as they are written in a traceparent."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str  # empty for a root
    linked: tuple[str, ...]  # the ids of the spans that it links to
    whole: str  # all that was sent of it


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.address = ""

    def Export(self, request: Any, context: Any) -> Any:
        for resource_spans in request.resource_spans:
            service = next(
                pair.value.string_value for pair in resource_spans.resource.attributes if pair.key == "service.name"
            )
            self.spans += [_kept(service, span) for scope in resource_spans.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> Sequence[CollectedSpan]:
        """Return a trace's spans in the order in which they came."""
        return [span for span in self.spans if span.trace_id == trace_id]


def _kept(service: str, span: Any) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        linked=tuple(link.span_id.hex() for link in span.links),
        whole=str(span),
    )


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Serve on a free port."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
