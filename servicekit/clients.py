"""Calls to other services: one channel each, a deadline on every call, and errors in our own words."""

from __future__ import annotations

from typing import Final, TypeVar

import grpc

from servicekit import calls
from servicekit.error_translation import from_rpc_error
from servicekit.tls import Identity

MAX_METADATA_BYTES: Final = 65_536
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

Request = TypeVar("Request")
Response = TypeVar("Response")

_OPTIONS: Final = (
    # grpc refuses headers beyond 8 KiB at random unless told otherwise, and Envoy lets 16 KiB through.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer that is cut off without a word is noticed after 15 seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A service that comes back is to be found within a second, not after a backoff of two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


def open_channel(address: str, identity: Identity | None = None, *, called: str = "") -> grpc.aio.Channel:
    """Return a channel to `host:port`. It connects when it is first used, and again whenever that is lost.

    With an identity it speaks TLS, and only to a server whose certificate names `host`, or what it is `called`.
    """
    if identity is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", called)) if called else _OPTIONS
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=options)


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    part: str,
    timeout_seconds: float,
) -> Response:
    """Make one unary call; raise a ServiceError when it fails, in which `part` names who was called."""
    try:
        return await method(request, timeout=timeout_seconds, metadata=_metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, part) from error


def _metadata() -> tuple[tuple[str, str], ...]:
    request_id = calls.request_id()
    return ((calls.REQUEST_ID_KEY, request_id),) if request_id else ()
