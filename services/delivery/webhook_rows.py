"""Rows of webhook deliveries to domain objects and back."""

from __future__ import annotations

from collections.abc import Sequence
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


def new_delivery(delivery: WebhookDelivery) -> tuple[Any, ...]:
    """Return the row of a delivery that is to be made, in the order of its columns."""
    created_at_ms = to_milliseconds(delivery.created_at)
    return (
        delivery.id,
        delivery.tenant_id,
        delivery.destination.kind.value,
        delivery.destination.id,
        delivery.destination.url,
        delivery.endpoint,
        delivery.event.value,
        delivery.event_id,
        delivery.message_id,
        delivery.reply_id,
        delivery.body,
        WebhookStatus.PENDING.value,
        0,  # attempts
        0,  # attempts before a replay
        "",
        created_at_ms,
        _milliseconds(delivery.next_at) or created_at_ms,
        None,  # finished
        None,  # given up
        delivery.traceparent,
    )


def new_due(delivery: WebhookDelivery) -> tuple[Any, ...]:
    """Return its row in the due-queue, in the order of its columns: waiting, if only until the next claim."""
    due_at_ms = to_milliseconds(delivery.next_at or delivery.created_at)
    return (delivery.id, delivery.endpoint, delivery.tenant_id, due_at_ms, False, None, None, 0)


def new_attempt(delivery_id: str, number: int, started_at_ms: int) -> tuple[Any, ...]:
    """Return the log's row of an attempt that is about to be made, in the order of its columns."""
    return (delivery_id, number, started_at_ms, None, "", None, None, "", "")


def finished_delivery(finished: FinishedWebhook) -> tuple[Any, ...]:
    """Return what an attempt's outcome changes in its delivery: its id, then what its columns become."""
    ended_ms = None if finished.retry_at else to_milliseconds(finished.finished_at)
    return (
        finished.delivery_id,
        finished.status.value,
        finished.number if finished.called else finished.number - 1,
        finished.problem,
        _milliseconds(finished.retry_at),
        ended_ms,
        ended_ms if finished.status in REPLAYABLE else None,
    )


def finished_attempt(finished: FinishedWebhook) -> tuple[Any, ...]:
    """Return what an attempt's outcome changes in the log: its key, then what its columns become."""
    return (
        finished.delivery_id,
        finished.number,
        to_milliseconds(finished.finished_at),
        finished.url,
        finished.status_code,
        finished.milliseconds,
        finished.problem,
        finished.excerpt,
    )


def delivery(row: Sequence[Any]) -> WebhookDelivery:
    """Return the delivery of a whole row."""
    (
        delivery_id, tenant_id, destination_kind, destination_id, url, _, event, event_id, message_id, reply_id, body,
        status, attempts, attempts_before, problem, created_at_ms, next_at_ms, finished_at_ms, _, traceparent,
    ) = row  # fmt: skip  # by place, because names take ten times as long
    return WebhookDelivery(
        id=delivery_id,
        tenant_id=tenant_id,
        destination=Destination(kind=DestinationKind(destination_kind), id=destination_id, url=url),
        event=Event(event),
        event_id=event_id,
        message_id=message_id,
        reply_id=reply_id,
        body=body,
        created_at=from_milliseconds(created_at_ms),
        status=WebhookStatus(status),
        attempts=attempts,
        attempts_before=attempts_before,
        problem=problem,
        next_at=moment(next_at_ms),
        finished_at=moment(finished_at_ms),
        traceparent=traceparent,
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
