"""What became of webhooks, and how they are sent again: the API over a real server, and a receiver beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.ids import new_id
from tests.integration.delivery.conftest import PATIENCE_SECONDS, Metadata, World, message_with, refusal_of
from tests.kit.receivers import Answer, Receiver
from textway.delivery.v1 import messages_service_pb2
from textway.delivery.v1.messages_service_pb2 import GetMessageTimelineRequest, SendMessageRequest
from textway.delivery.v1.webhook_deliveries_service_pb2 import (
    GetWebhookDeliveryRequest,
    ListWebhookDeliveriesRequest,
    ReplayWebhookDeliveriesRequest,
    ReplayWebhookDeliveryRequest,
    WebhookDelivery,
)
from textway.delivery.v1.webhook_deliveries_service_pb2_grpc import WebhookDeliveriesServiceStub
from textway.integrations.v1.registry_service_pb2 import WebhookTarget

GONE = Answer(status=410, body="no longer here")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def world(unstarted_world: World) -> World:
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"egress_allow": "127.0.0.0/8"})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


@pytest.fixture
def deliveries(world: World) -> WebhookDeliveriesServiceStub:
    return WebhookDeliveriesServiceStub(world.channel)


async def sent_message(world: World, owner: Metadata, callback: str = "") -> str:
    """Send a message and wait until its handset has it."""
    request = SendMessageRequest(to="+6581230000", text="Order confirmed", callback=callback)
    sent = await world.messages.SendMessage(request, metadata=owner)
    await message_with(world.messages, owner, sent.id, "delivered")
    return str(sent.id)


async def settled(
    deliveries: WebhookDeliveriesServiceStub, owner: Metadata, count: int, status: str, **wanted: str
) -> list[WebhookDelivery]:
    """Return the deliveries as soon as so many have a status; others deliver them, so that they are polled."""
    request = ListWebhookDeliveriesRequest(status=status, **wanted)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = (await deliveries.ListWebhookDeliveries(request, metadata=owner)).webhook_deliveries
            if len(found) == count:
                return list(found)
            await asyncio.sleep(0.02)


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def an_hour_ago(world: World) -> Timestamp:
    return at(world.clock.now() - timedelta(hours=1))


async def test_lists_what_an_endpoint_was_sent_and_what_it_said(world, deliveries, owner, receiver):
    receiver.answers["/gone"] = GONE

    message_id = await sent_message(world, owner, receiver.url("/gone"))

    delivered, sent = await settled(deliveries, owner, 2, "failed", message_id=message_id)
    assert (sent.event, delivered.event) == ("message.sent", "message.delivered")
    assert (sent.target, sent.integration_id, sent.message_id, sent.reply_id) == ("callback", "", message_id, "")
    assert (sent.url, sent.problem) == (receiver.url("/gone"), "the endpoint answered 410")
    assert sent.HasField("finished_at")
    assert not sent.HasField("next_attempt_at")
    (attempt,) = sent.attempts
    assert (attempt.number, attempt.status_code, attempt.url) == (1, 410, receiver.url("/gone"))
    assert (attempt.answer, attempt.problem) == ("no longer here", "the endpoint answered 410")
    assert attempt.HasField("milliseconds")
    told = {call.headers["webhook-id"] for call in receiver.calls}
    assert told == {sent.event_id, delivered.event_id}


async def test_tells_when_the_next_attempt_is_due(world, deliveries, owner, receiver):
    receiver.answers["/busy"] = Answer(status=503)

    message_id = await sent_message(world, owner, receiver.url("/busy"))

    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            waiting = await settled(deliveries, owner, 2, "pending", message_id=message_id)
            if all(each.HasField("next_attempt_at") and each.attempts for each in waiting):
                break
    assert [each.problem for each in waiting] == ["the endpoint answered 503"] * 2
    assert not waiting[0].HasField("finished_at")


async def test_reads_one_with_its_attempts(world, deliveries, owner, receiver):
    await sent_message(world, owner, receiver.url("/"))
    found, _ = await settled(deliveries, owner, 2, "delivered")

    read = await deliveries.GetWebhookDelivery(GetWebhookDeliveryRequest(id=found.id), metadata=owner)

    assert read == found
    assert (read.status, read.attempts[0].status_code, read.attempts[0].problem) == ("delivered", 200, "")


async def test_pages_from_the_newest_to_the_oldest(world, deliveries, owner, receiver):
    await sent_message(world, owner, receiver.url("/"))
    await sent_message(world, owner, receiver.url("/"))
    found = await settled(deliveries, owner, 4, "delivered")

    pages, token = [], ""
    while token or not pages:
        request = ListWebhookDeliveriesRequest(page_size=3, page_token=token)
        page = await deliveries.ListWebhookDeliveries(request, metadata=owner)
        pages.append([each.id for each in page.webhook_deliveries])
        token = page.next_page_token

    assert [len(page) for page in pages] == [3, 1]
    assert [each for page in pages for each in page] == [each.id for each in found]


async def test_replays_one_under_the_same_id(world, deliveries, owner, receiver):
    receiver.answers["/"] = GONE
    await sent_message(world, owner, receiver.url("/"))
    failed, _ = await settled(deliveries, owner, 2, "failed")
    receiver.answers["/"] = Answer(body="thanks")

    replayed = await deliveries.ReplayWebhookDelivery(ReplayWebhookDeliveryRequest(id=failed.id), metadata=owner)

    (delivered,) = await settled(deliveries, owner, 1, "delivered")
    assert (replayed.id, replayed.event_id) == (delivered.id, delivered.event_id) == (failed.id, failed.event_id)
    assert [each.status_code for each in delivered.attempts] == [410, 200]
    calls = [call for call in receiver.calls if call.headers["webhook-id"] == failed.event_id]
    assert len({call.body for call in calls}) == 1
    assert len(calls) == 2


async def test_counts_and_then_replays_all_that_failed_since_a_time(world, deliveries, owner, receiver):
    receiver.answers["/"] = GONE
    for _ in range(2):
        await sent_message(world, owner, receiver.url("/"))
    await settled(deliveries, owner, 4, "failed")
    receiver.answers.clear()
    calls = len(receiver.calls)

    counted = await deliveries.ReplayWebhookDeliveries(
        ReplayWebhookDeliveriesRequest(since=an_hour_ago(world), dry_run=True), metadata=owner
    )
    assert (counted.count, counted.dry_run, len(receiver.calls)) == (4, True, calls)
    replayed = await deliveries.ReplayWebhookDeliveries(
        ReplayWebhookDeliveriesRequest(since=an_hour_ago(world)), metadata=owner
    )

    assert (replayed.count, replayed.remaining, replayed.dry_run) == (4, 0, False)
    await settled(deliveries, owner, 4, "delivered")


async def test_offers_what_a_disabled_webhook_has_missed(world, deliveries, owner, receiver):
    events = ["message.delivered"]
    world.registry.webhooks["ten_mine"] = WebhookTarget(url=receiver.url("/all"), enabled=False, events=events)
    await sent_message(world, owner)
    (missed,) = await settled(deliveries, owner, 1, "missed")
    assert (missed.target, missed.problem, len(missed.attempts)) == ("tenant", "The webhook is disabled.", 0)
    world.registry.webhooks["ten_mine"].enabled = True
    world.clock.shift_seconds += 3  # so long is remembered where events go

    replayed = await deliveries.ReplayWebhookDeliveries(
        ReplayWebhookDeliveriesRequest(since=an_hour_ago(world)), metadata=owner
    )

    assert replayed.count == 1
    (delivered,) = await settled(deliveries, owner, 1, "delivered")
    assert delivered.url == receiver.url("/all")
    assert receiver.events_at("/all") == ["message.delivered"]


async def test_replays_nothing_that_was_given_up_earlier_or_is_anothers(world, deliveries, owner, stranger, receiver):
    receiver.answers["/"] = GONE
    await sent_message(world, owner, receiver.url("/"))
    await settled(deliveries, owner, 2, "failed")

    later = ReplayWebhookDeliveriesRequest(since=at(world.clock.now() + timedelta(hours=1)))
    counts = [
        (await deliveries.ReplayWebhookDeliveries(later, metadata=owner)).count,
        (
            await deliveries.ReplayWebhookDeliveries(
                ReplayWebhookDeliveriesRequest(since=an_hour_ago(world)), metadata=stranger
            )
        ).count,
    ]

    assert counts == [0, 0]
    assert len(await settled(deliveries, owner, 2, "failed")) == 2


async def test_shows_and_replays_nothing_of_anothers(world, deliveries, owner, stranger, receiver):
    await sent_message(world, owner, receiver.url("/"))
    found, _ = await settled(deliveries, owner, 2, "delivered")

    listed = await deliveries.ListWebhookDeliveries(ListWebhookDeliveriesRequest(), metadata=stranger)

    assert not listed.webhook_deliveries
    for call in (
        deliveries.GetWebhookDelivery(GetWebhookDeliveryRequest(id=found.id), metadata=stranger),
        deliveries.ReplayWebhookDelivery(ReplayWebhookDeliveryRequest(id=found.id), metadata=stranger),
    ):
        assert (await refusal_of(call)).reason == "NOT_FOUND"


@pytest.mark.parametrize("delivery_id", ["", "x", "msg_00000000000000000000000000", "whd_0123"])
async def test_there_is_nothing_under_an_id_that_is_none(deliveries, owner, delivery_id):
    refusals = [
        await refusal_of(deliveries.GetWebhookDelivery(GetWebhookDeliveryRequest(id=delivery_id), metadata=owner)),
        await refusal_of(
            deliveries.ReplayWebhookDelivery(ReplayWebhookDeliveryRequest(id=delivery_id), metadata=owner)
        ),
    ]

    assert {(each.code, each.reason) for each in refusals} == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")}


async def test_there_is_nothing_under_an_id_that_was_never_given(world, deliveries, owner):
    request = GetWebhookDeliveryRequest(id=new_id("whd", world.clock.now()))

    assert (await refusal_of(deliveries.GetWebhookDelivery(request, metadata=owner))).reason == "NOT_FOUND"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"status": "gone"}, "status"), ({"page_size": 0}, "pageSize"), ({"page_token": "x"}, "pageToken")],
)
async def test_refuses_a_filter_that_it_does_not_know(deliveries, owner, wrong, field):
    call = deliveries.ListWebhookDeliveries(ListWebhookDeliveriesRequest(**wrong), metadata=owner)

    refusal = await refusal_of(call)

    assert (refusal.reason, refusal.fields) == ("VALIDATION_ERROR", (field,))


@pytest.mark.parametrize("since", [None, Timestamp(seconds=10**15)])
async def test_replays_all_only_from_a_time_on(deliveries, owner, since):
    call = deliveries.ReplayWebhookDeliveries(ReplayWebhookDeliveriesRequest(since=since), metadata=owner)

    refusal = await refusal_of(call)

    assert (refusal.reason, refusal.fields) == ("VALIDATION_ERROR", ("since",))


async def test_every_call_needs_a_key(deliveries):
    for call in (
        deliveries.GetWebhookDelivery(GetWebhookDeliveryRequest(id="x")),
        deliveries.ListWebhookDeliveries(ListWebhookDeliveriesRequest()),
        deliveries.ReplayWebhookDelivery(ReplayWebhookDeliveryRequest(id="x")),
        deliveries.ReplayWebhookDeliveries(ReplayWebhookDeliveriesRequest()),
    ):
        assert (await refusal_of(call)).reason == "UNAUTHORIZED"


async def test_a_messages_timeline_tells_of_its_webhooks(world, deliveries, owner, receiver):
    answers = iter([Answer(status=410), Answer(), Answer()])
    receiver.answers["/"] = lambda _call: next(answers)
    message_id = await sent_message(world, owner, receiver.url("/"))
    (failed,) = await settled(deliveries, owner, 1, "failed", message_id=message_id)
    await settled(deliveries, owner, 1, "delivered", message_id=message_id)

    told: messages_service_pb2.GetMessageTimelineResponse = await world.messages.GetMessageTimeline(
        GetMessageTimelineRequest(id=message_id), metadata=owner
    )

    of_webhook = [entry for entry in told.entries if entry.webhook_delivery_id == failed.id]
    assert [(entry.event, entry.attempt) for entry in of_webhook] == [("webhook_attempt", 1), ("webhook_failed", 0)]
    assert of_webhook[0].detail.startswith(f"{failed.event} to the message's callback: answered 410 in ")
    assert of_webhook[1].detail == f"{failed.event} to the message's callback: the endpoint answered 410"
    assert "webhook_delivered" in [entry.event for entry in told.entries]
