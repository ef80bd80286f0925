"""Rows of webhook deliveries to domain objects and back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from servicekit.clock import from_milliseconds, to_milliseconds
from services.delivery.webhook_store import FinishedWebhook
from services.delivery.webhooks import (
    REPLAYABLE,
    Destination,
    DestinationKind,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookStatus,
)


def new_delivery(delivery: WebhookDelivery) -> dict[str, object]:
    """Return the row of a delivery that is to be made."""
    created_at_ms = to_milliseconds(delivery.created_at)
    return {
        "id": delivery.id,
        "tenant_id": delivery.tenant_id,
        "destination_kind": delivery.destination.kind.value,
        "destination_id": delivery.destination.id,
        "url": delivery.destination.url,
        "endpoint": delivery.endpoint,
        "event": delivery.event.value,
        "event_id": delivery.event_id,
        "message_id": delivery.message_id,
        "reply_id": delivery.reply_id,
        "traceparent": delivery.traceparent,
        "body": delivery.body,
        "status": WebhookStatus.PENDING.value,
        "attempts": 0,
        "attempts_before": 0,
        "problem": "",
        "created_at_ms": created_at_ms,
        "next_at_ms": _milliseconds(delivery.next_at) or created_at_ms,
        "finished_at_ms": None,
        "given_up_at_ms": None,
    }


def new_due(delivery: WebhookDelivery) -> dict[str, object]:
    """Return its row in the due-queue: waiting, if only until the next claim."""
    return {
        "delivery_id": delivery.id,
        "endpoint": delivery.endpoint,
        "tenant_id": delivery.tenant_id,
        "due_at_ms": to_milliseconds(delivery.next_at or delivery.created_at),
        "tried": False,
        "ready_at_ms": None,
        "leased_at_ms": None,
        "token": 0,
    }


def new_attempt(delivery_id: str, number: int, started_at_ms: int) -> dict[str, object]:
    """Return the log's row of an attempt that is about to be made."""
    return {
        "delivery_id": delivery_id,
        "number": number,
        "started_at_ms": started_at_ms,
        "finished_at_ms": None,
        "url": "",
        "status_code": None,
        "milliseconds": None,
        "problem": "",
        "excerpt": "",
    }


def finished_delivery(finished: FinishedWebhook) -> dict[str, object]:
    """Return what an attempt's outcome changes in its delivery."""
    ended_ms = None if finished.retry_at else to_milliseconds(finished.finished_at)
    return {
        "at_id": finished.delivery_id,
        "to_status": finished.status.value,
        "to_attempts": finished.number if finished.called else finished.number - 1,
        "to_problem": finished.problem,
        "to_next_at_ms": _milliseconds(finished.retry_at),
        "to_finished_at_ms": ended_ms,
        "to_given_up_at_ms": ended_ms if finished.status in REPLAYABLE else None,
    }


def finished_attempt(finished: FinishedWebhook) -> dict[str, object]:
    """Return what an attempt's outcome changes in the log."""
    return {
        "at_id": finished.delivery_id,
        "at_number": finished.number,
        "to_finished_at_ms": to_milliseconds(finished.finished_at),
        "to_url": finished.url,
        "to_status_code": finished.status_code,
        "to_milliseconds": finished.milliseconds,
        "to_problem": finished.problem,
        "to_excerpt": finished.excerpt,
    }


def delivery(row: Row[Any]) -> WebhookDelivery:
    """Return the delivery of a row."""
    return WebhookDelivery(
        id=row.id,
        tenant_id=row.tenant_id,
        destination=Destination(kind=DestinationKind(row.destination_kind), id=row.destination_id, url=row.url),
        event=Event(row.event),
        event_id=row.event_id,
        message_id=row.message_id,
        reply_id=row.reply_id,
        body=row.body,
        created_at=from_milliseconds(row.created_at_ms),
        status=WebhookStatus(row.status),
        attempts=row.attempts,
        attempts_before=row.attempts_before,
        problem=row.problem,
        next_at=moment(row.next_at_ms),
        finished_at=moment(row.finished_at_ms),
        traceparent=row.traceparent,
    )


def attempt(row: Row[Any]) -> WebhookAttempt:
    """Return the attempt of a row."""
    return WebhookAttempt(
        number=row.number,
        started_at=from_milliseconds(row.started_at_ms),
        finished_at=moment(row.finished_at_ms),
        url=row.url,
        status_code=row.status_code,
        milliseconds=row.milliseconds,
        problem=row.problem,
        excerpt=row.excerpt,
    )


def moment(milliseconds: int | None) -> datetime | None:
    """Return a time, None for none."""
    return None if milliseconds is None else from_milliseconds(milliseconds)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else to_milliseconds(moment)
