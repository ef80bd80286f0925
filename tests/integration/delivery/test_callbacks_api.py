"""A carrier's callback, from gRPC to the message that it is about."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.errors import UnavailableError
from services.delivery import service
from services.delivery.carriers.base import (
    Callback,
    CallbackAnswer,
    CallbackUnauthenticatedError,
    CallbackUnreadableError,
    Capability,
    CarrierReceipt,
    CarrierReply,
    OutboundMessage,
    ReadCallback,
    SendResult,
    Status,
    Taken,
)
from services.delivery.carriers.registry import Carriers
from services.delivery.carriers.simulator import Simulator
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import ReceiptResult
from services.delivery.webhook_directory import TRUSTED_SECONDS
from tests.integration.delivery.conftest import PATIENCE_SECONDS, World, message_with, refusal_of
from textway.delivery.v1.callbacks_service_pb2 import ReceiveInboundRequest, ReceiveStatusRequest
from textway.delivery.v1.callbacks_service_pb2_grpc import CallbacksServiceStub
from textway.delivery.v1.messages_service_pb2 import GetMessageTimelineRequest, SendMessageRequest
from textway.delivery.v1.webhook_deliveries_service_pb2 import ListWebhookDeliveriesRequest
from textway.delivery.v1.webhook_deliveries_service_pb2_grpc import WebhookDeliveriesServiceStub
from textway.integrations.v1.registry_service_pb2 import WebhookTarget

SIGNED = "signed by the carrier"


class CallingCarrier:
    """Takes every message, and reads callbacks of the form `<status> <its id>`."""

    name = "main"
    kind = "scripted"
    sender = "+6598765432"
    capability = Capability.RECONCILABLE
    can_look_up = False

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []
        self.seen: list[Callback] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def start(self, events: object) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to finish."""

    async def send(self, message: OutboundMessage) -> SendResult:
        self.sent.append(message)
        await self.may_answer.wait()
        return Taken(carrier_message_id=f"c-{message.message_id}", detail="taken")

    def read(self, callback: Callback) -> ReadCallback:
        self.seen.append(callback)
        if not hmac.compare_digest(callback.headers.get("x-signature", ""), SIGNED):
            raise CallbackUnauthenticatedError
        answer = CallbackAnswer(status=200, content_type="text/plain", body=b"ACK")
        if callback.kind.value == "inbound":
            reply = CarrierReply(
                carrier_reply_id="r-1", sender="+6581230000", recipient=self.sender, text=callback.body.decode()
            )
            return ReadCallback(answer=answer, replies=(reply,))
        status, _, its_id = callback.body.decode().partition(" ")
        if status not in {"sent", "delivered", "undelivered"}:
            raise CallbackUnreadableError("has no status")
        receipt = CarrierReceipt(status=Status(status), failure=None, detail="its word", carrier_message_id=its_id)
        return ReadCallback(answer=answer, receipts=(receipt,))


@pytest.fixture
def carrier() -> CallingCarrier:
    return CallingCarrier()


@pytest.fixture
async def world(unstarted_world: World, carrier: CallingCarrier, monkeypatch) -> AsyncIterator[World]:
    both = Carriers(carrier, Simulator("+6598765432"))
    monkeypatch.setattr(service, "configured_carriers", lambda *_: both)
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"public_url": "https://sms.example/base/"})
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


async def tell(
    world: World, body: bytes, carrier: str = "main", headers: Mapping[str, str] | None = None, rpc: str = "status"
) -> tuple[HttpBody, dict[str, str]]:
    stub = CallbacksServiceStub(world.channel)
    method, request = {
        "status": (stub.ReceiveStatus, ReceiveStatusRequest),
        "inbound": (stub.ReceiveInbound, ReceiveInboundRequest),
    }[rpc]
    payload = HttpBody(content_type="text/odd", data=body)
    metadata = tuple((headers or {"x-signature": SIGNED}).items())
    call = method(request(carrier=carrier, payload=payload), metadata=metadata)
    answer = await call
    return answer, dict(await call.initial_metadata())


async def sent_message(world: World, owner, carrier: CallingCarrier) -> str:
    sent = await world.messages.SendMessage(SendMessageRequest(to="+6581230000", text="hello"), metadata=owner)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(each.message_id == sent.id for each in carrier.sent):
            await asyncio.sleep(0.01)
    return sent.id


async def test_a_receipt_moves_its_message_and_is_answered_as_the_carrier_wants(world, owner, carrier):
    message_id = await sent_message(world, owner, carrier)
    await message_with(world.messages, owner, message_id, "sent")

    answer, headers = await tell(world, f"delivered c-{message_id}".encode())

    assert (answer.data, answer.content_type, headers["x-http-status"]) == (b"ACK", "text/plain", "200")
    assert (await message_with(world.messages, owner, message_id, "sent", "delivered")).status == "delivered"
    told = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=message_id), metadata=owner)
    assert [(entry.carrier, entry.attempt) for entry in told.entries if entry.event == "receipt"] == [("main", 1)]


async def test_a_receipt_that_comes_before_the_carriers_own_answer_is_not_lost(world, owner, carrier):
    carrier.may_answer.clear()
    message_id = await sent_message(world, owner, carrier)

    await tell(world, f"delivered c-{message_id}".encode())
    carrier.may_answer.set()

    assert (await message_with(world.messages, owner, message_id, "delivered")).carrier_message_id == f"c-{message_id}"


async def test_a_reply_is_stored_with_the_message_that_it_answers(world, owner, carrier):
    message_id = await sent_message(world, owner, carrier)
    await message_with(world.messages, owner, message_id, "sent")

    await tell(world, b"YES", rpc="inbound")

    told = await world.messages.GetMessageTimeline(GetMessageTimelineRequest(id=message_id), metadata=owner)
    assert [entry.detail for entry in told.entries if entry.event == "reply"] == ["YES"]


async def test_the_first_reply_goes_to_a_webhook_that_was_set_after_the_message_had_gone(world, owner, carrier):
    message_id = await sent_message(world, owner, carrier)
    await message_with(world.messages, owner, message_id, "sent")
    url = "https://127.0.0.1:1/"  # refused: what counts is that there is a delivery
    events = ["message.received"]
    world.registry.webhooks["ten_mine"] = WebhookTarget(url=url, enabled=True, secrets=[], events=events)
    # Long enough for Delivery's last answer about this tenant, that it wants nothing, to be no longer trusted.
    world.clock.shift_seconds += TRUSTED_SECONDS

    await tell(world, b"YES", rpc="inbound")

    deliveries = WebhookDeliveriesServiceStub(world.channel)
    found = await deliveries.ListWebhookDeliveries(ListWebhookDeliveriesRequest(), metadata=owner)
    assert [(each.event, each.message_id) for each in found.webhook_deliveries] == [("message.received", message_id)]


async def test_the_carrier_sees_the_call_as_it_made_it_and_nothing_of_ours(world, carrier):
    ours = {"x-textway-method": "GET", "x-textway-query": "b=2&a=%7e", "x-request-id": "r", "x-envoy-internal": "1"}
    theirs = {"x-signature": SIGNED, "telnyx-timestamp": "1", "test": "kept"}

    await tell(world, b"sent c-1", headers={**ours, **theirs})

    (seen,) = carrier.seen
    assert (seen.method, seen.query, seen.body) == ("GET", "b=2&a=%7e", b"sent c-1")
    assert seen.url == "https://sms.example/base/v1/carriers/main/status?b=2&a=%7e"
    assert {**theirs, "content-type": "text/odd"}.items() <= seen.headers.items()
    assert not set(ours) & set(seen.headers)


@pytest.mark.parametrize("name", ["nobody", "simulator", "MAIN", ""])
async def test_there_is_nothing_at_the_address_of_a_carrier_that_does_not_call_back(world, name):
    refusal = await refusal_of(tell(world, b"sent c-1", carrier=name))

    assert (refusal.code, refusal.http_status) == (grpc.StatusCode.NOT_FOUND, "404")


async def test_every_callback_that_is_not_the_carriers_gets_the_same_answer(world):
    refusals = [
        await refusal_of(tell(world, body, headers={"x-signature": signature}))
        for body, signature in [(b"sent c-1", "x"), (b"", ""), (b"nonsense", SIGNED[:-1])]
    ]

    assert {(each.http_status, each.reason, each.message) for each in refusals} == {
        ("401", "INVALID_SIGNATURE", "The callback is not signed as this carrier signs.")
    }


async def test_a_callback_that_can_not_be_read_is_refused_for_good(world):
    refusal = await refusal_of(tell(world, b"\x00"))

    assert (refusal.http_status, refusal.reason, refusal.fields) == ("400", "VALIDATION_ERROR", ("body",))


async def test_a_callback_over_the_limit_is_refused(world, carrier):
    refusal = await refusal_of(tell(world, b"x" * 65_537))

    assert (refusal.http_status, refusal.reason) == ("413", "PAYLOAD_TOO_LARGE")
    assert carrier.seen == []


async def test_a_callback_that_can_not_be_stored_is_to_be_repeated(world, monkeypatch):
    async def down(*_: object) -> list[ReceiptResult]:
        raise UnavailableError("The database can not be used just now. Send the request again.")

    monkeypatch.setattr(SqlMessageStore, "apply_receipts", down)

    refusal = await refusal_of(tell(world, b"sent c-1"))

    assert (refusal.http_status, refusal.reason) == ("503", "UNAVAILABLE")
