"""What webhooks say: the JSON bodies of events, and the deliveries that bring one event to its destinations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from servicekit.ids import new_id
from services.delivery.domain import Message, Status
from services.delivery.replies import AnsweredMessage, ReceivedReply
from services.delivery.webhooks import Destination, Event, WebhookDelivery

EVENT_OF: Final[Mapping[Status, Event]] = {
    Status.SENT: Event.MESSAGE_SENT,
    Status.DELIVERED: Event.MESSAGE_DELIVERED,
    Status.UNDELIVERED: Event.MESSAGE_UNDELIVERED,
    Status.FAILED: Event.MESSAGE_FAILED,
    Status.EXPIRED: Event.MESSAGE_EXPIRED,
}
# Ofcom keeps these numbers for drama: a receiver that answers an example reaches nobody.
_EXAMPLE_SENDER: Final = "+447700900123"
_EXAMPLE_RECIPIENT: Final = "+447700900456"


def reply_deliveries(reply: ReceivedReply, destinations: Sequence[Destination]) -> list[WebhookDelivery]:
    """Return the deliveries of `message.received`. The same arguments give the same ids."""
    return _deliveries(
        Event.MESSAGE_RECEIVED,
        tenant_id=reply.tenant_id,
        message_id=reply.in_reply_to.id if reply.in_reply_to else "",
        reply_id=reply.id,
        traceparent=reply.in_reply_to.traceparent if reply.in_reply_to else "",
        body=reply_body(reply),
        occurred_at=reply.received_at,
        destinations=destinations,
    )


def status_deliveries(message: Message, destinations: Sequence[Destination]) -> list[WebhookDelivery]:
    """Return the deliveries of a message's status event; none for a status that makes no event.

    A message has each status once, so the same message and status give the same event id whenever it is built.
    """
    event = EVENT_OF.get(message.status)
    if event is None:
        return []
    return _deliveries(
        event,
        tenant_id=message.tenant_id,
        message_id=message.id,
        reply_id="",
        traceparent=message.traceparent,
        body=status_body(message, event),
        occurred_at=message.updated_at,
        destinations=destinations,
    )


def reply_body(reply: ReceivedReply) -> bytes:
    """Return the body of `message.received`. `from` and `to` carry no `+`, as the published API prints them."""
    return _json(_reply_fields(reply))


def example_body(reply_id: str, tenant_id: str, integration_id: str, now: datetime) -> bytes:
    """Return the body of a `message.received` that nobody wrote, with a member that says so."""
    answered = AnsweredMessage(
        id=new_id("msg", now), ref="example", integration_id=integration_id, sent_at=now - timedelta(minutes=1)
    )
    reply = ReceivedReply(
        id=reply_id,
        tenant_id=tenant_id,
        sender=_EXAMPLE_SENDER,
        recipient=_EXAMPLE_RECIPIENT,
        text="This is an example",
        received_at=now,
        in_reply_to=answered,
    )
    return _json(_reply_fields(reply) | {"example": True})


def _reply_fields(reply: ReceivedReply) -> dict[str, object]:
    answered = reply.in_reply_to
    body: dict[str, object] = {
        "id": reply.id,
        "event": Event.MESSAGE_RECEIVED,
        "from": reply.sender.removeprefix("+"),
        "to": reply.recipient.removeprefix("+"),
        "text": reply.text,
        "ref": answered.ref if answered else "",
        "receivedAt": _written(reply.received_at),
        "tenantId": reply.tenant_id,
        "integrationId": answered.integration_id if answered else "",
        "inReplyTo": None
        if answered is None
        else {
            "id": answered.id,
            "ref": answered.ref,
            "integrationId": answered.integration_id,
            "sentAt": _written(answered.sent_at),
        },
    }
    if reply.other_candidates:
        body["otherCandidates"] = list(reply.other_candidates)
    if reply.keyword:
        body["keyword"] = reply.keyword
    return body


def status_body(message: Message, event: Event) -> bytes:
    """Return the body of a status event: the message's fields as `GET /v1/messages/<id>` shows them, and the event."""
    body: dict[str, object] = {
        "id": message.id,
        "event": event,
        "status": message.status,
        "to": message.to,
        "from": message.sender,
        "text": message.text,
        "ref": message.ref,
        "tenantId": message.tenant_id,
        "integrationId": message.integration_id,
        "tag": message.tag,
        "carrier": message.carrier,
        "carrierMessageId": message.carrier_message_id,
        "segments": message.segments,
        "encoding": message.encoding,
        "attempts": message.attempts,
    }
    if message.failure:
        body["error"] = {
            "code": message.failure.reason.code,
            "message": message.failure.reason.sentence,
            "carrierCode": message.failure.carrier_code,
        }
    times = {
        "createdAt": message.created_at,
        "updatedAt": message.updated_at,
        "sentAt": message.sent_at,
        "deliveredAt": message.delivered_at,
    }
    return _json(body | {name: _written(moment) for name, moment in times.items() if moment})


def _deliveries(
    event: Event,
    *,
    tenant_id: str,
    message_id: str,
    reply_id: str,
    traceparent: str,
    body: bytes,
    occurred_at: datetime,
    destinations: Sequence[Destination],
) -> list[WebhookDelivery]:
    event_id = _derived_id("evt", occurred_at, reply_id or message_id, event)
    return [
        WebhookDelivery(
            id=_derived_id("whd", occurred_at, event_id, destination.kind, destination.id, destination.url),
            tenant_id=tenant_id,
            destination=destination,
            event=event,
            event_id=event_id,
            message_id=message_id,
            reply_id=reply_id,
            traceparent=traceparent,
            body=body,
            created_at=occurred_at,
            next_at=occurred_at,
        )
        for destination in destinations
    ]


def _derived_id(prefix: str, moment: datetime, *parts: str) -> str:
    # Not random: what is told twice is the same event, and its delivery is stored once.
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return new_id(prefix, moment, lambda bits: int.from_bytes(digest) >> (len(digest) * 8 - bits))


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _json(body: Mapping[str, object]) -> bytes:
    # A lone surrogate can not be written as UTF-8, and must not keep a reply from being told.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
