"""Traces: off unless asked for, and on they say what belongs to what, without anybody's texts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from servicekit import tracing
from servicekit.settings import SettingsError
from servicekit.tracing_export import OpenTelemetryTracer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-5bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What is made while somebody traces."""
    exporter = InMemorySpanExporter()
    tracer = OpenTelemetryTracer(service="probe", replica="here", to_console=True)
    tracer.add(SimpleSpanProcessor(exporter))
    tracing.use(tracer)
    yield exporter
    tracing.use(None)
    tracer.shutdown()


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "none"),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp"),
    ],
)
def test_traces_when_the_standard_variables_ask_for_it(monkeypatch, environment, exporter):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert tracing._exporter() == exporter


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]
)
def test_refuses_what_there_is_not(monkeypatch, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=name):
        tracing.configure("probe", "here")


def test_imports_nothing_of_opentelemetry_unless_it_traces():
    program = (
        "import sys, services.__main__; from servicekit import tracing; tracing.configure('probe', 'here');"
        "sys.exit(str([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )

    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, check=False)

    assert done.stderr.strip() == "[]"


def test_off_it_names_no_span_and_sends_no_header():
    with tracing.span("work", parent=PARENT, size=1) as span:
        span.tell(more=2)
        span.fail("a reason")

        assert (tracing.traceparent(), tracing.headers(), tracing.is_on()) == ("", {}, False)


def test_a_span_is_a_child_of_the_parent_that_it_is_given_and_not_of_what_runs_around_it(spans):
    with tracing.span("around", parent=OTHER), tracing.span("work", parent=PARENT):
        named = tracing.traceparent()

    work, _ = spans.get_finished_spans()
    assert tracing.trace_id(named) == tracing.trace_id(PARENT)
    assert f"{work.parent.span_id:016x}" == PARENT.split("-")[2]


def test_without_a_parent_it_is_a_child_of_what_is_under_way_and_with_an_empty_one_a_root(spans):
    with tracing.span("around", parent=PARENT), tracing.span("inside"), tracing.span("apart", parent=""):
        pass

    apart, inside, around = spans.get_finished_spans()
    assert inside.parent.span_id == around.context.span_id
    assert apart.parent is None
    assert apart.context.trace_id != around.context.trace_id


@pytest.mark.parametrize("nonsense", ["00-0-0-00", "x", "00-00000000000000000000000000000000-0000000000000000-01"])
def test_a_parent_that_is_none_makes_a_root(spans, nonsense):
    with tracing.span("work", parent=nonsense, links=[nonsense, PARENT]):
        pass

    (work,) = spans.get_finished_spans()
    assert work.parent is None
    assert len(work.links) == 1


def test_what_is_over_has_the_time_at_which_it_began(spans):
    began = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)

    tracing.record("work", parent=PARENT, started_at=began, message_id="msg_1")

    (work,) = spans.get_finished_spans()
    assert work.start_time == int(began.timestamp()) * 10**9 < work.end_time
    assert work.attributes == {"textway.message_id": "msg_1"}


def test_an_exceptions_text_is_in_no_span(spans):
    with pytest.raises(ValueError, match="6581230000"), tracing.span("work", parent=PARENT):
        raise ValueError("'+6581230000' is no phone number")

    (work,) = spans.get_finished_spans()
    assert "6581230000" not in work.to_json()
