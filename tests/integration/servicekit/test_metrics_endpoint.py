"""The address that Prometheus reads: one answer, and nothing that somebody else could do with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from servicekit import metrics_endpoint
from servicekit.metrics_endpoint import MAX_CONNECTIONS, MAX_REQUEST_BYTES, MetricsEndpoint
from servicekit.settings import SettingsError

LISTEN = "127.0.0.1:0"


@pytest.fixture
async def endpoint() -> AsyncIterator[MetricsEndpoint]:
    running = MetricsEndpoint()
    await running.start([LISTEN])
    yield running
    await running.stop()


async def connect(endpoint: MetricsEndpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = endpoint.addresses[LISTEN].rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def ask(endpoint: MetricsEndpoint, request: bytes) -> tuple[str, str]:
    """Send some bytes; return the status line and the body of the answer."""
    reader, writer = await connect(endpoint)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


async def test_shows_what_is_measured_in_the_form_that_prometheus_reads(endpoint):
    status, body = await ask(endpoint, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    names = {family.name for family in text_string_to_metric_families(body)}
    assert status == "HTTP/1.1 200 OK"
    assert {"textway_grpc_requests", "textway_event_loop_lag_seconds", "process_resident_memory_bytes"} <= names


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "405 Method Not Allowed"),
        (b"\x16\x03\x01\x02\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST_BYTES * 2, "431 Request Header Fields Too Large"),
    ],
)
async def test_answers_nothing_else(endpoint, request_bytes, status):
    told, _ = await ask(endpoint, request_bytes)

    assert told == f"HTTP/1.1 {status}"


async def told_until_hung_up(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side hung up, which may be seen as the end or as a reset."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), 10)
    return b""


async def test_hangs_up_on_who_does_not_finish_his_request(endpoint, monkeypatch):
    monkeypatch.setattr(metrics_endpoint, "DEADLINE_SECONDS", 0.01)
    reader, writer = await connect(endpoint)

    writer.write(b"GET /metr")

    assert await told_until_hung_up(reader) == b""
    writer.close()


async def test_turns_away_who_would_be_one_too_many(endpoint):
    waiting = [await connect(endpoint) for _ in range(MAX_CONNECTIONS)]
    while len(endpoint._open) < MAX_CONNECTIONS:
        await asyncio.sleep(0.001)

    reader, writer = await connect(endpoint)

    assert await told_until_hung_up(reader) == b""
    for _, each in [*waiting, (reader, writer)]:
        each.close()


async def test_an_address_that_is_taken_stops_the_start(endpoint):
    second = MetricsEndpoint()

    with pytest.raises(SettingsError, match="for metrics"):
        await second.start([endpoint.addresses[LISTEN]])


async def test_without_an_address_nothing_is_opened_and_nothing_watched():
    endpoint = MetricsEndpoint()

    await endpoint.start([""])

    assert endpoint.addresses == {}
    assert endpoint._watch is None
    await endpoint.stop()
