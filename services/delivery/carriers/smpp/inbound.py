"""What an SMSC tells: receipts and replies, each on disk before the SMSC may forget it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from servicekit.clock import Clock
from services.delivery.carriers.base import CarrierEvents, CarrierReceipt, CarrierReply
from services.delivery.carriers.smpp import statuses
from services.delivery.carriers.smpp.assembly import Assembler, PartKey
from services.delivery.carriers.smpp.ids import MessageIds
from services.delivery.carriers.smpp.link import AnswerParts, SmppLink
from services.delivery.carriers.smpp.pdu import Delivery
from services.delivery.carriers.smpp.receipts import is_receipt, read_receipt
from services.delivery.carriers.smpp.reply_ids import ReplyIds, has_own_id, id_of_parts
from services.delivery.carriers.smpp.submissions import number_from
from services.delivery.carriers.smpp.text import Part, decode, part_of

SWEEP_SECONDS: Final = 5.0
GAP: Final = " [...] "  # where a part of a long message never came

log = structlog.get_logger(__name__)


class Inbound:
    """Reads every `deliver_sm` of one carrier, over whichever link it comes."""

    def __init__(self, link: SmppLink, clock: Clock, ids: MessageIds, events: CarrierEvents) -> None:
        self._link = link
        self._clock = clock
        self._ids = ids
        self._events = events
        self._reply_ids = ReplyIds()
        self._assembler = Assembler(
            carrier=link.name,
            clock=clock,
            tell=self._tell_parts,
            at_once=link.answer_parts is AnswerParts.AT_ONCE,
        )

    async def take(self, delivery: Delivery, link_identity: object) -> int:
        """Store what a `deliver_sm` says, and return the status to answer it with."""
        try:
            if is_receipt(delivery):
                await self._take_receipt(delivery)
                return statuses.OK
            stored = await self._take_reply(delivery, link_identity)
        except Exception as error:  # noqa: BLE001  # whatever keeps it from the disk, the SMSC is to keep it
            log.error("a deliver_sm could not be stored", carrier=self._link.name, problem=type(error).__name__)
            return statuses.TEMPORARY_APPLICATION_ERROR
        return statuses.OK if stored else statuses.TEMPORARY_APPLICATION_ERROR

    async def sweep(self) -> None:
        """Tell overdue parts, for ever."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self._assembler.tell_overdue()
            except Exception as error:  # noqa: BLE001  # it is tried again
                log.error("parts could not be stored", carrier=self._link.name, problem=type(error).__name__)

    async def close(self) -> None:
        """Store what only this process has."""
        try:
            await self._assembler.close()
        except Exception as error:  # noqa: BLE001  # the process ends either way
            log.error("parts could not be stored, and are lost", carrier=self._link.name, problem=type(error).__name__)

    async def _take_receipt(self, delivery: Delivery) -> None:
        receipt = read_receipt(delivery)
        # A receipt goes the other way: its source is the message's recipient.
        carrier_message_id, message_id = self._ids.of_receipt(
            receipt.id_text, to=delivery.source.text, reference=receipt.reference
        )
        if not (carrier_message_id or message_id):
            log.warning("a receipt names no message", carrier=self._link.name)
            return
        await self._events.receipt(
            self._link.name,
            CarrierReceipt(
                status=receipt.status,
                failure=receipt.failure,
                detail=receipt.detail,
                message_id=message_id,
                carrier_message_id=carrier_message_id,
            ),
        )

    async def _take_reply(self, delivery: Delivery, link_identity: object) -> bool:
        part = part_of(delivery)
        sender = number_from(delivery.source, self._link.default_region)
        recipient = number_from(delivery.destination, self._link.default_region)
        if part.reference:
            key = PartKey(sender=sender, recipient=recipient, reference=part.reference, total=part.total)
            return await self._assembler.take(key, part)
        reply_id = self._reply_ids.id_of(delivery, link_identity, self._clock.now())
        reply = CarrierReply(
            carrier_reply_id=reply_id,
            has_own_id=has_own_id(delivery),
            sender=sender,
            recipient=recipient,
            text=decode([part], alphabet=self._link.alphabet),
        )
        await self._events.reply(self._link.name, reply)
        self._reply_ids.answered(delivery)
        return True

    async def _tell_parts(self, key: PartKey, parts: Sequence[Part]) -> None:
        reply_id = id_of_parts(key.sender, key.recipient, key.reference, parts, self._clock.now())
        text = GAP.join(decode(run, alphabet=self._link.alphabet) for run in _runs(parts))
        reply = CarrierReply(
            carrier_reply_id=reply_id, has_own_id=False, sender=key.sender, recipient=key.recipient, text=text
        )
        await self._events.reply(self._link.name, reply)


def _runs(parts: Sequence[Part]) -> list[list[Part]]:
    """Return the parts in runs without a gap between them."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and runs[-1][-1].number == part.number - 1:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs
