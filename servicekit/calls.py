"""What a call carries besides its message: the request's id, the caller's key, the deadline."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import grpc

from servicekit import logs
from servicekit.errors import UnauthorizedError
from servicekit.tracing import TRACEPARENT

REQUEST_ID_KEY: Final = "x-request-id"

_request_id: ContextVar[str] = ContextVar("request_id", default="")


class _Bound(NamedTuple):
    context: object
    headers: Mapping[str, tuple[str, ...]]


# gRPC makes a call's metadata anew each time that it is asked for it.
_bound: ContextVar[_Bound | None] = ContextVar("bound_call", default=None)


def bind(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Remember the call's request id for its logs, its errors and the calls that it makes.

    Returns the `traceparent` that came with it; empty for none.
    """
    headers = _read(context)
    _bound.set(_Bound(context, headers))
    request_ids = headers.get(REQUEST_ID_KEY)
    if request_ids:
        _request_id.set(request_ids[-1])
        logs.bind(request_id=request_ids[-1])
    return headers.get(TRACEPARENT, ("",))[-1]


def request_id() -> str:
    """Return the id of the request that is being served; empty outside one."""
    return _request_id.get()


def all_headers(context: grpc.aio.ServicerContext[Any, Any]) -> Mapping[str, tuple[str, ...]]:
    """Return every value of every header, by its name in lower case; bytes that are no UTF-8 are replaced."""
    bound = _bound.get()
    return bound.headers if bound is not None and bound.context is context else _read(context)


def headers(context: grpc.aio.ServicerContext[Any, Any], name: str) -> tuple[str, ...]:
    """Return every value of one header, given in lower case."""
    return all_headers(context).get(name, ())


def _read(context: grpc.aio.ServicerContext[Any, Any]) -> Mapping[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    for key, value in context.invocation_metadata() or ():
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        headers[key] = (*headers[key], text) if key in headers else (text,)
    return headers


def bearer_token(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the token of `Authorization: Bearer <token>`; raise UnauthorizedError when there is none."""
    values = headers(context, "authorization")
    if not values:
        raise UnauthorizedError("Send your API key in the header `Authorization: Bearer sk_live_...`.")
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("The header Authorization must read `Bearer sk_live_...`.")
    return token.strip()


async def answer_with(context: grpc.aio.ServicerContext[Any, Any], http_status: int, **headers: str) -> None:
    """Give the gateway's answer another status than 200, and headers: `retry_after="1"` becomes `retry-after: 1`.

    Call it last, when nothing can fail any more.
    """
    named = ((name.replace("_", "-"), value) for name, value in headers.items())
    await context.send_initial_metadata((("x-http-status", str(http_status)), *named))
