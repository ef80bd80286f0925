"""WebhookDeliveriesService's RPCs: convert, call, convert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from servicekit import calls
from servicekit.clock import Clock
from servicekit.errors import NotFoundError
from servicekit.ids import is_id
from services.delivery import webhook_convert
from services.delivery.api_keys import ApiKeys
from services.delivery.replay_webhooks import Replayed, ReplayWebhooks
from services.delivery.webhook_store import WebhookStore
from services.delivery.webhooks import WebhookLog
from textway.delivery.v1 import webhook_deliveries_service_pb2 as deliveries_pb2
from textway.delivery.v1.webhook_deliveries_service_pb2_grpc import WebhookDeliveriesServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class WebhookDeliveriesServicer(WebhookDeliveriesServiceServicer):
    """Tells what became of webhooks, and sends them again; every call is made with an API key."""

    def __init__(
        self,
        *,
        keys: ApiKeys,
        store: WebhookStore,
        replaying: ReplayWebhooks,
        clock: Clock,
        on_due: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._store = store
        self._replaying = replaying
        self._clock = clock
        self._on_due = on_due

    async def GetWebhookDelivery(
        self, request: deliveries_pb2.GetWebhookDeliveryRequest, context: Context
    ) -> deliveries_pb2.WebhookDelivery:
        """Read one, with its attempts."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        return webhook_convert.delivery(await self._log(tenant_id, request.id))

    async def ListWebhookDeliveries(
        self, request: deliveries_pb2.ListWebhookDeliveriesRequest, context: Context
    ) -> deliveries_pb2.ListWebhookDeliveriesResponse:
        """List deliveries, newest first."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        wanted, page = webhook_convert.list_request(request)
        found = await self._store.list_deliveries(tenant_id, wanted, page.and_one_more)
        return webhook_convert.list_response(found, page)

    async def ReplayWebhookDelivery(
        self, request: deliveries_pb2.ReplayWebhookDeliveryRequest, context: Context
    ) -> deliveries_pb2.WebhookDelivery:
        """Send one again."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        if await self._store.replay(tenant_id, _delivery_id(request.id), self._clock.now()) is None:
            raise NotFoundError
        log = await self._log(tenant_id, request.id)
        self._on_due()
        return webhook_convert.delivery(log)

    async def ReplayWebhookDeliveries(
        self, request: deliveries_pb2.ReplayWebhookDeliveriesRequest, context: Context
    ) -> deliveries_pb2.ReplayWebhookDeliveriesResponse:
        """Send everything again that was given up since a time, or count it."""
        tenant_id = await self._keys.tenant_of(calls.bearer_token(context))
        since = webhook_convert.replay_since(request)
        if request.dry_run:
            replayed = Replayed(count=await self._replaying.count(tenant_id, since))
        else:
            replayed = await self._replaying.replay(tenant_id, since)
        return webhook_convert.replay_response(replayed, dry_run=request.dry_run)

    async def _log(self, tenant_id: str, delivery_id: str) -> WebhookLog:
        log = await self._store.get(tenant_id, _delivery_id(delivery_id))
        if log is None:
            raise NotFoundError
        return log


def _delivery_id(text: str) -> str:
    if not is_id(text, "whd"):
        raise NotFoundError
    return text
