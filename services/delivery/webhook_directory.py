"""Where events go now, as Integrations knows it: URLs, secrets, what each webhook wants, and switching one off."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from servicekit import clients
from servicekit.clock import Clock, to_milliseconds
from servicekit.errors import ServiceError, UnavailableError
from servicekit.fresh_cache import FreshCache
from services.delivery.announcements import Owner, Subscriptions
from services.delivery.deliver_webhooks import Target
from services.delivery.webhooks import DestinationKind, WebhookDelivery
from textway.integrations.v1 import registry_service_pb2, registry_service_pb2_grpc

FRESH_SECONDS: Final = 2.0
# So old may an answer be that keeps an event from a webhook. It is asked again before that as long as there are events.
TRUSTED_SECONDS: Final = 5.0
STALE_SECONDS: Final = 600.0
TIMEOUT_SECONDS: Final = 2.0

Answer = registry_service_pb2.GetWebhookTargetsResponse


class WebhookDirectory:
    """Asks Integrations, and remembers the answer for two seconds, and for ten minutes while it is down.

    What would keep an event from its webhook is never taken from memory while Integrations can be asked.
    """

    def __init__(self, registry: registry_service_pb2_grpc.RegistryServiceAsyncStub, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._answers = FreshCache(self._ask, clock=clock, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._learning: set[asyncio.Task[None]] = set()
        self._asked: set[Owner] = set()

    def known(self, owner: Owner) -> Subscriptions | None:
        """See KnowsSubscriptions. May be called from any thread."""
        return self._remembered(owner, younger_than_seconds=STALE_SECONDS)

    def known_lately(self, owner: Owner) -> Subscriptions | None:
        """See KnowsSubscriptions. May be called from any thread."""
        return self._remembered(owner, younger_than_seconds=TRUSTED_SECONDS)

    async def target(self, delivery: WebhookDelivery) -> Target | None:
        """Return where a delivery goes; None when nobody wants it any more. Raises UnavailableError."""
        to = delivery.destination
        if to.kind is DestinationKind.CALLBACK:
            answer = await self._answers.get(Owner(delivery.tenant_id, to.id))
            signing = answer.integration.outbound if to.id else answer.webhook
            return Target(url=to.url, secrets=self._in_force(signing), is_enabled=True)
        owner = Owner(delivery.tenant_id, to.id if to.kind is DestinationKind.INTEGRATION else "")
        is_from_memory = self._answers.is_fresh(owner)
        webhook = _webhook_of(delivery, await self._answers.get(owner))
        if is_from_memory and not (_wants(webhook, delivery) and webhook.enabled):
            # Whoever has just enabled it and replays its events means now.
            webhook = _webhook_of(delivery, await self._answers.get(owner, anew=True))
        is_wanted = _wants(webhook, delivery)
        if not (is_wanted and webhook.enabled) and self.known_lately(owner) is None:
            raise UnavailableError("Integrations can not be asked just now: somebody may want this event by now.")
        if not is_wanted:
            return None
        return Target(url=webhook.url, secrets=self._in_force(webhook), is_enabled=webhook.enabled)

    async def webhook(self, owner: Owner) -> Target | None:
        """Return an owner's webhook as it is at this moment, disabled or not; its URL may be empty.

        It is the integration's, or the tenant's for an owner without one; None when there is none. Raises
        UnavailableError.
        """
        answer = await self._ask(owner)
        has_it = answer.HasField("integration" if owner.integration_id else "webhook")
        webhook = answer.integration.outbound if owner.integration_id else answer.webhook
        return Target(url=webhook.url, secrets=self._in_force(webhook), is_enabled=webhook.enabled) if has_it else None

    async def disable(self, delivery: WebhookDelivery, url: str, reason: str, since: datetime) -> bool:
        """See DisablesEndpoints."""
        to = delivery.destination
        failing_since = Timestamp()
        failing_since.FromMilliseconds(to_milliseconds(since))
        answer: registry_service_pb2.DisableWebhookTargetResponse = await clients.call(
            self._registry.DisableWebhookTarget,
            registry_service_pb2.DisableWebhookTargetRequest(
                tenant_id=delivery.tenant_id,
                integration_id=to.id if to.kind is DestinationKind.INTEGRATION else "",
                url=url,
                reason=reason,
                failing_since=failing_since,
            ),
            part="Integrations",
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return answer.is_disabled

    async def close(self) -> None:
        """Ask no more."""
        for task in self._learning:
            task.cancel()
        await asyncio.gather(*self._learning, return_exceptions=True)

    def _remembered(self, owner: Owner, *, younger_than_seconds: float) -> Subscriptions | None:
        if not self._answers.is_fresh(owner):
            self._loop.call_soon_threadsafe(self._learn, owner)
        answer = self._answers.known(owner, younger_than_seconds=younger_than_seconds)
        return None if answer is None else _subscriptions(answer)

    def _learn(self, owner: Owner) -> None:
        if owner in self._asked or self._answers.is_fresh(owner):
            return
        self._asked.add(owner)
        task = asyncio.create_task(self._ask_quietly(owner))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _ask_quietly(self, owner: Owner) -> None:
        try:
            await self._answers.get(owner)
        except ServiceError:
            # Not known yet: everything is announced, and the next event asks again.
            await self._clock.sleep(1.0)
        finally:
            self._asked.discard(owner)

    async def _ask(self, owner: Owner) -> Answer:
        answer: Answer = await clients.call(
            self._registry.GetWebhookTargets,
            registry_service_pb2.GetWebhookTargetsRequest(
                tenant_id=owner.tenant_id, integration_id=owner.integration_id
            ),
            part="Integrations",
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return answer

    def _in_force(self, webhook: registry_service_pb2.WebhookTarget) -> tuple[str, ...]:
        now = self._clock.now()
        return tuple(
            secret.secret
            for secret in webhook.secrets
            if not secret.HasField("expires_at") or secret.expires_at.ToDatetime(tzinfo=UTC) > now
        )


def _webhook_of(delivery: WebhookDelivery, answer: Answer) -> registry_service_pb2.WebhookTarget:
    is_integrations = delivery.destination.kind is DestinationKind.INTEGRATION
    return answer.integration.outbound if is_integrations else answer.webhook


def _wants(webhook: registry_service_pb2.WebhookTarget, delivery: WebhookDelivery) -> bool:
    return bool(webhook.url) and delivery.event in webhook.events


def _subscriptions(answer: Answer) -> Subscriptions:
    # A webhook that is switched off gets its events too: they wait as missed, to be replayed.
    window = answer.integration.reply_window_seconds
    return Subscriptions(
        integration=frozenset(answer.integration.outbound.events if answer.integration.outbound.url else ()),
        tenant=frozenset(answer.webhook.events if answer.webhook.url else ()),
        reply_window=timedelta(seconds=window) if window else None,
    )
