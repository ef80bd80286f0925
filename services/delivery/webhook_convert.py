"""Webhook deliveries and examples, as protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from servicekit.errors import Issue, ValidationError
from servicekit.paging import PageRequest, page_of, page_request
from services.delivery.convert import filter_text, moment, timestamp
from services.delivery.replay_webhooks import Replayed
from services.delivery.send_example import SentExample
from services.delivery.webhooks import (
    DestinationKind,
    WebhookAttempt,
    WebhookDelivery,
    WebhookFilter,
    WebhookLog,
    WebhookStatus,
)
from textway.delivery.v1 import webhook_deliveries_service_pb2 as deliveries_pb2
from textway.delivery.v1 import webhook_examples_service_pb2 as examples_pb2

# Each holds up to 1 KiB of somebody's answer and 2 KiB of URL.
MAX_SHOWN_ATTEMPTS: Final = 40


def list_request(request: deliveries_pb2.ListWebhookDeliveriesRequest) -> tuple[WebhookFilter, PageRequest]:
    """Return what to list; raise ValidationError naming the filter that can not be used."""
    page = page_request(request.page_size if request.HasField("page_size") else None, request.page_token)
    wanted = WebhookFilter(
        status=_status(request.status) if request.status else None,
        message_id=filter_text("messageId", request.message_id),
    )
    return wanted, page


def list_response(found: Sequence[WebhookLog], page: PageRequest) -> deliveries_pb2.ListWebhookDeliveriesResponse:
    """Return one page, with the token of the next if more was found than the page holds."""
    shown, token = page_of(found, page, show=delivery, place=lambda log: (log.delivery.created_at, log.delivery.id))
    return deliveries_pb2.ListWebhookDeliveriesResponse(webhook_deliveries=shown, next_page_token=token)


def delivery(log: WebhookLog) -> deliveries_pb2.WebhookDelivery:
    """Return a delivery as the API shows it."""
    found = log.delivery
    return deliveries_pb2.WebhookDelivery(
        id=found.id,
        status=found.status,
        event=found.event,
        event_id=found.event_id,
        target=found.destination.kind,
        integration_id="" if found.destination.kind is DestinationKind.TENANT else found.destination.id,
        url=_url(found, log.attempts),
        message_id=found.message_id,
        reply_id=found.reply_id,
        attempts=[_attempt(each) for each in log.attempts[-MAX_SHOWN_ATTEMPTS:]],
        problem=found.problem,
        created_at=timestamp(found.created_at),
        next_attempt_at=timestamp(found.next_at) if found.next_at else None,
        finished_at=timestamp(found.finished_at) if found.finished_at else None,
    )


def replay_since(request: deliveries_pb2.ReplayWebhookDeliveriesRequest) -> datetime:
    """Return since when to replay; raise ValidationError when that is not said."""
    if not request.HasField("since"):
        message = "is required: a time such as 2026-06-12T14:32:00Z; with dryRun true, they are only counted"
        raise ValidationError([Issue(path="since", message=message)])
    return moment("since", request.since)


def replay_response(replayed: Replayed, *, dry_run: bool) -> deliveries_pb2.ReplayWebhookDeliveriesResponse:
    """Return the answer to ReplayWebhookDeliveries."""
    return deliveries_pb2.ReplayWebhookDeliveriesResponse(
        count=replayed.count, dry_run=dry_run, remaining=replayed.remaining
    )


def example(sent: SentExample) -> examples_pb2.WebhookExample:
    """Return what came of an example."""
    result = sent.result
    return examples_pb2.WebhookExample(
        delivered=result.is_success,
        url=sent.target.url,
        status_code=result.status_code,
        milliseconds=result.milliseconds,
        problem="" if result.is_success else result.problem or f"the endpoint answered {result.status_code}",
        answer=result.excerpt,
        headers=sent.headers,
        body=sent.body.decode(),
        enabled=sent.target.is_enabled,
        sent_at=timestamp(sent.sent_at),
    )


def _attempt(found: WebhookAttempt) -> deliveries_pb2.WebhookAttempt:
    return deliveries_pb2.WebhookAttempt(
        number=found.number,
        started_at=timestamp(found.started_at),
        finished_at=timestamp(found.finished_at) if found.finished_at else None,
        url=found.url,
        status_code=found.status_code,
        milliseconds=found.milliseconds,
        problem=found.problem,
        answer=found.excerpt,
    )


def _url(found: WebhookDelivery, attempts: Sequence[WebhookAttempt]) -> str:
    called = [each.url for each in attempts if each.url]
    return called[-1] if called else found.destination.url


def _status(word: str) -> WebhookStatus:
    try:
        return WebhookStatus(word)
    except ValueError:
        known = ", ".join(WebhookStatus)
        raise ValidationError([Issue(path="status", message=f"must be one of {known}")]) from None
