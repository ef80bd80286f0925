"""CallbacksService's RPCs: a carrier's call as it came, and the answer that it wants to hear."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.api.httpbody_pb2 import HttpBody

from servicekit import calls
from servicekit.clock import Clock
from services.delivery.carriers.base import Callback, CallbackAnswer, CallbackKind
from services.delivery.receive_callback import ReceiveCallback
from textway.delivery.v1 import callbacks_service_pb2, callbacks_service_pb2_grpc

# Set by the gateway (gateway/answers.lua); what a client sends under these names never gets here.
METHOD_HEADER: Final = "x-textway-method"
QUERY_HEADER: Final = "x-textway-query"
# What is between the gateway and us, and no word of the carrier's. gRPC has a content type of its own.
INTERNAL_PREFIXES: Final = ("x-textway-", "x-envoy-", "x-forwarded-", "grpc-")
INTERNAL: Final = frozenset({"content-type", "te", "x-request-id"})

Context = grpc.aio.ServicerContext[Any, Any]


class CallbacksServicer(callbacks_service_pb2_grpc.CallbacksServiceServicer):
    """No API key: each carrier verifies its own callbacks."""

    def __init__(self, *, receive: ReceiveCallback, clock: Clock, public_url: str) -> None:
        self._receive = receive
        self._clock = clock
        self._public_url = public_url.rstrip("/")

    async def ReceiveStatus(self, request: callbacks_service_pb2.ReceiveStatusRequest, context: Context) -> HttpBody:
        """Take in a receipt."""
        callback = self._callback(CallbackKind.STATUS, request.carrier, request.payload, context)
        return await _answered(await self._receive(request.carrier, callback), context)

    async def ReceiveInbound(self, request: callbacks_service_pb2.ReceiveInboundRequest, context: Context) -> HttpBody:
        """Take in an inbound SMS."""
        callback = self._callback(CallbackKind.INBOUND, request.carrier, request.payload, context)
        return await _answered(await self._receive(request.carrier, callback), context)

    def _callback(self, kind: CallbackKind, carrier: str, payload: HttpBody, context: Context) -> Callback:
        query = next(iter(calls.headers(context, QUERY_HEADER)), "")
        # The carrier signs the address that it was given, whatever proxies stand between.
        address = f"{self._public_url}/v1/carriers/{carrier}/{kind.value}"
        return Callback(
            kind=kind,
            method=next(iter(calls.headers(context, METHOD_HEADER)), "POST"),
            url=f"{address}?{query}" if query else address,
            query=query,
            headers=_headers(payload, context),
            body=payload.data,
            received_at=self._clock.now(),
        )


def _headers(payload: HttpBody, context: Context) -> dict[str, str]:
    headers: dict[str, str] = {"content-type": payload.content_type} if payload.content_type else {}
    for name, values in calls.all_headers(context).items():
        if name not in headers and name not in INTERNAL and not name.startswith(INTERNAL_PREFIXES):
            headers[name] = ", ".join(values)
    return headers


async def _answered(answer: CallbackAnswer, context: Context) -> HttpBody:
    await calls.answer_with(context, answer.status)
    # Without a type the gateway would say JSON.
    return HttpBody(content_type=answer.content_type or "text/plain", data=answer.body)
