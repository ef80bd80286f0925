"""The simulated carrier: sends nothing, and plays a role that the recipient's number picks.

No documentation but the table of magic numbers in README.md. No limits. Any number that is not in the table is
delivered. It takes our message id as a key, and what it does depends on the message alone, so it tells the same story
after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from servicekit.errors import UnavailableError
from services.delivery.carriers.base import (
    Capability,
    CarrierEvents,
    CarrierReceipt,
    CarrierReply,
    Failure,
    FailureReason,
    OutboundMessage,
    Refused,
    SendResult,
    Status,
    Taken,
    TryLater,
)

NAME: Final = "simulator"
RECEIPT_DELAY_SECONDS: Final = 0.1
REPLY_DELAY_SECONDS: Final = 0.2
FAILURES: Final = 2


_Tell = Callable[[OutboundMessage], Awaitable[None]]


class Role(Enum):
    """What the simulated handset and its network do."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    FAILS_TWICE = "fails_twice"
    HANGS = "hangs"
    UNDELIVERED = "undelivered"
    REPLIES = "replies"
    OPTS_OUT = "opts_out"


MAGIC_NUMBERS: Final = {
    "+6581230001": Role.REFUSED,
    "+6581230002": Role.FAILS_TWICE,
    "+6581230003": Role.HANGS,
    "+6581230004": Role.UNDELIVERED,
    "+6581230005": Role.REPLIES,
    "+6581230006": Role.OPTS_OUT,
}
REPLY_TEXTS: Final = {Role.REPLIES: "YES", Role.OPTS_OUT: "STOP"}


class Simulator:
    """Plays every role of the table."""

    kind = "simulator"
    capability = Capability.IDEMPOTENT
    can_look_up = True

    def __init__(self, sender: str, name: str = NAME) -> None:
        self.name = name
        self.sender = sender
        self._events: CarrierEvents | None = None
        self._later: set[asyncio.Task[None]] = set()

    async def start(self, events: CarrierEvents) -> None:
        """Tell receipts and replies to `events` from now on."""
        self._events = events

    async def stop(self) -> None:
        """Drop what is still to be told: `look_up` tells it after a restart."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def send(self, message: OutboundMessage) -> SendResult:
        """Answer as the recipient's role demands."""
        role = _role(message)
        match role:
            case Role.REFUSED:
                return Refused(
                    failure=Failure(reason=FailureReason.INVALID_NUMBER, carrier_code="sim-404"),
                    detail="simulated: no such number",
                )
            case Role.FAILS_TWICE if message.attempt_number <= FAILURES:
                return TryLater(
                    failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE, carrier_code="sim-503"),
                    detail=f"simulated: failure {message.attempt_number} of {FAILURES}",
                )
            case Role.HANGS:
                await asyncio.Event().wait()
        self._tell_later(self._tell_receipt, message)
        if role in REPLY_TEXTS:
            self._tell_later(self._tell_reply, message)
        return Taken(carrier_message_id=f"sim-{message.message_id}", detail="simulated: taken")

    async def look_up(self, message: OutboundMessage) -> CarrierReceipt | None:
        """Return the receipt that the message gets, or has got."""
        return _receipt(message)

    def _tell_later(self, tell: _Tell, message: OutboundMessage) -> None:
        task = asyncio.create_task(_told_or_lost(tell, message))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _tell_receipt(self, message: OutboundMessage) -> None:
        await asyncio.sleep(RECEIPT_DELAY_SECONDS)
        if self._events:
            await self._events.receipt(self.name, _receipt(message))

    async def _tell_reply(self, message: OutboundMessage) -> None:
        await asyncio.sleep(REPLY_DELAY_SECONDS)
        if self._events:
            reply = CarrierReply(
                carrier_reply_id=f"sim-{message.message_id}",
                sender=message.to,
                recipient=message.sender,
                text=REPLY_TEXTS[_role(message)],
            )
            await self._events.reply(self.name, reply)


async def _told_or_lost(tell: _Tell, message: OutboundMessage) -> None:
    # What can not be stored just now is told by `look_up` later.
    with contextlib.suppress(UnavailableError):
        await tell(message)


def _role(message: OutboundMessage) -> Role:
    return MAGIC_NUMBERS.get(message.to, Role.DELIVERED)


def _receipt(message: OutboundMessage) -> CarrierReceipt:
    if _role(message) is Role.UNDELIVERED:
        return CarrierReceipt(
            message_id=message.message_id,
            status=Status.UNDELIVERED,
            failure=Failure(reason=FailureReason.UNREACHABLE, carrier_code="sim-off"),
            detail="simulated: the handset is switched off",
        )
    return CarrierReceipt(
        message_id=message.message_id, status=Status.DELIVERED, failure=None, detail="simulated: delivered"
    )
