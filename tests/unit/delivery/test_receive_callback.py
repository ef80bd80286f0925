"""What is done with a carrier's callback."""

from __future__ import annotations

import asyncio

import pytest

from servicekit.errors import NotFoundError, UnavailableError
from services.delivery.carriers.base import (
    Callback,
    CallbackAnswer,
    CallbackKind,
    CallbackUnauthenticatedError,
    CarrierReceipt,
    CarrierReply,
    ReadCallback,
    Status,
)
from services.delivery.carriers.registry import Carriers
from services.delivery.errors import CallbackTooLargeError
from services.delivery.receive_callback import MAX_CALLBACK_BYTES, ReceiveCallback
from tests.unit.delivery.test_dispatch import ScriptedCarrier

RECEIPTS = tuple(
    CarrierReceipt(status=Status.DELIVERED, failure=None, detail="", carrier_message_id=f"c-{number}")
    for number in range(3)
)
REPLY = CarrierReply(carrier_reply_id="r-1", sender="+6581230000", recipient="+6598765432", text="YES")
ANSWER = CallbackAnswer(status=200, content_type="text/plain", body=b"ACK")


class CallingCarrier(ScriptedCarrier):
    """Calls back, and reads what it is told to."""

    def __init__(self) -> None:
        super().__init__(name="main")
        self.says: ReadCallback | Exception = ReadCallback(answer=ANSWER, receipts=RECEIPTS, replies=(REPLY,))
        self.seen: list[Callback] = []

    def read(self, callback: Callback) -> ReadCallback:
        self.seen.append(callback)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class FakeEvents:
    """Takes events in, once all of one callback are there."""

    def __init__(self, expected: int = 1) -> None:
        self.told: list[tuple[str, object]] = []
        self.together = asyncio.Barrier(expected)
        self.is_down = False

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        await self._take(carrier, receipt)

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        await self._take(carrier, reply)

    async def _take(self, carrier: str, event: object) -> None:
        if self.is_down:
            raise UnavailableError("The database can not be used just now.")
        await self.together.wait()
        self.told.append((carrier, event))


def callback(clock, body: bytes = b"a=1") -> Callback:
    return Callback(
        kind=CallbackKind.STATUS, method="POST", url="", query="", headers={}, body=body, received_at=clock.now()
    )


@pytest.fixture
def carrier() -> CallingCarrier:
    return CallingCarrier()


async def test_takes_in_all_that_a_callback_says_before_it_is_answered(carrier, clock):
    # Each waits for the others, as those do that share a commit.
    events = FakeEvents(expected=4)

    answer = await ReceiveCallback(carriers=Carriers(carrier), events=events)("main", callback(clock))

    assert answer == ANSWER
    assert set(events.told) == {("main", event) for event in (*RECEIPTS, REPLY)}


@pytest.mark.parametrize("name", ["other", "", "mute"])
async def test_knows_no_carrier_that_is_not_configured_or_does_not_call_back(carrier, clock, name):
    receive = ReceiveCallback(carriers=Carriers(carrier, ScriptedCarrier(name="mute")), events=FakeEvents())

    with pytest.raises(NotFoundError):
        await receive(name, callback(clock))


async def test_reads_a_body_up_to_the_limit_and_none_beyond(carrier, clock):
    carrier.says = ReadCallback(answer=ANSWER)
    receive = ReceiveCallback(carriers=Carriers(carrier), events=FakeEvents())

    assert await receive("main", callback(clock, b"x" * MAX_CALLBACK_BYTES)) == ANSWER
    with pytest.raises(CallbackTooLargeError) as caught:
        await receive("main", callback(clock, b"x" * (MAX_CALLBACK_BYTES + 1)))

    assert caught.value.extras == {"limit": 65_536}
    assert len(carrier.seen) == 1


async def test_takes_nothing_in_that_the_carrier_did_not_verify(carrier, clock):
    carrier.says = CallbackUnauthenticatedError()
    events = FakeEvents()

    with pytest.raises(CallbackUnauthenticatedError):
        await ReceiveCallback(carriers=Carriers(carrier), events=events)("main", callback(clock))

    assert events.told == []


async def test_is_not_answered_when_it_could_not_be_stored(carrier, clock):
    events = FakeEvents()
    events.is_down = True

    with pytest.raises(UnavailableError) as caught:
        await ReceiveCallback(carriers=Carriers(carrier), events=events)("main", callback(clock))

    assert caught.value.retry_after_seconds == 1
