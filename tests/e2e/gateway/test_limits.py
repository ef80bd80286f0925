"""Each limit of the gateway: what is just inside passes, one more is refused in the shape of every other error."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx
import pytest

from textway.delivery.v1 import message_pb2, messages_service_pb2

from .conftest import Gateway
from .raw import Answer, chunked, closed_after, read, request, send
from .test_answers import assert_error

BODY_LIMIT = 262_144


def json_of(size: int) -> bytes:
    return b'{"to":"' + b"x" * (size - 9) + b'"}'


def send_in_pieces(port: int, data: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # the answer may come before the end of the body
            for start in range(0, len(data), 16_384):
                connection.sendall(data[start : start + 16_384])
                time.sleep(0.002)
        return read(connection, "POST")


@pytest.mark.parametrize("path", ["/v1/ingress/ig_a", "/v1/messages"])
@pytest.mark.parametrize("encode", [lambda path, body: request("POST", path, body=body), chunked])
def test_a_body_may_have_262144_bytes_and_not_one_more(gate: Gateway, path: str, encode: object) -> None:
    assert callable(encode)

    inside = send(gate.port, encode(path, json_of(BODY_LIMIT)))
    beyond = send(gate.port, encode(path, json_of(BODY_LIMIT + 1)))

    assert inside.status_code == 202
    assert assert_error(beyond, 413, "payload_too_large")["limit"] == BODY_LIMIT
    assert len(gate.stubs.calls) == 1


@pytest.mark.parametrize("path", ["/v1/ingress/ig_a", "/v1/messages", "/v1/webhooks/send-example"])
@pytest.mark.parametrize("size", [BODY_LIMIT, BODY_LIMIT + 1, 4 * BODY_LIMIT])
@pytest.mark.parametrize("encode", [lambda path, body: request("POST", path, body=body), chunked])
def test_a_body_that_comes_in_pieces_is_counted_whole(gate: Gateway, path: str, size: int, encode: object) -> None:
    assert callable(encode)

    answer = send_in_pieces(gate.port, encode(path, json_of(size)))

    if size > BODY_LIMIT:
        assert assert_error(answer, 413, "payload_too_large")["limit"] == BODY_LIMIT
    assert len(gate.stubs.calls) == (size <= BODY_LIMIT)


def test_a_page_may_have_megabytes(gate: Gateway, client: httpx.Client) -> None:
    page = messages_service_pb2.ListMessagesResponse(messages=[message_pb2.Message(text="x" * 1_600)] * 1_000)

    async def answer(_request: object, _context: object) -> object:
        return page

    gate.stubs.behaviours["ListMessages"] = answer

    assert len(client.get("/v1/messages?pageSize=1000").json()["messages"]) == 1_000


def test_the_largest_body_passes_with_the_largest_headers(gate: Gateway) -> None:
    headers = b"content-type: " + b"a" * 7_000 + b"\r\nx-big: " + b"b" * 7_000 + b"\r\n"

    answer = send(gate.port, request("POST", "/v1/ingress/" + "i" * 1_900, headers=headers, body=b"x" * BODY_LIMIT))

    assert answer.status_code == 202
    assert len(gate.stubs.calls[0].request.payload.data) == BODY_LIMIT


def test_12_kb_of_headers_pass_60_times_of_60(gate: Gateway, client: httpx.Client) -> None:
    headers = {f"x-filler-{number}": "f" * 1_500 for number in range(8)}

    statuses = [client.post("/v1/ingress/ig_a", content=b"{}", headers=headers).status_code for _ in range(60)]

    assert statuses == [202] * 60
    assert all(len(call.headers("x-filler-7")) == 1 for call in gate.stubs.calls)


@pytest.mark.parametrize(("size", "status"), [(16_000, 202), (16_500, 431)])
def test_headers_may_have_16_kib(gate: Gateway, size: int, status: int) -> None:
    answer = send(gate.port, request("POST", "/v1/ingress/ig_a", headers=b"x: " + b"h" * size + b"\r\n", body=b"{}"))

    assert answer.status_code == status
    if status == 431:
        assert_error(answer, 431, "validation_error")


@pytest.mark.parametrize(("count", "status"), [(62, 202), (63, 431)])
def test_a_request_may_have_64_headers(gate: Gateway, count: int, status: int) -> None:
    headers = b"".join(b"x-%d: 1\r\n" % number for number in range(count))

    # Two more are the host's and the length's.
    answer = send(gate.port, request("POST", "/v1/ingress/ig_a", headers=headers, body=b"{}"))

    assert answer.status_code == status
    if status == 431:
        assert_error(answer, 431, "validation_error")


@pytest.mark.parametrize("query", ["", "?" + "q" * 1_000])
def test_an_address_may_have_2048_bytes(gate: Gateway, query: str) -> None:
    path = "/v1/messages/" + "m" * (2_048 - len("/v1/messages/") - len(query)) + query

    inside = send(gate.port, request("GET", path))
    beyond = send(gate.port, request("GET", path + "x"))

    assert inside.status_code == 200
    assert_error(beyond, 414, "validation_error")


def test_headers_that_drip_in_are_given_up_after_three_seconds(gate: Gateway) -> None:
    started = time.monotonic()

    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as connection:
        connection.sendall(b"GET /v1/messages HTTP/1.1\r\nhost: gateway\r\nx: ")
        answer = read(connection)

    assert_error(answer, 408, "validation_error")
    assert 2.5 < time.monotonic() - started < 4.5


def test_two_requests_in_one_are_not_let_through(gate: Gateway) -> None:
    smuggled = b"0\r\n\r\nGET /v1/messages HTTP/1.1\r\nhost: a\r\n\r\n"
    head = b"POST /v1/ingress/ig_a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n"

    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as connection:
        connection.sendall(head % len(smuggled) + smuggled)
        answers = closed_after(connection)

    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1") == 1
    assert gate.stubs.calls == []


def test_the_port_is_not_shared_with_another_gateway(gate: Gateway) -> None:
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

        with pytest.raises(OSError, match="in use"):
            second.bind(("127.0.0.1", gate.port))
