"""What the gateway says while a service is gone, and how soon it finds one that is back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit import calls

from . import raw
from .conftest import Gateway
from .test_answers import assert_error

DYING_SERVICE = Path(__file__).with_name("dying_service.py")


@pytest.fixture
def without_ingress(gate: Gateway) -> Iterator[Gateway]:
    gate.stubs.stop("ingress")
    yield gate
    gate.stubs.start("ingress")
    wait_until_served(gate)


def wait_until_served(gate: Gateway) -> float:
    started = time.monotonic()
    with gate.client() as client:
        while client.get("/health/live").status_code != 200:
            assert time.monotonic() - started < 10
            time.sleep(0.02)
    return time.monotonic() - started


def test_a_service_that_is_gone_is_unavailable_from_the_first_request_on(without_ingress: Gateway) -> None:
    with without_ingress.client() as client:
        for _ in range(3):
            answer = client.post("/v1/ingress/ig_a", content=b"{}")

            assert_error(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            assert answer.elapsed.total_seconds() < 1
            time.sleep(0.4)


def test_a_monitor_that_asks_for_no_body_gets_none_when_a_service_is_gone_either(without_ingress: Gateway) -> None:
    answer = raw.everything(without_ingress.port, raw.request("HEAD", "/health/live", headers=b"connection: close\r\n"))

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.index(b"\r\n\r\n") == len(answer) - 4


def test_the_others_go_on_while_one_is_gone(without_ingress: Gateway) -> None:
    with without_ingress.client() as client:
        assert client.get("/v1/messages").status_code == 200


def test_a_service_that_is_back_is_found_within_a_second(gate: Gateway) -> None:
    found_after = []
    for _ in range(3):
        gate.stubs.stop("ingress")
        time.sleep(1.2)
        gate.stubs.start("ingress")
        found_after.append(wait_until_served(gate))

    assert max(found_after) < 0.8


def test_a_call_that_may_have_been_served_is_not_sent_again(gate: Gateway, client: httpx.Client) -> None:
    async def fail(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    gate.stubs.behaviours["SendMessage"] = fail

    answer = client.post("/v1/messages", json={})

    assert_error(answer, 503, "unavailable")
    assert len(gate.stubs.calls) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_service_that_dies_with_the_accepted_status_sent_gives_no_202(without_ingress: Gateway, when: str) -> None:
    address = without_ingress.stubs.addresses["ingress"]
    process = subprocess.Popen([sys.executable, str(DYING_SERVICE), address, when])
    try:
        wait_until_served(without_ingress)

        with without_ingress.client() as client:
            answer = client.post("/v1/ingress/ig_a", content=b"{}")
    finally:
        process.kill()
        process.wait()

    assert_error(answer, 503, "unavailable")


def test_a_caller_that_leaves_ends_the_call(gate: Gateway) -> None:
    ended: list[bool] = []

    async def wait(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    gate.stubs.behaviours["Ingest"] = wait

    with gate.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/ingress/ig_a", content=b"{}", timeout=0.3)

    time.sleep(0.5)
    assert ended == [True]


def test_a_slow_answer_within_the_deadline_is_given(gate: Gateway, client: httpx.Client) -> None:
    async def think(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await asyncio.sleep(1)
        await calls.answer_with(context, 202)
        return HttpBody(content_type="application/json", data=b'{"id":"msg_slow"}')

    gate.stubs.behaviours["Ingest"] = think

    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    assert (answer.status_code, answer.json()["id"]) == (202, "msg_slow")
