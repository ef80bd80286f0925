"""The gRPC service of tenants' webhooks: each method converts, calls a use case and converts back."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from servicekit import calls
from servicekit.idempotency import idempotency_key, replay_header
from services.integrations import convert, webhook_convert
from services.integrations.answer_once import FirstAnswer
from services.integrations.authenticate import Authenticator
from services.integrations.manage_webhooks import ManageWebhooks
from textway.integrations.v1 import webhooks_service_pb2 as public_pb2
from textway.integrations.v1.webhooks_service_pb2_grpc import WebhooksServiceServicer

# grpc does not say what a context is for; requests and responses are typed.
Context = grpc.aio.ServicerContext[Any, Any]


class WebhooksServicer(WebhooksServiceServicer):
    """What a tenant calls, through the gateway or with its own gRPC client."""

    def __init__(self, *, authenticator: Authenticator, manage: ManageWebhooks) -> None:
        self._authenticator = authenticator
        self._manage = manage

    async def PutWebhook(self, request: public_pb2.PutWebhookRequest, context: Context) -> public_pb2.Webhook:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        return webhook_convert.to_saved(await self._manage.put(tenant_id, webhook_convert.fields_from(request)))

    async def GetWebhook(self, request: public_pb2.GetWebhookRequest, context: Context) -> public_pb2.Webhook:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        return webhook_convert.to_webhook(await self._manage.get(tenant_id))

    async def RotateWebhookSecret(
        self, request: public_pb2.RotateWebhookSecretRequest, context: Context
    ) -> public_pb2.RotateWebhookSecretResponse:
        """See the contract."""
        tenant_id = await self._tenant_id(context)
        call = (tenant_id, "POST /v1/webhooks/rotate", idempotency_key(context))
        once = convert.once(call, request, webhook_convert.to_rotation)
        made = await self._manage.rotate(tenant_id, webhook_convert.overlap_seconds(request), once)
        await calls.answer_with(context, 200, **replay_header(replayed=isinstance(made, FirstAnswer)))
        return webhook_convert.to_rotated(made)

    async def DeleteWebhook(self, request: public_pb2.DeleteWebhookRequest, context: Context) -> Empty:
        """See the contract."""
        await self._manage.delete(await self._tenant_id(context))
        return Empty()

    async def _tenant_id(self, context: Context) -> str:
        caller = await self._authenticator.caller_of(calls.bearer_token(context))
        return caller.tenant_id
