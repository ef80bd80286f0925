"""What every carrier guarantees to Delivery."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from services.delivery.carriers.base import (
    Capability,
    CarrierReceipt,
    CarrierReply,
    OutboundMessage,
    Refused,
    Taken,
    TryLater,
)
from services.delivery.carriers.simulator import Simulator
from services.delivery.domain import FailureReason, Status


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

    carrier: Simulator
    delivered: str
    refused: str
    tries_later: str
    hangs: str
    undelivered: str
    replies: str


@pytest.fixture(params=["simulator"])
async def subject(request):
    made = Subject(
        carrier=Simulator("+6598765432"),
        delivered="+6581230000",
        refused="+6581230001",
        tries_later="+6581230002",
        hangs="+6581230003",
        undelivered="+6581230004",
        replies="+6581230005",
    )
    yield made
    await made.carrier.stop()


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
async def test_takes_a_message_and_tells_that_it_was_delivered(subject, events, text):
    result = await subject.carrier.send(outbound(subject.delivered, text=text))

    await until(lambda: events.receipts)
    assert isinstance(result, Taken)
    assert result.carrier_message_id
    assert [(each.message_id, each.status) for each in events.receipts] == [
        ("msg_01m82aa6rjf2w4dfra4tnmseb0", Status.DELIVERED)
    ]


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

    await until(lambda: events.receipts)
    assert events.receipts[0].status is Status.UNDELIVERED
    assert events.receipts[0].failure.reason is FailureReason.UNREACHABLE


async def test_brings_the_reply_of_a_recipient(subject, events):
    await subject.carrier.send(outbound(subject.replies))

    await until(lambda: events.replies)
    (reply,) = events.replies
    assert (reply.sender, reply.recipient, reply.text) == (subject.replies, "+6598765432", "YES")


async def test_tells_when_it_is_asked_what_it_would_have_told_by_a_receipt(subject, events):
    if not subject.carrier.can_look_up:
        pytest.skip("this carrier can not be asked")
    await subject.carrier.send(outbound(subject.delivered))
    await until(lambda: events.receipts)

    assert await subject.carrier.look_up(outbound(subject.delivered)) == events.receipts[0]


async def test_gives_a_second_message_with_the_same_id_the_same_carrier_id(subject, events):
    if subject.carrier.capability is not Capability.IDEMPOTENT:
        pytest.skip("this carrier does not take our id as a key")

    first, second = [await subject.carrier.send(outbound(subject.delivered)) for _ in range(2)]

    assert first == second
