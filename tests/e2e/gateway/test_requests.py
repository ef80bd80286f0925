"""What of a request reaches a service, and what must never reach one."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from datetime import datetime
from typing import Any

import grpc
import httpx
import pytest

from textway.delivery.v1 import messages_service_pb2, messages_service_pb2_grpc, submission_service_pb2
from textway.delivery.v1 import submission_service_pb2_grpc as submission_grpc

from .conftest import Gateway
from .raw import request, send

AWKWARD = b' {"text" : "caf\\u00e9 \xc3\xa9 \\/",\r\n\t"to":"+65 8123",  "to":1.00}\n\n'


@pytest.mark.parametrize("body", [AWKWARD, b"", b"\xff\xfe\x00", b"not json", b"[1,2", b'"a"'])
@pytest.mark.parametrize("path", ["/v1/ingress/ig_a", "/v1/ingress/wkh_a/explain"])
def test_a_payload_arrives_byte_for_byte(gate: Gateway, client: httpx.Client, path: str, body: bytes) -> None:
    sent = hmac.digest(b"secret", body, hashlib.sha256)

    client.post(path, content=body, headers={"content-type": "text/odd; charset=latin1"})

    (call,) = gate.stubs.calls
    assert hmac.digest(b"secret", call.request.payload.data, hashlib.sha256) == sent
    assert call.request.payload.data == body


def test_a_payloads_content_type_arrives_as_sent(gate: Gateway, client: httpx.Client) -> None:
    client.post("/v1/ingress/ig_a", content=b"{}", headers={"content-type": "text/odd; charset=latin1"})
    send(gate.port, request("POST", "/v1/ingress/ig_a", body=b"{}"))

    assert [call.request.payload.content_type for call in gate.stubs.calls] == ["text/odd; charset=latin1", ""]


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+json", "application/grpc-web"])
def test_json_that_is_called_grpc_is_json(gate: Gateway, client: httpx.Client, content_type: str) -> None:
    headers = {"content-type": content_type}

    posted = client.post("/v1/ingress/ig_a", content=b'{"a":1}', headers=headers)
    sent = client.post("/v1/messages", content=b'{"to":"+6581230000","text":"x"}', headers=headers)
    listed = client.get("/v1/messages", headers=headers)

    assert [answer.status_code for answer in (posted, sent, listed)] == [202, 202, 200]
    ingest, send_message, _ = gate.stubs.calls
    assert ingest.request.payload.data == b'{"a":1}'
    assert send_message.request.text == "x"
    assert listed.json()


def test_a_compressed_payload_arrives_compressed(gate: Gateway, client: httpx.Client) -> None:
    client.post("/v1/ingress/ig_a", content=b"\x1f\x8b rest", headers={"content-encoding": "gzip"})

    (call,) = gate.stubs.calls
    assert call.request.payload.data == b"\x1f\x8b rest"
    assert call.headers("content-encoding") == ["gzip"]


def test_headers_arrive_in_lower_case_and_repeated_ones_all(gate: Gateway) -> None:
    headers = b"X-Hub-Signature: sha256=AB==\r\nidempotency-key: k1\r\nidempotency-key: k2\r\nx_odd_name: 1\r\n"

    send(gate.port, request("POST", "/v1/ingress/ig_a", headers=headers, body=b"{}"))

    (call,) = gate.stubs.calls
    assert call.headers("x-hub-signature") == ["sha256=AB=="]
    assert ",".join(str(value) for value in call.headers("idempotency-key")).split(",") == ["k1", "k2"]
    assert call.headers("x_odd_name") == ["1"]


@pytest.mark.parametrize("value", ["Küche".encode(), "😀".encode(), b"\xff\xfe", b"\t tab", b""])
def test_a_header_with_odd_bytes_is_no_server_error(gate: Gateway, value: bytes) -> None:
    answer = send(gate.port, request("POST", "/v1/ingress/ig_a", headers=b"x-odd: " + value + b"\r\n", body=b"{}"))

    assert answer.status_code == 202


@pytest.mark.parametrize(
    "header",
    [
        *(b"x-trace-bin: ???", b"grpc-trace-bin: AAA", b"grpc-status-details-bin: x", b"grpc-encoding: bogus"),
        *(b"grpc-timeout: 1n", b"grpc-timeout: 99999999H", b"grpc-accept-encoding: x", b"grpc-message-type: x"),
        *(b"x-envoy-upstream-rq-timeout-ms: 1", b"x-envoy-max-retries: 9", b"x-envoy-retry-on: 5xx", b"te: gzip"),
        *(b"x-http-status: 500", b"x-error-body: {}", b"accept-encoding: gzip", b"connection: te, x-request-id"),
        *(
            b"x_envoy_original_path: /a",
            b"x-envoy-original-path: /textway.delivery.v1.SubmissionService/SubmitMessages",
        ),
    ],
)
def test_a_header_that_means_something_inside_has_no_effect(gate: Gateway, header: bytes) -> None:
    answer = send(gate.port, request("POST", "/v1/ingress/ig_a", headers=header + b"\r\n", body=b"{}"))

    (call,) = gate.stubs.calls
    assert answer.status_code == 202
    assert answer.headers.get("content-encoding") is None
    assert call.method == "Ingest"
    assert call.time_remaining is not None
    assert 3 < call.time_remaining <= 4


@pytest.mark.parametrize("mark", "!#$%&'*+^|~`")
def test_a_header_whose_name_grpc_can_not_carry_stays_there(gate: Gateway, mark: str) -> None:
    headers = f"x-odd{mark}: 1\r\n{mark}: 2\r\n{mark}x: 3\r\nX-Odd_0.a-: 4\r\n".encode()

    for path in ("/v1/ingress/ig_a", "/v1/messages"):
        answer = send(gate.port, request("POST", path, headers=headers, body=b"{}"))

        call = gate.stubs.calls[-1]
        assert answer.status_code == 202
        assert ("x-odd_0.a-", "4") in call.metadata
        assert [key for key, _ in call.metadata if mark in key] == []


def test_what_the_gateway_knows_of_the_address_stays_there(gate: Gateway, client: httpx.Client) -> None:
    client.post("/v1/ingress/ig_secret", content=b"{}", headers={"x-grpc-odd": "kept", "grpc-odd": "dropped"})

    (call,) = gate.stubs.calls
    names = {key for key, _ in call.metadata}
    assert "x-grpc-odd" in names
    assert not names & {"x-envoy-original-path", "x-envoy-original-method", "grpc-odd"}
    assert "ig_secret" not in str(call.metadata)


@pytest.mark.parametrize(
    ("method", "path", "rpc", "field", "expected"),
    [
        ("POST", "/v1/ingress/ig_a?ingressKey=ig_b&ingress_key=ig_b", "Ingest", "ingress_key", "ig_a"),
        ("POST", "/v1/ingress/ig_a?", "Ingest", "ingress_key", "ig_a"),
        ("POST", "/v1/ingress/ig_a?utm_source=x&%ff", None, "", ""),
        ("POST", "/v1/ingress/wkh_a/explain?integrationId=wkh_b", "Explain", "integration_id", "wkh_a"),
        ("GET", "/v1/ingress/wkh_a?id=wkh_b", "GetIntegration", "id", "wkh_a"),
        ("PUT", "/v1/ingress/wkh_a?id=wkh_b", "ReplaceIntegration", "id", "wkh_a"),
        ("PATCH", "/v1/ingress/wkh_a?id=wkh_b", "UpdateIntegration", "id", "wkh_a"),
        ("DELETE", "/v1/ingress/wkh_a?id=wkh_b", "DeleteIntegration", "id", "wkh_a"),
        ("POST", "/v1/ingress/wkh_a/rotate?id=wkh_b", "RotateIngressKey", "id", "wkh_a"),
        ("GET", "/v1/messages/msg_a?id=msg_b", "GetMessage", "id", "msg_a"),
        ("GET", "/v1/messages/msg_a/timeline?id=msg_b", "GetMessageTimeline", "id", "msg_a"),
        ("POST", "/v1/messages/msg_a/cancel?id=msg_b", "CancelMessage", "id", "msg_a"),
        ("POST", "/v1/messages/msg_a/resolve?id=msg_b", "ResolveMessage", "id", "msg_a"),
        ("GET", "/v1/webhook-deliveries/whd_a?id=whd_b", "GetWebhookDelivery", "id", "whd_a"),
        ("POST", "/v1/webhook-deliveries/whd_a/replay?id=whd_b", "ReplayWebhookDelivery", "id", "whd_a"),
        ("POST", "/v1/webhook-deliveries/replay?dryRun=true", "ReplayWebhookDeliveries", "dry_run", False),
        ("POST", "/v1/ingress/wkh_a/send-example?integrationId=b", "SendIntegrationExample", "integration_id", "wkh_a"),
        ("GET", "/v1/webhook-deliveries?messageId=msg_a", "ListWebhookDeliveries", "message_id", "msg_a"),
        ("POST", "/v1/messages?to=+6581230000", "SendMessage", "to", ""),
        ("GET", "/v1/messages?ref=a?b&status=sent", "ListMessages", "ref", "a?b"),
        ("GET", "/v1/ingress?pageSize=7", "ListIntegrations", "page_size", 7),
        ("GET", "//v1///messages/./msg_b/../msg_a", "GetMessage", "id", "msg_a"),
    ],
)
def test_the_path_names_the_thing_and_no_query_overrides_it(
    gate: Gateway, method: str, path: str, rpc: str | None, field: str, expected: Any
) -> None:
    body = b"{}" if method in {"POST", "PUT", "PATCH"} else b""

    answer = send(gate.port, request(method, path, body=body))

    if rpc is None:
        assert answer.status_code == 400
        return
    (call,) = gate.stubs.calls
    assert call.method == rpc
    assert getattr(call.request, field) == expected


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_body_that_names_another_thing_than_the_path_is_refused(
    gate: Gateway, client: httpx.Client, method: str
) -> None:
    same = client.request(method, "/v1/ingress/wkh_a", json={"id": "wkh_a", "name": "x"})
    other = client.request(method, "/v1/ingress/wkh_a", json={"id": "wkh_b", "name": "x"})

    assert (same.status_code, other.status_code) == (200, 400)
    assert [call.request.id for call in gate.stubs.calls] == ["wkh_a"]


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("x-envoy-original-path", "/v1/messages"), ("x-envoy-original-method", "POST")),
        (("x_envoy_original_path", "/v1/messages"),),
    ],
)
async def test_native_grpc_is_refused_for_public_and_internal_services(
    gate: Gateway, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        public = messages_service_pb2_grpc.MessagesServiceStub(channel)
        internal = submission_grpc.SubmissionServiceStub(channel)
        refused = []
        for call, message in (
            (public.SendMessage, messages_service_pb2.SendMessageRequest()),
            (internal.SubmitMessages, submission_service_pb2.SubmitMessagesRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(message, timeout=5, metadata=metadata)
            refused.append(error.value.code())

    assert refused == [grpc.StatusCode.UNIMPLEMENTED] * 2
    assert gate.stubs.calls == []


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc", "application/grpc-web", "text/plain"])
@pytest.mark.parametrize(
    "rpc",
    ["textway.delivery.v1.SubmissionService/SubmitMessages", "textway.delivery.v1.MessagesService/SendMessage"],
)
def test_an_rpcs_own_name_is_no_address(gate: Gateway, client: httpx.Client, rpc: str, content_type: str) -> None:
    headers = {"content-type": content_type, "x-envoy-original-path": "/v1/messages"}

    answer = client.post(f"/{rpc}", content=b"\0\0\0\0\0", headers=headers)

    assert answer.status_code == 404 or answer.headers.get("grpc-status") == "12"
    assert gate.stubs.calls == []


def test_the_access_log_names_the_call_and_no_secret(gate: Gateway, client: httpx.Client) -> None:
    client.post("/v1/ingress/ig_topsecret?token=topsecret", content=b"{}", headers={"authorization": "topsecret"})
    last = client.get("/v1/ingress/ig_topsecret/nope?token=topsecret")

    lines = gate.access_log_until(last.headers["x-request-id"])
    assert "textway.ingress.v1.IngressService/Ingest" in lines[-2]
    assert '"status":202' in lines[-2]
    assert '"status":404' in lines[-1]
    assert not [line for line in lines if "topsecret" in line]


TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01", TRACE_ID),
        (f"topsecret 00-{TRACE_ID}-00f067aa0ba902b7-01", None),
        ("topsecret", None),
        ("", None),
    ],
)
def test_the_access_log_has_the_keys_of_the_services_logs_and_of_a_trace_its_id(
    gate: Gateway, client: httpx.Client, header: str, shown: str | None
) -> None:
    answer = client.post("/v1/ingress/ig_x", content=b"{}", headers={"traceparent": header})

    line = json.loads(gate.access_log_until(answer.headers["x-request-id"])[-1])
    assert line.get("trace_id") == shown
    assert "topsecret" not in str(line)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["service"], line["level"], line["event"]) == ("gateway", "info", "request")
    assert line["replica"] == socket.gethostname()
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
