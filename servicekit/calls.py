"""What a call carries besides its message: the request's id, the caller's key, the deadline."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

import grpc
import structlog

from servicekit.errors import UnauthorizedError
from servicekit.tracing import TRACEPARENT

REQUEST_ID_KEY: Final = "x-request-id"

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def bind(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Remember the call's request id for its logs, its errors and the calls that it makes.

    Returns the `traceparent` that came with it; empty for none.
    """
    traceparent = ""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            request_id = value if isinstance(value, str) else value.decode("ascii", "replace")
            _request_id.set(request_id)
            structlog.contextvars.bind_contextvars(request_id=request_id)
        elif key == TRACEPARENT:
            traceparent = value if isinstance(value, str) else value.decode("ascii", "replace")
    return traceparent


def request_id() -> str:
    """Return the id of the request that is being served; empty outside one."""
    return _request_id.get()


def headers(context: grpc.aio.ServicerContext[Any, Any], name: str) -> list[str]:
    """Return every value of one header, given in lower case; bytes that are no UTF-8 are replaced."""
    return [
        value if isinstance(value, str) else value.decode("utf-8", "replace")
        for key, value in context.invocation_metadata() or ()
        if key == name
    ]


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
