"""Errors on the wire: a code for every kind, a body that can travel in a header, and what a caller's caller is told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import textway
from servicekit.error_translation import (
    _BY_KIND,
    ERROR_DOMAIN,
    STATUS_DETAILS_KEY,
    _packed,
    _status,
    error_body,
    from_rpc_error,
)
from servicekit.errors import (
    ConflictError,
    InternalError,
    Issue,
    Kind,
    NotFoundError,
    RemoteError,
    ServiceError,
    UnavailableError,
    ValidationError,
)

SECRET = "password=hunter2"
HOSTILE_TEXTS = [
    "two\r\nlines: and a header",
    "\x00\x1b[31m\x7f",
    "\u2028\u2029\x85\u202e",
    "é 😀 漢字",
    "\ud800 lone",
    '"},"error":"ok","x":{"',
    "\\",
    "",
]


class RefusedError(ServiceError):
    """A failure with something to say."""

    kind = Kind.INVALID_INPUT
    reason = "INVALID_RECIPIENT"


def rpc_error(code: grpc.StatusCode, details: bytes | None = None) -> grpc.aio.AioRpcError:
    """Return what a client sees of a call that failed so."""
    trailers = [] if details is None else [(STATUS_DETAILS_KEY, details)]
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=SECRET)


def sent(error: ServiceError) -> grpc.aio.AioRpcError:
    """Return what a client sees of one of our own errors."""
    code, _ = _BY_KIND[error.kind]
    return rpc_error(code, _status(error, code).SerializeToString())


def test_every_kind_has_a_code_of_its_own_and_a_status():
    codes = [code for code, _ in _BY_KIND.values()]
    statuses = [status for _, status in _BY_KIND.values()]

    assert set(_BY_KIND) == set(Kind)
    assert len(set(codes)) == len(codes)
    assert all(400 <= status <= 599 for status in statuses)
    assert grpc.StatusCode.OK not in codes


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_body_is_one_line_of_ascii_and_valid_json_whatever_it_tells(text):
    body = error_body(RefusedError(text, to=text, nested={"tried": [text]}), text)

    assert body.isascii()
    assert body.isprintable()
    assert json.loads(body) == {
        "error": "invalid_recipient",
        "message": text,
        "requestId": text,
        "to": text,
        "nested": {"tried": [text]},
    }


def test_a_body_has_nothing_but_what_is_public():
    body = error_body(InternalError(), "req-1")

    assert list(json.loads(body)) == ["error", "message", "requestId"]


def test_a_status_names_the_reason_and_every_wrong_field():
    error = ValidationError([Issue(path="to", message="is required"), Issue(path="text", message="is too long")])
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()

    status = _status(error, grpc.StatusCode.INVALID_ARGUMENT)

    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("VALIDATION_ERROR", ERROR_DOMAIN)
    assert status.details[1].Unpack(bad_request)
    assert [(each.field, each.description) for each in bad_request.field_violations] == [
        ("to", "is required"),
        ("text", "is too long"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        RefusedError(
            "'x' is no phone number.", to="x\u2028😀", reason="it is empty", limit=3, tried={"to": ["a", "b"]}
        ),
        ValidationError([Issue(path="to", message="is required")]),
        NotFoundError(),
        ConflictError("The message is sent."),
    ],
)
def test_passes_on_what_another_service_said_on_purpose(error):
    passed_on = from_rpc_error(sent(error), "Delivery")

    assert isinstance(passed_on, RemoteError)
    assert (passed_on.kind, passed_on.reason, passed_on.message) == (error.kind, error.reason, error.message)
    assert passed_on.extras == error.extras


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.UNAVAILABLE, Kind.INTERNAL)])
def test_passes_on_every_kind_but_outages_and_defects(kind):
    passed_on = from_rpc_error(sent(RemoteError(kind, "ANY", "Said on purpose.", {})), "Delivery")

    assert (passed_on.kind, passed_on.message) == (kind, "Said on purpose.")


@pytest.mark.parametrize("error", [UnavailableError(SECRET), RemoteError(Kind.INTERNAL, "INTERNAL", SECRET, {})])
def test_hides_another_services_outages_and_defects(error):
    hidden = from_rpc_error(sent(error), "Delivery")

    assert isinstance(hidden, UnavailableError)
    assert hidden.message.startswith("Delivery can not be reached")
    assert SECRET not in error_body(hidden, "")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_hides_what_grpc_itself_says(code):
    hidden = from_rpc_error(rpc_error(code), "Integrations")

    assert isinstance(hidden, UnavailableError)
    assert hidden.message.startswith("Integrations can not be reached")
    assert SECRET not in error_body(hidden, "")


def test_hides_the_errors_of_other_domains():
    foreign = error_details_pb2.ErrorInfo(reason="STOCKOUT", domain="googleapis.com")
    status = status_pb2.Status(code=5, message=SECRET, details=[_packed(foreign)])

    hidden = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, status.SerializeToString()), "Delivery")

    assert isinstance(hidden, UnavailableError)


def test_hides_a_status_without_details():
    status = status_pb2.Status(code=5, message=SECRET)

    hidden = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, status.SerializeToString()), "Delivery")

    assert isinstance(hidden, UnavailableError)


def of_a_newer_release(code: grpc.StatusCode, extra: str) -> grpc.aio.AioRpcError:
    info = error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain=ERROR_DOMAIN, metadata={"extra": extra})
    return rpc_error(code, status_pb2.Status(code=5, details=[_packed(info)]).SerializeToString())


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(rpc_error(grpc.StatusCode.NOT_FOUND, b"\xff\xff\xff"), id="no status"),
        pytest.param(of_a_newer_release(grpc.StatusCode.DATA_LOSS, "1"), id="a code that is no kind's"),
        pytest.param(of_a_newer_release(grpc.StatusCode.NOT_FOUND, "plain"), id="an extra that is no JSON"),
    ],
)
def test_hides_what_it_can_not_read(error):
    assert isinstance(from_rpc_error(error, "Delivery"), UnavailableError)


def modules_of_the_contract() -> list[str]:
    root = Path(next(iter(textway.__path__)))
    return [".".join(("textway", *file.relative_to(root).with_suffix("").parts)) for file in root.rglob("*_pb2.py")]


def test_the_contract_has_only_calls_of_the_forms_that_are_guarded():
    # A call that streams one way only would pass the interceptor by, and its exceptions' texts would reach the caller.
    files = [importlib.import_module(name).DESCRIPTOR for name in modules_of_the_contract()]
    methods = [method for file in files for service in file.services_by_name.values() for method in service.methods]

    assert len(methods) > 20
    assert [method.full_name for method in methods if method.client_streaming != method.server_streaming] == []
