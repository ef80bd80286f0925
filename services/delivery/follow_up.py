"""What carriers tell later: receipts and replies, taken in once each, and looked up where a carrier can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog

from servicekit.batching import Batcher
from servicekit.clock import Clock
from servicekit.ids import new_id
from servicekit.logs import masked_number
from services.delivery.carriers.base import CarrierReceipt, CarrierReply, OutboundMessage
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import MAX_DETAIL_LENGTH, Message, Receipt, Reply
from services.delivery.store import MessageStore

RECEIPTS_IN_COMMIT: Final = 200
LOOK_UP_AFTER_SECONDS: Final = 2.0
LOOK_UPS_IN_ROUND: Final = 200
LOOK_UPS_AT_ONCE: Final = 32
MATCH_WINDOW: Final = timedelta(days=7)

log = structlog.get_logger(__name__)


class FollowUp:
    """Takes in receipts by group commit, and replies one by one."""

    def __init__(self, *, store: MessageStore, carriers: Carriers, clock: Clock) -> None:
        self._store = store
        self._carriers = carriers
        self._clock = clock
        self._receipts = Batcher(self._apply, max_size=RECEIPTS_IN_COMMIT)

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        """Apply one receipt; return when it is on disk."""
        known = await self._receipts.submit(
            Receipt(
                message_id=receipt.message_id,
                status=receipt.status,
                failure=receipt.failure,
                detail=receipt.detail[:MAX_DETAIL_LENGTH],
                received_at=self._clock.now(),
            )
        )
        log.info(
            "receipt applied" if known else "receipt for an unknown message",
            message=receipt.message_id,
            carrier=carrier,
            status=receipt.status.value,
        )

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        """Store one reply with the message that it answers."""
        now = self._clock.now()
        stored = Reply(
            id=new_id("mo", now),
            carrier=carrier,
            carrier_reply_id=reply.carrier_reply_id,
            sender=reply.sender,
            recipient=reply.recipient,
            text=reply.text,
            received_at=now,
        )
        await self._store.add_reply(stored, now - MATCH_WINDOW)
        log.info("reply received", reply=stored.id, carrier=carrier, sender=masked_number(reply.sender))

    async def drain(self) -> None:
        """Return when every receipt that came is on disk, or was refused."""
        await self._receipts.drain()

    async def look_up_missing(self) -> int:
        """Ask carriers about messages whose receipt is overdue; return how many were told.

        Receipts can be lost while this process is down, and a carrier that can be asked need not be waited for.
        """
        overdue = await self._store.awaiting_receipt(
            [carrier.name for carrier in self._carriers if carrier.can_look_up],
            self._clock.now() - timedelta(seconds=LOOK_UP_AFTER_SECONDS),
            LOOK_UPS_IN_ROUND,
        )
        # Several at once: the evidence must be here before its window ends, and the receipts share commits.
        gate = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
        return sum(await asyncio.gather(*(self._look_up(message, gate) for message in overdue)))

    async def _look_up(self, message: Message, gate: asyncio.Semaphore) -> bool:
        carrier = self._carriers.named(message.carrier)
        if carrier is None:
            return False
        async with gate:
            receipt = await carrier.look_up(_outbound(message))
        if receipt:
            await self.receipt(message.carrier, receipt)
        return receipt is not None

    async def _apply(self, receipts: Sequence[Receipt]) -> list[bool]:
        return await self._store.apply_receipts(receipts)


def _outbound(message: Message) -> OutboundMessage:
    return OutboundMessage(
        message_id=message.id,
        attempt_number=message.attempts,
        to=message.to,
        sender=message.sender,
        text=message.text,
    )
