"""What comes back through the gateway: statuses, bodies and headers, from services and from Envoy itself."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import grpc
import httpx
import pytest

from servicekit import calls
from servicekit.errors import Issue, NotFoundError, UnavailableError, ValidationError
from textway.ingress.v1 import health_service_pb2

from .conftest import Gateway
from .raw import Answer, everything, request, send

INTERNAL_HEADERS = {
    *("x-http-status", "x-error-body", "grpc-status", "grpc-message", "grpc-status-details-bin"),
    *("grpc-accept-encoding", "x-envoy-upstream-service-time", "x-silent-failure"),
}


def assert_error(answer: httpx.Response | Answer, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    body: dict[str, Any] = json.loads(answer.content)
    assert body["error"] == code
    assert body["message"].endswith(".")
    assert body["requestId"] == answer.headers["x-request-id"] != ""
    assert not INTERNAL_HEADERS & {name.lower() for name in answer.headers}
    return body


def test_gives_a_success_the_status_that_the_service_names(client: httpx.Client) -> None:
    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    assert answer.status_code == 202
    assert answer.json() == {"id": "msg_1", "status": "queued", "to": "+6581230000", "text": "hi", "ref": ""}
    assert answer.headers["content-type"] == "application/json"
    assert not INTERNAL_HEADERS & set(answer.headers)


def test_gives_a_success_without_a_named_status_200(client: httpx.Client) -> None:
    answer = client.get("/v1/messages/msg_1")

    assert answer.status_code == 200
    assert answer.json()["status"] == "delivered"


def test_prints_empty_fields_in_lower_camel_case(client: httpx.Client) -> None:
    answer = client.get("/v1/ingress/wkh_1")

    assert answer.json()["toPath"] == ""
    assert answer.json()["signed"] is False


@pytest.mark.parametrize("ready", [True, False])
def test_a_monitor_that_asks_for_no_body_gets_the_status(gate: Gateway, client: httpx.Client, ready: bool) -> None:
    async def answer(_request: object, _context: object) -> object:
        if not ready:
            raise UnavailableError("A part is not ready.")
        return health_service_pb2.CheckReadyResponse(status="ready")

    gate.stubs.behaviours["CheckReady"] = answer
    status = 200 if ready else 503

    asked = client.get("/health/ready")
    answered = everything(gate.port, request("HEAD", "/health/ready", headers=b"connection: close\r\n"))

    assert asked.status_code == status
    assert asked.json()
    assert answered.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json\r\n" in answered
    assert answered.index(b"\r\n\r\n") == len(answered) - 4
    assert len(gate.stubs.calls) == 2


def test_a_deletion_answers_with_an_empty_object(client: httpx.Client) -> None:
    answer = client.delete("/v1/ingress/wkh_1")

    assert (answer.status_code, answer.json()) == (200, {})


def test_passes_a_services_error_body_on(gate: Gateway, client: httpx.Client) -> None:
    async def fail(_request: object, _context: object) -> None:
        raise ValidationError([Issue(path="name", message="Größe 😀 is wrong")])

    gate.stubs.behaviours["CreateIntegration"] = fail

    answer = client.post("/v1/ingress", json={})

    assert answer.status_code == 400
    assert answer.json()["issues"] == [{"path": "name", "message": "Größe 😀 is wrong"}]
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert not INTERNAL_HEADERS & set(answer.headers)


def test_an_error_names_the_request_id_that_the_service_saw(gate: Gateway, client: httpx.Client) -> None:
    async def fail(_request: object, _context: object) -> None:
        raise NotFoundError

    gate.stubs.behaviours["GetMessage"] = fail

    answer = client.get("/v1/messages/msg_1")

    body = assert_error(answer, 404, "not_found")
    assert gate.stubs.calls[0].headers("x-request-id") == [body["requestId"]]


def test_passes_retry_after_on(gate: Gateway, client: httpx.Client) -> None:
    async def fail(_request: object, _context: object) -> None:
        raise UnavailableError("The database is down.", retry_after_seconds=7)

    gate.stubs.behaviours["Ingest"] = fail

    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    assert_error(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "7"


def test_an_unexpected_exception_shows_no_internals(gate: Gateway, client: httpx.Client) -> None:
    async def fail(_request: object, _context: object) -> None:
        raise RuntimeError("password=hunter2")

    gate.stubs.behaviours["Ingest"] = fail

    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    assert_error(answer, 500, "internal")
    assert "hunter2" not in answer.text + str(answer.headers)


@pytest.mark.parametrize("failure", [UnavailableError("The database is down."), RuntimeError("hunter2")])
def test_a_failure_after_the_accepted_status_was_sent_is_no_202(
    gate: Gateway, client: httpx.Client, failure: Exception
) -> None:
    async def fail(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await calls.answer_with(context, 202)
        raise failure

    gate.stubs.behaviours["Ingest"] = fail

    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    expected = (503, "unavailable") if isinstance(failure, UnavailableError) else (500, "internal")
    assert_error(answer, *expected)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503, "unavailable"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503, "unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 503, "unavailable"),
        (grpc.StatusCode.CANCELLED, 503, "unavailable"),
        (grpc.StatusCode.UNKNOWN, 500, "internal"),
        (grpc.StatusCode.UNIMPLEMENTED, 500, "internal"),
        (grpc.StatusCode.INVALID_ARGUMENT, 500, "internal"),
    ],
)
@pytest.mark.parametrize("after_202", [True, False])
def test_a_bare_grpc_status_gets_our_words(
    gate: Gateway, client: httpx.Client, code: grpc.StatusCode, status: int, error: str, after_202: bool
) -> None:
    async def fail(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if after_202:
            await calls.answer_with(context, 202)
        await context.abort(code, "password=hunter2")

    gate.stubs.behaviours["Ingest"] = fail

    answer = client.post("/v1/ingress/ig_a", content=b"{}")

    assert_error(answer, status, error)
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert "hunter2" not in answer.text + str(answer.headers)


def test_a_service_that_hangs_is_given_up_after_four_seconds(gate: Gateway, client: httpx.Client) -> None:
    async def hang(_request: object, _context: object) -> None:
        await asyncio.sleep(30)

    gate.stubs.behaviours["Ingest"] = hang

    answer = client.post("/v1/ingress/ig_a", content=b"{}", headers={"grpc-timeout": "20S"})

    assert_error(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert 3.5 < answer.elapsed.total_seconds() < 5.5


@pytest.mark.parametrize("path", ["/", "/nope", "/v1", "/V1/messages", "/v1/messages/a/b/c"])
def test_an_unknown_address_is_not_found(client: httpx.Client, path: str) -> None:
    assert_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *itertools.product(
            ["OPTIONS", "TRACE", "PROPFIND", "PUT", "DELETE"], ["/v1/messages", "/v1/ingress", "/health/live"]
        ),
        *(("HEAD", "/v1/messages"), ("HEAD", "/v1/ingress")),
    ],
)
def test_a_method_that_no_call_has_is_not_found(gate: Gateway, method: str, path: str) -> None:
    answer = send(gate.port, request(method, path))

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert_error(answer, 404, "not_found")
    assert gate.stubs.calls == []


def test_a_made_up_method_is_refused(gate: Gateway) -> None:
    assert_error(send(gate.port, request("BREW", "/v1/messages")), 400, "validation_error")


def test_a_preflight_grants_nothing(client: httpx.Client) -> None:
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}

    answer = client.options("/v1/messages", headers=preflight)

    assert answer.status_code == 404
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ('{"to":', "no valid JSON at its end"),
        ('{"to":"a" "text":"b"}', 'no valid JSON before `"text":"b"}`: expected , or }'),
        ("not json", "no valid JSON before `not json`"),
        ("[1]", "no JSON object"),
        ('{"to":"\udcff"}', 'no valid JSON before `?"}`'),
        ('{"to":"\\ud800"}', 'no valid JSON before `\\ud800"}`'),
        ('{"a":' * 200 + "1" + "}" * 200, "nested too deep"),
    ],
)
def test_says_where_a_body_is_no_json(gate: Gateway, client: httpx.Client, body: str, what: str) -> None:
    answer = client.post("/v1/messages", content=body.encode("utf-8", "surrogateescape"))

    assert what in assert_error(answer, 400, "invalid_json")["message"]
    assert gate.stubs.calls == []


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "wanted"),
    [
        ("POST", "/v1/messages", {"to": 6581230000, "text": "Hello"}, "to", "must be a string"),
        ("POST", "/v1/messages", {"to": {"a": 1}}, "to", "must not be an object"),
        ("POST", "/v1/messages", {"to": ["a"]}, "", "a field has an array in the place of one value"),
        ("POST", "/v1/ingress", {"maxSegments": 'for "two" type'}, "maxSegments", "must be a whole number"),
        ("POST", "/v1/ingress", {"outboundEnabled": "perhaps"}, "outboundEnabled", "must be true or false"),
        ("POST", "/v1/ingress", {"outboundEvents": ["a", 1]}, "outboundEvents", "has a value that must be a string"),
        ("POST", "/v1/ingress", {"dedupe": "order"}, "dedupe", "must be an object"),
        ("POST", "/v1/ingress", {"dedupe": {"key": 1}}, "dedupe.key", "must be a string"),
        ("PATCH", "/v1/ingress/wkh_1", {"id": "wkh_2"}, "id", "must be left out, or be what the address says"),
        ("POST", "/v1/webhook-deliveries/replay", {"since": "yesterday"}, "since", "must be a time such as"),
        ("GET", "/v1/messages?pageSize=many", None, "pageSize", "must be a whole number"),
        ("GET", "/v1/messages?pageSize=1&pageSize=2", None, "pageSize", "is there twice"),
        ("GET", "/v1/messages?createdAfter=yesterday", None, "createdAfter", "must be a time such as"),
        ("GET", "/v1/messages?createdAfter=2026-06-12", None, "createdAfter", "must be a time such as"),
    ],
)
def test_names_the_field_whose_value_has_the_wrong_type(
    gate: Gateway, client: httpx.Client, method: str, path: str, body: object, field: str, wanted: str
) -> None:
    answer = client.request(method, path, json=body)

    error = assert_error(answer, 400, "validation_error")
    assert [issue["path"] for issue in error["issues"]] == [field]
    assert error["issues"][0]["message"].startswith(wanted)
    assert wanted.lower() in error["message"].lower()
    assert gate.stubs.calls == []


def test_a_query_parameter_as_that_answer_has_it_written(gate: Gateway, client: httpx.Client) -> None:
    answer = client.get("/v1/messages?createdAfter=2026-06-12T14:32:00Z&pageSize=2")

    assert answer.status_code == 200
    assert gate.stubs.calls[0].request.created_after.ToJsonString() == "2026-06-12T14:32:00Z"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 426, "validation_error"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "validation_error"),
        (b"GET /v1/messages HTTP/1.1\r\n\r\n", 400, "validation_error"),
        (request("GET", "/v1/messages%2Fmsg_1"), 400, "validation_error"),
        (request("GET", "/v1/messages/%00"), 400, "validation_error"),
        (request("GET", "/v1/messages/%ff"), 400, "validation_error"),
        (request("POST", "/v1/ingress/%ff", body=b"{}"), 400, "validation_error"),
        (request("GET", "/v1/messages/%ed%a0%80"), 400, "validation_error"),
        (request("GET", "/v1/messages/%c0%af"), 400, "validation_error"),
        (request("GET", "/v1/messages?ref=%C3%BC%ff"), 400, "validation_error"),
        (request("GET", b"/v1/messages/\xff"), 400, "validation_error"),
        (request("POST", "/v1/messages", headers=b"content-length: 3\r\n", body=b"{}"), 400, "validation_error"),
        (b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: odd\r\n\r\n", 400, "validation_error"),
        (request("GET", "/v1/messages", headers=b"a: \x00\r\n"), 400, "validation_error"),
    ],
)
def test_what_is_no_proper_http_is_refused(gate: Gateway, data: bytes, status: int, code: str) -> None:
    body = assert_error(send(gate.port, data), status, code)

    assert body["issues"]
    assert gate.stubs.calls == []


def test_a_query_in_utf8_reaches_the_list(gate: Gateway, client: httpx.Client) -> None:
    answer = client.get("/v1/messages?ref=Gr%C3%B6%C3%9Fe%20%E2%82%AC%F0%9F%98%80%25&to=%2B65&unknown=1")

    assert answer.status_code == 200
    assert gate.stubs.calls[0].request.ref == "Größe €😀%"
    assert gate.stubs.calls[0].request.to == "+65"


def test_a_plus_sign_in_a_query_is_a_blank(gate: Gateway, client: httpx.Client) -> None:
    client.get("/v1/messages?ref=Order+4821%2B1")

    assert gate.stubs.calls[0].request.ref == "Order 4821+1"


def test_a_request_id_of_the_clients_is_replaced(gate: Gateway, client: httpx.Client) -> None:
    forged = "11111111-1111-4111-8111-111111111111"

    answer = client.get("/nope", headers={"x-request-id": forged})

    assert assert_error(answer, 404, "not_found")["requestId"] != forged


def test_every_answer_has_its_own_request_id(client: httpx.Client) -> None:
    answers = [client.get(path) for path in ("/v1/messages", "/v1/messages", "/nope", "/nope")]

    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


def test_the_filter_never_failed(running_gateway: Gateway, client: httpx.Client) -> None:
    client.post("/v1/ingress/ig_a", content=b"{}")

    assert running_gateway.stats("lua.*errors") == {"http.public.lua.errors": 0}
