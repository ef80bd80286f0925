"""WebhookExamplesService's RPCs: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc

from servicekit import calls
from servicekit.errors import NotFoundError
from servicekit.ids import is_id
from services.delivery import webhook_convert
from services.delivery.api_keys import ApiKeys
from services.delivery.send_example import SendExample
from textway.delivery.v1 import webhook_examples_service_pb2 as examples_pb2
from textway.delivery.v1.webhook_examples_service_pb2_grpc import WebhookExamplesServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class WebhookExamplesServicer(WebhookExamplesServiceServicer):
    """Tries webhooks; every call is made with an API key."""

    def __init__(self, *, keys: ApiKeys, sending: SendExample) -> None:
        self._keys = keys
        self._sending = sending

    async def SendIntegrationExample(
        self, request: examples_pb2.SendIntegrationExampleRequest, context: Context
    ) -> examples_pb2.WebhookExample:
        """Send an example to an integration's outboundUrl."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        if not is_id(request.integration_id, "wkh"):
            raise NotFoundError
        return webhook_convert.example(await self._sending.to_integration(tenant_id, request.integration_id))

    async def SendWebhookExample(
        self, request: examples_pb2.SendWebhookExampleRequest, context: Context
    ) -> examples_pb2.WebhookExample:
        """Send an example to the tenant's webhook."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        return webhook_convert.example(await self._sending.to_webhook(tenant_id))
