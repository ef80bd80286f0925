"""Send a sample event to a webhook, once and while its owner waits, to see whether the receiver takes it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from servicekit.clock import Clock
from servicekit.egress import Limits, Problem
from servicekit.errors import Issue, NotFoundError, ValidationError
from servicekit.ids import new_id
from services.delivery.announcements import Owner
from services.delivery.call_endpoint import SENTENCES, request_headers
from services.delivery.deliver_webhooks import CallsEndpoint, Target
from services.delivery.errors import NoWebhookConfigError, TooManyExamplesError
from services.delivery.webhook_events import example_body
from services.delivery.webhooks import CallResult, Destination, DestinationKind, Event, WebhookDelivery

# The gateway gives a call 4 s: those of the endpoint, and what it takes to learn where it is.
EXAMPLE_LIMITS: Final = Limits(look_up_seconds=2.0, connect_seconds=2.0, total_seconds=3.0)
EXAMPLE_SENTENCES: Final[Mapping[Problem, str]] = {
    **SENTENCES,
    Problem.CONNECT_FAILED: "the connection was refused, or not made within the 2 s that an example has for it",
    Problem.TIMEOUT: "no whole answer came within the 3 s that an example has; an event has 15 s",
}
ANSWER_SECONDS: Final = 3.5
MAX_AT_ONCE: Final = 4


class KnowsWebhooks(Protocol):
    """Who knows webhooks as they are at this moment."""

    async def webhook(self, owner: Owner) -> Target | None:
        """Return an integration's webhook, or the tenant's for an owner without one; the URL may be empty.

        None when the tenant has no such integration, or no webhook. Raises UnavailableError.
        """


@dataclass(frozen=True, kw_only=True)
class SentExample:
    """What was sent where, and what the endpoint said."""

    target: Target
    headers: Mapping[str, str]
    body: bytes
    sent_at: datetime
    result: CallResult


class SendExample:
    """Makes the one call. Nothing of it is stored, and nothing is sent again."""

    def __init__(self, *, webhooks: KnowsWebhooks, endpoints: CallsEndpoint, clock: Clock) -> None:
        self._webhooks = webhooks
        self._endpoints = endpoints
        self._clock = clock
        self._under_way: Counter[str] = Counter()

    async def to_integration(self, tenant_id: str, integration_id: str) -> SentExample:
        """Call an integration's outboundUrl, within 3.5 s in all.

        Raises NotFoundError, ValidationError when it has no such URL, TooManyExamplesError and UnavailableError.
        """
        with self._one_more(tenant_id):
            return await self._send(Owner(tenant_id, integration_id))

    async def to_webhook(self, tenant_id: str) -> SentExample:
        """Call the tenant's webhook, within 3.5 s in all.

        Raises NoWebhookConfigError, TooManyExamplesError and UnavailableError.
        """
        with self._one_more(tenant_id):
            return await self._send(Owner(tenant_id, ""))

    async def _send(self, owner: Owner) -> SentExample:
        until = self._clock.monotonic() + ANSWER_SECONDS
        target = await self._webhooks.webhook(owner)
        if target is None:
            raise NotFoundError if owner.integration_id else NoWebhookConfigError
        if not target.url:
            raise ValidationError([Issue(path="outboundUrl", message="is empty: set it to the URL that gets replies")])
        sent_at = self._clock.now()
        example = _example(owner, sent_at)
        return SentExample(
            target=target,
            headers=request_headers(target, example, sent_at),
            body=example.body,
            sent_at=sent_at,
            result=await self._call(target, example, sent_at, until),
        )

    async def _call(self, target: Target, example: WebhookDelivery, at: datetime, until: float) -> CallResult:
        started = self._clock.monotonic()
        try:
            # The call ends by itself; this is for when it took long to learn where to.
            async with asyncio.timeout(until - started):
                return await self._endpoints.call(target, example, at)
        except TimeoutError:
            return CallResult(
                status_code=None,
                milliseconds=round((self._clock.monotonic() - started) * 1000),
                problem=f"{Problem.TIMEOUT}: {EXAMPLE_SENTENCES[Problem.TIMEOUT]}",
            )

    @contextmanager
    def _one_more(self, tenant_id: str) -> Iterator[None]:
        # Whoever waits for dead endpoints by the thousand would keep others from trying theirs.
        if self._under_way[tenant_id] >= MAX_AT_ONCE:
            raise TooManyExamplesError
        self._under_way[tenant_id] += 1
        try:
            yield
        finally:
            self._under_way[tenant_id] -= 1
            if not self._under_way[tenant_id]:
                del self._under_way[tenant_id]


def _example(owner: Owner, now: datetime) -> WebhookDelivery:
    if owner.integration_id:
        destination = Destination(kind=DestinationKind.INTEGRATION, id=owner.integration_id)
    else:
        destination = Destination(kind=DestinationKind.TENANT, id=owner.tenant_id)
    reply_id = new_id("mo", now)
    return WebhookDelivery(
        id=new_id("whd", now),
        tenant_id=owner.tenant_id,
        destination=destination,
        event=Event.MESSAGE_RECEIVED,
        event_id=new_id("evt", now),
        message_id="",
        reply_id=reply_id,
        body=example_body(reply_id, owner.tenant_id, owner.integration_id, now),
        created_at=now,
    )
