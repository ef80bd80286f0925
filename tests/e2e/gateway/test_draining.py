"""What the gateway finishes before it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.launcher import gateway_process

from . import raw
from .conftest import Gateway, started
from .stubs import ANSWERS


@pytest.fixture
def gate(short_path: Path) -> Iterator[Gateway]:
    with started(short_path / "gw") as running:
        yield running


@pytest.fixture
def stopping(gate: Gateway) -> Iterator[Callable[[], None]]:
    """Begin to stop the gateway as `up` does."""

    def stop() -> None:
        gateway_process.drain(Path(gate.admin))
        gate.process.terminate()

    thread = threading.Thread(target=stop)
    yield thread.start
    thread.join()


def test_waits_for_an_answer_that_takes_long(gate, stopping):
    answers = []

    async def late(_request: object, _context: object) -> object:
        await asyncio.sleep(3)
        return ANSWERS["Ingest"]

    def post() -> None:
        with gate.client() as client:
            answers.append(client.post("/v1/ingress/ig_a", json={}))

    gate.stubs.behaviours["Ingest"] = late
    sender = threading.Thread(target=post)
    sender.start()
    while not gate.stubs.calls:
        time.sleep(0.01)
    stopping()
    sender.join()

    (answer,) = answers
    assert answer.status_code == 202
    assert answer.headers["connection"] == "close"


def test_asks_a_sender_that_pauses_between_its_requests_to_close(gate, stopping):
    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as connection:
        stopping()
        is_asked = False
        while not is_asked:
            time.sleep(0.1)
            connection.sendall(raw.request("GET", "/health/live"))
            answer = raw.read(connection)
            assert answer.status_code == 200
            is_asked = answer.headers.get("connection") == "close"


def test_waits_for_a_gateway_that_stands_still(gate, stopping):
    with gate.client() as client:
        assert client.get("/health/live").status_code == 200
        stopping()
        time.sleep(gateway_process.DRAIN_SECONDS / 2)
        gate.process.send_signal(signal.SIGSTOP)
        awake = threading.Timer(3, gate.process.send_signal, [signal.SIGCONT])
        awake.start()

        answer = client.get("/health/live")

    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_answers_who_connected_in_time_and_sends_only_then(gate, stopping):
    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as connection:
        stopping()
        while True:
            try:
                socket.create_connection(("127.0.0.1", gate.port), timeout=10).close()
            except (ConnectionRefusedError, ConnectionResetError):  # the one before the handshake, the other after it
                break
        time.sleep(0.3)
        connection.sendall(raw.request("GET", "/health/live"))

        answer = raw.read(connection)

    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
