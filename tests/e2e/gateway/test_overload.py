"""Bodies that never end, until the gateway's memory runs short: they go first, and others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.http2 import Http2Posts

from .conftest import Gateway, started
from .raw import read, request, send

HEAP_BYTES = 536_870_912
SMALL_HEAP_BYTES = 40 * 1024 * 1024
# Of the small heap's worth twice, and of all of them the last byte is missing.
BODY_BYTES = 250_000
CONNECTIONS = 2 * SMALL_HEAP_BYTES // BODY_BYTES

STREAMS = 100


@pytest.fixture
def gate(short_path: Path) -> Iterator[Gateway]:
    def with_a_small_heap(configuration: str) -> str:
        assert str(HEAP_BYTES) in configuration
        return configuration.replace(str(HEAP_BYTES), str(SMALL_HEAP_BYTES))

    with started(short_path / "gw", changed=with_a_small_heap) as running:
        yield running


def assert_serves_before_any_had_its_whole_time(gate: Gateway) -> None:
    # For a moment there may be too little memory for anybody.
    while (status := send(gate.port, request("POST", "/v1/ingress/ig_a", body=b"{}")).status_code) == 503:
        time.sleep(0.05)
    assert status == 202
    assert gate.stats("^http.public.downstream_rq_timeout$") == {"http.public.downstream_rq_timeout": 0}


def test_bodies_that_do_not_go_on_are_ended_early(gate: Gateway) -> None:
    unfinished = request("POST", "/v1/ingress/ig_a", body=b"x" * BODY_BYTES)[:-1]
    with contextlib.ExitStack() as open_ones:
        connections = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", gate.port), timeout=10))
            for _ in range(CONNECTIONS)
        ]
        for connection in connections:
            connection.sendall(unfinished)

        assert read(connections[0], "POST").status_code == 408

        # By the time that they may stand still, and not by the one that a whole request may take.
        assert gate.stats("^http.public.downstream_rq_idle_timeout$") != {"http.public.downstream_rq_idle_timeout": 0}
        assert_serves_before_any_had_its_whole_time(gate)


def test_the_largest_of_those_that_share_a_connection_are_ended(gate: Gateway) -> None:
    deadline = time.monotonic() + 20
    with contextlib.ExitStack() as open_ones:
        connections = [
            open_ones.enter_context(Http2Posts(gate.port, "/v1/ingress/ig_a", streams=STREAMS, body_bytes=BODY_BYTES))
            for _ in range(CONNECTIONS // STREAMS + 1)
        ]
        while not any(each.reset for each in connections):
            assert time.monotonic() < deadline, "nothing was ended"
            for each in connections:
                each.send_what_there_is_room_for()
            time.sleep(0.01)

        assert_serves_before_any_had_its_whole_time(gate)
