"""Which events go where: the webhooks and the callback that want to hear of a message or of a reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from services.delivery.domain import Message, Status
from services.delivery.replies import ReceivedReply
from services.delivery.webhook_events import EVENT_OF, reply_deliveries, status_deliveries
from services.delivery.webhooks import Destination, DestinationKind, Event, WebhookDelivery


class Owner(NamedTuple):
    """Whose a message or a reply is."""

    tenant_id: str
    integration_id: str  # empty for the API, and for a reply to nothing


@dataclass(frozen=True, kw_only=True)
class Subscriptions:
    """What an owner's webhooks want to hear; empty where there is no webhook."""

    integration: frozenset[str] = frozenset()
    tenant: frozenset[str] = frozenset()
    reply_window: timedelta | None = None  # of the integration; None for the installation's


class KnowsSubscriptions(Protocol):
    """Who remembers what Integrations said of an owner."""

    def known(self, owner: Owner) -> Subscriptions | None:
        """Return what is remembered, without asking; None when nothing is. Asks later, for the next time."""

    def known_lately(self, owner: Owner) -> Subscriptions | None:
        """Return likewise what was said in the last few seconds, and None for what is older."""


EVERYTHING: Final = Subscriptions(integration=frozenset(Event), tenant=frozenset(Event))


class Announcements:
    """Makes the deliveries of events. Quick, and without a network: it is called within transactions.

    What is not known, or was asked so long ago that a webhook may have been set since, is announced to both webhooks:
    whoever delivers asks anew, and drops what nobody wants.
    """

    def __init__(self, subscriptions: KnowsSubscriptions) -> None:
        self._subscriptions = subscriptions

    def expect(self, owners: Iterable[Owner]) -> None:
        """Have it asked who wants to hear of these owners' messages, before there is anything to tell."""
        for owner in owners:
            self._subscriptions.known_lately(owner)

    def of_status(self, message: Message) -> list[WebhookDelivery]:
        """Return the deliveries of a message's new status; none for a status that makes no event."""
        event = EVENT_OF.get(message.status)
        if event is None:
            return []
        owner = Owner(message.tenant_id, message.integration_id)
        destinations = self._webhooks(owner, event)
        if message.callback:
            callback = Destination(kind=DestinationKind.CALLBACK, id=message.integration_id, url=message.callback)
            destinations.append(callback)
        return status_deliveries(message, destinations) if destinations else []

    def is_awaited(self, message: Message, status: Status) -> bool:
        """Return whether anybody wants to hear that a message has come to a status."""
        event = EVENT_OF.get(status)
        if event is None:
            return False
        owner = Owner(message.tenant_id, message.integration_id)
        return bool(message.callback) or bool(self._webhooks(owner, event))

    def of_reply(self, reply: ReceivedReply) -> Sequence[WebhookDelivery]:
        """Return the deliveries of an inbound message; none for one that is nobody's."""
        if not reply.tenant_id:
            return []
        owner = Owner(reply.tenant_id, reply.in_reply_to.integration_id if reply.in_reply_to else "")
        return reply_deliveries(reply, self._webhooks(owner, Event.MESSAGE_RECEIVED))

    def reply_window(self, owner: Owner) -> timedelta | None:
        """Return for how long an inbound message counts as an answer to this owner's; None for the default."""
        known = self._subscriptions.known(owner)
        return known.reply_window if known else None

    def _webhooks(self, owner: Owner, event: Event) -> list[Destination]:
        wanted = self._subscriptions.known_lately(owner) or EVERYTHING
        destinations = []
        if owner.integration_id and event in wanted.integration:
            destinations.append(Destination(kind=DestinationKind.INTEGRATION, id=owner.integration_id))
        if event in wanted.tenant:
            destinations.append(Destination(kind=DestinationKind.TENANT, id=owner.tenant_id))
        return destinations
