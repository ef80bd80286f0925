"""InboundService's RPCs: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc

from servicekit import calls
from services.delivery import inbound_convert
from services.delivery.api_keys import ApiKeys
from services.delivery.reply_store import ReplyStore
from textway.delivery.v1 import inbound_service_pb2, inbound_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class InboundServicer(inbound_service_pb2_grpc.InboundServiceServicer):
    """Lists what came in; every call is made with an API key."""

    def __init__(self, *, keys: ApiKeys, replies: ReplyStore) -> None:
        self._keys = keys
        self._replies = replies

    async def ListInbound(
        self, request: inbound_service_pb2.ListInboundRequest, context: Context
    ) -> inbound_service_pb2.ListInboundResponse:
        """List received messages, newest first."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        wanted, page = inbound_convert.list_request(request)
        found = await self._replies.list_inbound(tenant_id, wanted, page.and_one_more)
        return inbound_convert.list_response(found, page)
