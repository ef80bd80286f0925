"""What every carrier guarantees to Delivery."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from services.delivery.carriers.base import (
    Capability,
    Carrier,
    CarrierReceipt,
    CarrierReply,
    OutboundMessage,
    Refused,
    Taken,
    TryLater,
)
from services.delivery.carriers.http.carrier import HttpCarrier
from services.delivery.carriers.http.definition import Installation, load_definition, shipped
from services.delivery.carriers.simulator import Simulator
from services.delivery.carriers.smpp.carrier import SmppCarrier
from services.delivery.carriers.smpp.link import SmppLink
from services.delivery.domain import FailureReason, Status
from tests.fakes.smsc import FakeSmsc
from tests.kit.carrier import serving


@dataclass
class Events:
    """Keeps what a carrier tells."""

    receipts: list[CarrierReceipt] = field(default_factory=list)
    replies: list[CarrierReply] = field(default_factory=list)

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        self.receipts.append(receipt)

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        self.replies.append(reply)


@dataclass(kw_only=True)
class Subject:
    """A carrier, and the recipients for whom it plays each case of the suite."""

    carrier: Carrier
    tells_receipts: bool  # by itself; else it is asked
    brings_replies: bool
    delivered: str = "+6581230000"
    refused: str = "+6581230001"
    tries_later: str = "+6581230002"
    hangs: str = "+6581230003"
    undelivered: str = "+6581230004"
    replies: str = "+6581230005"

    async def receipt(self, events: Events, message: OutboundMessage) -> CarrierReceipt:
        """Return what the carrier tells of a message, however it tells it."""
        if not self.tells_receipts and not self.carrier.can_look_up:
            pytest.skip("this carrier has no receipts")
        async with asyncio.timeout(2):
            while True:
                told = events.receipts[0] if events.receipts else None
                if not self.tells_receipts:
                    told = await self.carrier.look_up(message)
                if told:
                    return told
                await asyncio.sleep(0.01)


@pytest.fixture(params=["simulator", "http blind", "http reconcilable", "http idempotent", "smpp"])
async def subject(request, tmp_path, clock):
    kind, _, capability = request.param.partition(" ")
    if kind == "simulator":
        carrier = Simulator("+6598765432")
        yield Subject(carrier=carrier, tells_receipts=True, brings_replies=True)
        await carrier.stop()
        return
    if kind == "smpp":
        async with FakeSmsc() as smsc:
            link = SmppLink(name="smsc", sender="+6598765432", host="127.0.0.1", port=smsc.port, system_id="textway")
            carrier = SmppCarrier(link, clock)
            yield Subject(carrier=carrier, tells_receipts=True, brings_replies=True)
            await carrier.stop()
        return
    async with serving(tmp_path / "carrier.log", capability=capability) as url:
        installation = Installation(
            name="main", sender="+6598765432", settings={"url": url}, capability=Capability(capability)
        )
        carrier = HttpCarrier(load_definition(shipped()["own-gateway"]), installation, clock)
        yield Subject(carrier=carrier, tells_receipts=False, brings_replies=False)
        await carrier.stop()


@pytest.fixture
async def events(subject) -> Events:
    listening = Events()
    await subject.carrier.start(listening)
    return listening


def outbound(to: str, *, text: str = "hello", attempt_number: int = 1) -> OutboundMessage:
    return OutboundMessage(
        message_id="msg_01m82aa6rjf2w4dfra4tnmseb0",
        attempt_number=attempt_number,
        to=to,
        sender="+6598765432",
        text=text,
    )


async def until(condition) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("text", ["hello", "Ünïcode 😀 " * 20, "x" * 1600])
async def test_takes_a_message(subject, events, text):
    result = await subject.carrier.send(outbound(subject.delivered, text=text))

    assert isinstance(result, Taken)
    assert result.carrier_message_id


async def test_tells_that_a_message_was_delivered(subject, events):
    await subject.carrier.send(outbound(subject.delivered))

    receipt = await subject.receipt(events, outbound(subject.delivered))

    assert (receipt.message_id, receipt.status) == ("msg_01m82aa6rjf2w4dfra4tnmseb0", Status.DELIVERED)
    assert receipt.failure is None


async def test_refuses_for_good_with_a_canonical_reason(subject, events):
    result = await subject.carrier.send(outbound(subject.refused))

    assert isinstance(result, Refused)
    assert result.failure.reason is FailureReason.INVALID_NUMBER
    assert result.failure.carrier_code


async def test_says_when_a_message_may_be_tried_later(subject, events):
    results = [await subject.carrier.send(outbound(subject.tries_later, attempt_number=n)) for n in (1, 2, 3)]

    assert [type(result) for result in results] == [TryLater, TryLater, Taken]


async def test_can_be_given_up_on_while_it_hangs(subject, events):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await subject.carrier.send(outbound(subject.hangs))

    assert events.receipts == []


async def test_tells_why_a_message_was_not_delivered(subject, events):
    await subject.carrier.send(outbound(subject.undelivered))

    receipt = await subject.receipt(events, outbound(subject.undelivered))

    assert receipt.status is Status.UNDELIVERED
    assert receipt.failure.reason is FailureReason.UNREACHABLE


async def test_brings_the_reply_of_a_recipient(subject, events):
    if not subject.brings_replies:
        pytest.skip("this carrier has no replies")

    await subject.carrier.send(outbound(subject.replies))

    await until(lambda: events.replies)
    (reply,) = events.replies
    assert (reply.sender, reply.recipient, reply.text) == (subject.replies, "+6598765432", "YES")


async def test_tells_when_it_is_asked_what_it_would_have_told_by_a_receipt(subject, events):
    if not (subject.carrier.can_look_up and subject.tells_receipts):
        pytest.skip("this carrier does not do both")
    await subject.carrier.send(outbound(subject.delivered))
    await until(lambda: events.receipts)

    assert await subject.carrier.look_up(outbound(subject.delivered)) == events.receipts[0]


async def test_gives_a_second_message_with_the_same_id_the_same_carrier_id(subject, events):
    if subject.carrier.capability is not Capability.IDEMPOTENT:
        pytest.skip("this carrier does not take our id as a key")

    first, second = [await subject.carrier.send(outbound(subject.delivered)) for _ in range(2)]

    assert first == second
