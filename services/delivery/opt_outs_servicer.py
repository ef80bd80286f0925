"""OptOutsService's RPCs: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2

from servicekit import calls
from servicekit.errors import NotFoundError
from servicekit.ids import is_id
from services.delivery import opt_outs_convert
from services.delivery.api_keys import ApiKeys
from services.delivery.reply_store import ReplyStore
from textway.delivery.v1 import opt_outs_service_pb2, opt_outs_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class OptOutsServicer(opt_outs_service_pb2_grpc.OptOutsServiceServicer):
    """Lists and lifts opt-outs; every call is made with an API key."""

    def __init__(self, *, keys: ApiKeys, replies: ReplyStore) -> None:
        self._keys = keys
        self._replies = replies

    async def ListOptOuts(
        self, request: opt_outs_service_pb2.ListOptOutsRequest, context: Context
    ) -> opt_outs_service_pb2.ListOptOutsResponse:
        """List opt-outs, newest first."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        number, page = opt_outs_convert.list_request(request)
        found = await self._replies.list_opt_outs(tenant_id, number, page.and_one_more)
        return opt_outs_convert.list_response(found, page)

    async def DeleteOptOut(
        self, request: opt_outs_service_pb2.DeleteOptOutRequest, context: Context
    ) -> empty_pb2.Empty:
        """Let messages go that way again."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        if not is_id(request.id, "opt") or not await self._replies.delete_opt_out(tenant_id, request.id):
            raise NotFoundError
        await calls.answer_with(context, 204)
        return empty_pb2.Empty()
