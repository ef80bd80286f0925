"""What a page of webhook deliveries holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servicekit.paging import MAX_PAGE_BYTES, PageRequest, page_request
from services.delivery import webhook_convert
from services.delivery.webhook_convert import MAX_SHOWN_ATTEMPTS
from services.delivery.webhooks import (
    Destination,
    DestinationKind,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookLog,
)


def log(clock, number: int, *, attempts: int = 1, excerpt: str = "ok", **changes: object) -> WebhookLog:
    delivery = WebhookDelivery(
        id=f"whd_{number}",
        tenant_id="ten_1",
        destination=Destination(kind=DestinationKind.CALLBACK, id="wkh_1", url="https://receiver.example/callback"),
        event=Event.MESSAGE_SENT,
        event_id="evt_1",
        message_id="msg_1",
        reply_id="",
        body=b"{}",
        created_at=clock.now(),
    )
    made = WebhookAttempt(
        number=1,
        started_at=clock.now(),
        finished_at=clock.now(),
        url="https://receiver.example/1",
        status_code=500,
        milliseconds=12,
        problem="the endpoint answered 500",
        excerpt=excerpt,
    )
    calls = tuple(replace(made, number=each, url=f"https://receiver.example/{each}") for each in range(1, attempts + 1))
    return WebhookLog(delivery=replace(delivery, **changes), attempts=calls)


def test_ends_a_page_that_becomes_too_large_and_goes_on_behind_it(clock):
    found = [log(clock, number, attempts=10, excerpt="x" * 1024) for number in range(200)]
    page = PageRequest(size=200)

    response = webhook_convert.list_response(found, page)

    assert 0 < len(response.webhook_deliveries) < 200
    assert response.ByteSize() <= MAX_PAGE_BYTES + 100
    _, last_id = page_request(None, response.next_page_token).after
    assert last_id == response.webhook_deliveries[-1].id


def test_shows_the_newest_attempts_of_many(clock):
    shown = webhook_convert.delivery(log(clock, 1, attempts=MAX_SHOWN_ATTEMPTS + 7))

    assert [each.number for each in shown.attempts] == list(range(8, MAX_SHOWN_ATTEMPTS + 8))


@pytest.mark.parametrize(
    ("kind", "attempts", "url", "integration_id"),
    [
        (DestinationKind.CALLBACK, 0, "https://receiver.example/callback", "wkh_1"),
        (DestinationKind.CALLBACK, 2, "https://receiver.example/2", "wkh_1"),
        (DestinationKind.INTEGRATION, 2, "https://receiver.example/2", "wkh_1"),
        (DestinationKind.INTEGRATION, 0, "", "wkh_1"),
        (DestinationKind.TENANT, 0, "", ""),
    ],
)
def test_names_the_url_of_the_last_attempt_and_whose_it_is(clock, kind, attempts, url, integration_id):
    callback = "https://receiver.example/callback" if kind is DestinationKind.CALLBACK else ""
    destination = Destination(kind=kind, id="wkh_1", url=callback)

    shown = webhook_convert.delivery(log(clock, 1, attempts=attempts, destination=destination))

    assert (shown.target, shown.url, shown.integration_id) == (kind, url, integration_id)
