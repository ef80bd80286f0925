"""What of a carrier's callback reaches Delivery, and what of the answer reaches the carrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit import calls
from services.delivery.errors import CallbackTooLargeError, CallbackUnauthenticatedError

from .conftest import Gateway
from .raw import request, send

STATUS, INBOUND = "/v1/carriers/main/status", "/v1/carriers/main/inbound"
# Order, repetition and encoding are what a signature is made over.
AWKWARD_QUERY = "b=2&a=%7Ex%2f&a=+&e=%E9%00&carrier=other&payload.data=QUFB&payload.content_type=x&q=a?b"


def answering(status: int, content_type: str, body: bytes) -> Callable[..., Any]:
    async def answer(_request: Any, context: Any) -> HttpBody:
        await calls.answer_with(context, status)
        return HttpBody(content_type=content_type, data=body)

    return answer


def refusing(error: Exception) -> Callable[..., Any]:
    async def refuse(_request: Any, _context: Any) -> HttpBody:
        raise error

    return refuse


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("path", "rpc"), [(STATUS, "ReceiveStatus"), (INBOUND, "ReceiveInbound")])
def test_a_callback_arrives_with_its_method_and_its_query_byte_for_byte(
    gate: Gateway, method: str, path: str, rpc: str
) -> None:
    body = b"MessageSid=SM1&Body=%E9+\xff" if method == "POST" else b""

    answer = send(gate.port, request(method, f"{path}?{AWKWARD_QUERY}", body=body))

    (call,) = gate.stubs.calls
    assert answer.status_code == 204
    assert call.method == rpc
    assert call.headers("x-textway-method") == [method]
    assert call.headers("x-textway-query") == [AWKWARD_QUERY]
    assert call.request.carrier == "main"
    assert call.request.payload.data == body


def test_a_query_overrides_neither_the_carrier_nor_the_body(gate: Gateway, client: httpx.Client) -> None:
    client.get(STATUS, params={"carrier": "other", "payload.data": "QUFB", "payload.contentType": "text/forged"})

    (call,) = gate.stubs.calls
    assert call.request.carrier == "main"
    assert call.request.payload == HttpBody()


def test_a_callback_without_a_query_says_nothing_of_one(gate: Gateway) -> None:
    for path in (STATUS, f"{STATUS}?"):
        send(gate.port, request("POST", path, body=b"x"))

    assert [call.headers("x-textway-query") for call in gate.stubs.calls] == [[], []]


@pytest.mark.parametrize("name", [b"x-textway-query", b"X-Textway-Query", b"x-textway-method", b"x-textway-anything"])
@pytest.mark.parametrize("path", [STATUS, f"{STATUS}?a=1", "/v1/ingress/ig_a"])
def test_a_clients_own_copy_of_what_the_gateway_says_is_dropped(gate: Gateway, name: bytes, path: str) -> None:
    send(gate.port, request("POST", path, headers=(name + b": forged\r\n") * 2, body=b"{}"))

    (call,) = gate.stubs.calls
    assert "forged" not in str(call.metadata)


def test_a_callbacks_headers_and_content_type_arrive(gate: Gateway, client: httpx.Client) -> None:
    headers = {"X-Twilio-Signature": "AB+/=", "content-type": "application/x-www-form-urlencoded; charset=utf-8"}

    client.post(STATUS, content=b"a=1", headers=headers)

    (call,) = gate.stubs.calls
    assert call.headers("x-twilio-signature") == ["AB+/="]
    assert call.request.payload.content_type == "application/x-www-form-urlencoded; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (204, "", b""),
        (200, "text/plain", b""),
        (200, "text/plain", b"ACK/Jasmin"),
        (200, "text/xml", b'<?xml version="1.0" encoding="UTF-8"?><Response/>'),
        (200, "application/json", b'{"status":"ok"}'),
        (202, "text/plain; charset=utf-8", "Küche".encode()),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_keeps_its_status_type_and_bytes(
    gate: Gateway, method: str, status: int, content_type: str, body: bytes
) -> None:
    gate.stubs.behaviours["ReceiveStatus"] = answering(status, content_type, body)

    answer = send(gate.port, request(method, STATUS, body=b"x" if method == "POST" else b""))

    assert answer.status_code == status
    assert answer.content == body
    assert answer.headers.get("content-type", "") == content_type
    assert not {name for name in answer.headers if name.startswith(("grpc-", "x-http", "x-error", "x-textway"))}
    assert "x-request-id" in answer.headers
    assert status != 204 or "content-length" not in answer.headers


def test_callbacks_share_a_connection(gate: Gateway, client: httpx.Client) -> None:
    answers = [client.post(path, content=b"a=1") for path in (STATUS, INBOUND, STATUS)]

    assert [answer.status_code for answer in answers] == [204] * 3
    assert len({answer.extensions["network_stream"].get_extra_info("client_addr") for answer in answers}) == 1


@pytest.mark.parametrize(
    ("error", "status", "extras"),
    [
        (CallbackUnauthenticatedError(), 401, {"error": "invalid_signature", "reason": "mismatch"}),
        (CallbackTooLargeError(limit=65_536), 413, {"error": "payload_too_large", "limit": 65_536}),
        (RuntimeError("a secret"), 500, {"error": "internal"}),
    ],
)
def test_a_refused_callback_is_answered_in_the_json_of_all_errors(
    gate: Gateway, client: httpx.Client, error: Exception, status: int, extras: dict[str, object]
) -> None:
    gate.stubs.behaviours["ReceiveInbound"] = refusing(error)

    answer = client.post(INBOUND, content=b"a=1")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        **answer.json(),
        **extras,
        "requestId": answer.headers["x-request-id"],
    }
    assert "secret" not in answer.text


def test_a_callback_while_delivery_is_down_is_to_be_repeated(gate: Gateway, client: httpx.Client) -> None:
    gate.stubs.stop("delivery")
    try:
        answer = client.post(STATUS, content=b"a=1")
    finally:
        gate.stubs.start("delivery")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", STATUS), ("DELETE", INBOUND), ("GET", "/v1/carriers/main"), ("POST", "/v1/carriers/main/other")],
)
def test_nothing_else_is_below_a_carrier(gate: Gateway, client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert answer.status_code == 404
    assert gate.stubs.calls == []


@pytest.mark.parametrize("query", [b"a=\xff\xfe", b"a=\xc3\xa9", b"a=\x7f"])
def test_a_query_that_is_not_encoded_is_no_server_error(gate: Gateway, query: bytes) -> None:
    answer = send(gate.port, request("GET", STATUS.encode() + b"?" + query))

    assert answer.status_code in {204, 400}
