"""Calls to other services: balanced over all replicas, a deadline on every call, and errors in our own words."""

from __future__ import annotations

import json
from typing import Final, TypeVar

import grpc

from servicekit import calls, tracing
from servicekit.error_translation import from_rpc_error
from servicekit.errors import ServiceError
from servicekit.settings import UNIX
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
    # A replica that is cut off without a word is noticed after 3 seconds under load and 6 without. The keepalive alone
    # does not do it: while calls are made, gRPC has a ping of its own under way, which has a minute to come back.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that comes back is to be found within a second, not after a backoff of two minutes; and an address
    # that swallows what is sent to it is given up after 2 seconds, not 20.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A name is looked up again whenever a connection ends, which servers see to; no more often than this.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
)


def open_channel(
    address: str, identity: Identity | None = None, *, called: str = "", health_of: str = ""
) -> grpc.aio.Channel:
    """Return a channel to `host:port`, or to `unix:` and the path of a socket.

    It connects when it is first used, and again whenever that is lost.
    Calls take turns over all addresses of the host. With `health_of`, the name of a gRPC service, a replica gets calls
    only while it says that this service is serving: one that is being stopped gets no more before it stops listening.
    With an identity the channel speaks TLS, and only to servers whose certificates name `host`, or what they are
    `called`; to a socket it speaks plaintext.

    A call that no server has begun (refused, or sent to a connection that was being closed) is made again elsewhere by
    gRPC itself; any other never.
    """
    options: tuple[tuple[str, str | int], ...] = (*_OPTIONS, ("grpc.service_config", _service_config(health_of)))
    if identity is None or address.startswith(UNIX):
        return grpc.aio.insecure_channel(address, options=options)
    if called:
        options = (*options, ("grpc.ssl_target_name_override", called))
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=options)


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    part: str,
    timeout_seconds: float,
) -> Response:
    """Make one unary call; raise a ServiceError when it fails, in which `part` names who was called."""
    if not tracing.traceparent():
        # Nobody traces, or this is no part of what anybody traces.
        return await _call(method, request, part, timeout_seconds)
    name = type(request).__name__.removesuffix("Request")
    with tracing.span(f"{part}/{name}", kind=tracing.Kind.CLIENT) as span:
        try:
            return await _call(method, request, part, timeout_seconds)
        except ServiceError as error:
            span.fail(error.reason)
            raise


async def _call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, part: str, timeout_seconds: float
) -> Response:
    try:
        return await method(request, timeout=timeout_seconds, metadata=_metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, part) from error


def _service_config(health_of: str) -> str:
    health_check = {"healthCheckConfig": {"serviceName": health_of}} if health_of else {}
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **health_check})


def _metadata() -> tuple[tuple[str, str], ...]:
    request_id = calls.request_id()
    own = ((calls.REQUEST_ID_KEY, request_id),) if request_id else ()
    return (*own, *tracing.headers().items()) if tracing.is_on() else own
