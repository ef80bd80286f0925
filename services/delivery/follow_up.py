"""What carriers tell later: receipts and replies, taken in once each, and looked up where a carrier can be asked."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from servicekit.batching import Batcher
from servicekit.clock import Clock
from services.delivery import metrics
from services.delivery.carriers.base import Carrier, CarrierReceipt, CarrierReply, OutboundMessage
from services.delivery.carriers.registry import Carriers
from services.delivery.domain import MAX_CARRIER_ID_LENGTH, MAX_DETAIL_LENGTH, Message, Receipt
from services.delivery.receipt_rules import PARKED_FOR
from services.delivery.store import MessageStore, ReceiptResult

RECEIPTS_IN_COMMIT: Final = 200
LOOK_UP_AFTER_SECONDS: Final = 2.0
# Then each time when it has become older by a fifth, until nothing more is to be expected: 60 times in all.
LOOK_UP_GROWTH: Final = 1.2
LOOKED_UP_FOR: Final = timedelta(days=3)
LOOK_UP_CALL_SECONDS: Final = 10.0
LOOK_UPS_IN_ROUND: Final = 200
LOOK_UPS_AT_ONCE: Final = 32
SETTLED_AT_ONCE: Final = 500
# Our own commit follows within this time unless something is wrong, and what is older can wait for the next full sweep.
SETTLED_SOON: Final = timedelta(minutes=2)
SWEEPS_UNTIL_FULL: Final = 120

_LOGGED: Final = {
    ReceiptResult.APPLIED: "receipt applied",
    ReceiptResult.REPEATED: "receipt repeated",
    ReceiptResult.PARKED: "receipt parked until its message is known",
    ReceiptResult.UNKNOWN: "receipt for a message that this carrier never had",
}

log = structlog.get_logger(__name__)


class TakesReplies(Protocol):
    """Who stores inbound messages."""

    async def __call__(self, carrier: str, reply: CarrierReply) -> None:
        """Return when it is on disk. Raises UnavailableError."""


class FollowUp:
    """Takes in receipts by group commit, and hands on replies one by one."""

    def __init__(
        self,
        *,
        store: MessageStore,
        carriers: Carriers,
        clock: Clock,
        replies: TakesReplies,
    ) -> None:
        self._young_until = clock.now()  # until when a young receipt may be parked
        self._store = store
        self._replies = replies
        self._carriers = carriers
        self._clock = clock
        self._receipts = Batcher(self._apply, max_size=RECEIPTS_IN_COMMIT, name="receipts")
        self._stopped_at: dict[
            tuple[str, str], Message
        ] = {}  # where the last round of look-ups did, by carrier and kind
        self._began_at: dict[str, datetime] = {}  # the turn through all that a carrier has taken, by its name
        self._turn_seconds: dict[str, float] = {}  # from the turn before to that one
        self._sweeps = 0

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        """Take in one receipt; return when it is on disk."""
        told = Receipt(
            message_id=receipt.message_id,
            carrier=carrier,
            carrier_message_id=_storable(receipt.carrier_message_id)[:MAX_CARRIER_ID_LENGTH],
            attempt=receipt.attempt_number,
            part_ids=tuple(_storable(part_id)[:MAX_CARRIER_ID_LENGTH] for part_id in receipt.part_ids),
            status=receipt.status,
            failure=receipt.failure,
            detail=_storable(receipt.detail)[:MAX_DETAIL_LENGTH],
            received_at=self._clock.now(),
        )
        result = await self._receipts.submit(told)
        if result is ReceiptResult.PARKED:
            self._young_until = self._clock.now() + SETTLED_SOON
        metrics.receipts(carrier, result.value).inc()
        # The line that a message has is that of its attempt; what goes well afterwards is for whoever looks closer.
        level = logging.DEBUG if result is ReceiptResult.APPLIED else logging.INFO
        log.log(
            level,
            _LOGGED[result],
            carrier=carrier,
            message_id=told.message_id,
            carrier_message_id=told.carrier_message_id,
            status=told.status.value,
        )

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        """Take in one reply; return when it is on disk."""
        await self._replies(carrier, reply)

    async def drain(self) -> None:
        """Return when every receipt that came is on disk, or was refused."""
        await self._receipts.drain()

    async def settle_parked(self) -> int:
        """Apply receipts that came before their message was known; return how many are parked no more.

        Most sweeps look at young ones only, so that ids which never become known cost next to nothing, and only while
        there may be some: a process looks for those that it has parked, and now and then for those of others, which may
        have died.
        """
        is_full = self._sweeps % SWEEPS_UNTIL_FULL == 0
        self._sweeps += 1
        now = self._clock.now()
        if not is_full and now >= self._young_until:
            return 0
        settled = await self._store.settle_parked(
            SETTLED_AT_ONCE, since=now - (PARKED_FOR if is_full else SETTLED_SOON)
        )
        if is_full and await self._store.has_parked(since=now - SETTLED_SOON):
            self._young_until = now + SETTLED_SOON
        if settled:
            log.info("parked receipts settled", receipts=settled)
        return settled

    async def look_up_missing(self) -> int:
        """Ask carriers about messages whose receipt is overdue; return how many were told.

        Receipts can be lost while this process is down, and a carrier that can be asked need not be waited for.
        """
        askable = [carrier for carrier in self._carriers if carrier.can_look_up]
        overdue = [(carrier, message) for carrier in askable for message in await self._overdue(carrier.name)]
        # Several at once: the evidence must be here before its window ends, and the receipts share commits.
        gate = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
        return sum(await asyncio.gather(*(self._look_up(carrier, message, gate) for carrier, message in overdue)))

    async def _overdue(self, carrier: str) -> list[Message]:
        now = self._clock.now()
        before = now - timedelta(seconds=LOOK_UP_AFTER_SECONDS)
        in_doubt = await self._next_page(
            (carrier, "in doubt"),
            lambda after: self._store.in_doubt(carrier, unchanged_since=before, after=after, limit=LOOK_UPS_IN_ROUND),
        )
        kind = (carrier, "sent")
        is_first = kind not in self._stopped_at
        sent = await self._next_page(
            kind,
            lambda after: self._store.awaiting_receipt(
                carrier, sent_after=now - LOOKED_UP_FOR, sent_before=before, after=after, limit=LOOK_UPS_IN_ROUND
            ),
        )
        if is_first:  # and was read: a turn that could not be begun is made up for
            began_at, self._began_at[carrier] = self._began_at.get(carrier), now
            self._turn_seconds[carrier] = (now - began_at).total_seconds() if began_at else math.inf
        return in_doubt + [message for message in sent if self._is_to_be_asked_about(message, now)]

    def _is_to_be_asked_about(self, message: Message, now: datetime) -> bool:
        # Nothing is kept for each message: its age tells how often it is to have been asked about, now and a turn ago.
        sent_at = message.sent_at or message.updated_at
        age_seconds = (now - sent_at).total_seconds()
        return look_ups_by(age_seconds) > look_ups_by(age_seconds - self._turn_seconds[message.carrier])

    async def _next_page(
        self, kind: tuple[str, str], read: Callable[[Message | None], Awaitable[list[Message]]]
    ) -> list[Message]:
        # Each round goes on behind the last one, so that messages which a carrier never settles starve no others.
        page = await read(self._stopped_at.get(kind))
        if len(page) == LOOK_UPS_IN_ROUND:
            self._stopped_at[kind] = page[-1]
        else:
            self._stopped_at.pop(kind, None)
        return page

    async def _look_up(self, carrier: Carrier, message: Message, gate: asyncio.Semaphore) -> bool:
        async with gate:
            try:
                async with asyncio.timeout(LOOK_UP_CALL_SECONDS):
                    receipt = await carrier.look_up(_outbound(message))
            except Exception as error:  # noqa: BLE001  # whatever is wrong with one answer, the others are asked for too
                log.warning("look-up failed", carrier=carrier.name, message_id=message.id, error=type(error).__name__)
                return False
        if receipt:
            await self.receipt(carrier.name, receipt)
        return receipt is not None

    async def _apply(self, receipts: Sequence[Receipt]) -> list[ReceiptResult]:
        return await self._store.apply_receipts(receipts)


def look_ups_by(age_seconds: float) -> int:
    """Return how often a carrier is to have been asked about a message that it took so long ago."""
    if age_seconds < LOOK_UP_AFTER_SECONDS:
        return 0
    return 1 + int(math.log(age_seconds / LOOK_UP_AFTER_SECONDS, LOOK_UP_GROWTH))


def _storable(text: str) -> str:
    # A carrier's own words may hold what PostgreSQL does not take, and a receipt must not fail for that.
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _outbound(message: Message) -> OutboundMessage:
    return OutboundMessage(
        message_id=message.id,
        attempt_number=message.attempts,
        to=message.to,
        sender=message.sender,
        text=message.text,
    )
