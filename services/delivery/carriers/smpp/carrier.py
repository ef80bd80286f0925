"""An SMSC as a carrier, over SMPP 3.4.

Documentation: docs/guides/smpp.md, and SMPP 3.4 issue 1.2. Limits: `window` messages without an answer at a time, a
text of 255 parts, PDUs of 64 KiB. Statuses are in `statuses`, receipts in `receipts`, replies in
`inbound`; the session is ours and the codec smpp34's (docs/decisions/0010-smpp-library.md).

    submit_sm_resp 0                   it has the message
    ESME_RTHROTTLED, ESME_RMSGQFUL     it does not, and wants less: the window shrinks
    another status                     it does not, for now or for ever, as the table of statuses says
    no answer, a link that ends        it may have the message, or not
    no link, a full window             nothing was sent

Of a long message in parts, what the SMSC has is not sent again: the next attempt goes on where this one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as chances
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from servicekit.clock import Clock
from services.delivery.carriers.base import (
    CarrierEvents,
    CarrierReceipt,
    Failure,
    FailureReason,
    LinkProblem,
    OutboundMessage,
    Refused,
    SendResult,
    Status,
    Taken,
    TryLater,
    Unknown,
)
from services.delivery.carriers.smpp import statuses
from services.delivery.carriers.smpp.connection import SmppConnection
from services.delivery.carriers.smpp.ids import MessageIds, clean
from services.delivery.carriers.smpp.inbound import Inbound
from services.delivery.carriers.smpp.link import BindAs, SmppLink
from services.delivery.carriers.smpp.pdu import Command, Delivery, Submission
from services.delivery.carriers.smpp.progress import Progress, ProgressBook
from services.delivery.carriers.smpp.session import Answer, UnansweredError
from services.delivery.carriers.smpp.submissions import PartReferences, UnsendableError, submissions_of
from services.delivery.carriers.smpp.window import NotSubmittedError

# Both are from the beginning of a send, and less than the 20 s that its caller gives it: what never left must be told
# as such, and a caller that gives up can only take it for unknown.
LEAVE_SECONDS: Final = 8.0
ANSWER_SECONDS: Final = 18.0
THROTTLE_SECONDS: Final = 1.0

BINDS: Final = {
    BindAs.TRANSCEIVER: (Command.BIND_TRANSCEIVER,),
    BindAs.TRANSMITTER: (Command.BIND_TRANSMITTER,),
    BindAs.PAIR: (Command.BIND_TRANSMITTER, Command.BIND_RECEIVER),
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Sending:
    """One try at one message."""

    message: OutboundMessage
    submissions: tuple[Submission, ...]
    progress: Progress
    leave_by: float
    answer_by: float


class SmppCarrier:
    """Hands messages to one SMSC. Links keep themselves up from `start` to `stop`."""

    kind = "smpp"
    # query_sm asks for a message by its carrier's id, which is just what is missing after a lost answer; and many
    # SMSCs do not offer it.
    can_look_up = False

    def __init__(self, link: SmppLink, clock: Clock, random: Callable[[], float] = chances.random) -> None:
        """`random` returns numbers from 0 to 1. Raises ValidationError for a CA file that can not be read."""
        self.name = link.name
        self.sender = link.sender
        self.capability = link.capability
        self._link = link
        self._clock = clock
        self._ids = MessageIds(link.name, link.message_id_format)
        self._progress = ProgressBook()
        self._references = PartReferences()
        self._events: CarrierEvents | None = None
        self._inbound: Inbound | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = [
            SmppConnection(link, command, clock=clock, random=random, on_delivery=self._take_delivery)
            for command in BINDS[link.bind]
        ]

    @property
    def last_error(self) -> str:
        """Why a link is down; empty when none is."""
        return next((each.last_error for each in self._connections if each.last_error), "")

    @property
    def link_problem(self) -> LinkProblem | None:
        """See KeepsLink."""
        return next((problem for each in self._connections if (problem := each.problem)), None)

    async def start(self, events: CarrierEvents) -> None:
        """Begin to connect, and return at once; receipts and replies go to `events`."""
        self._events = events
        self._inbound = Inbound(self._link, self._clock, self._ids, events)
        self._keep_task(asyncio.create_task(self._inbound.sweep()))
        for connection in self._connections:
            connection.start()

    async def stop(self) -> None:
        """Unbind, and store what only this process knows."""
        for connection in self._connections:
            await connection.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._inbound:
            await self._inbound.close()

    async def look_up(self, message: OutboundMessage) -> CarrierReceipt | None:  # noqa: ARG002  # see `can_look_up`
        """Return None: an SMSC can not tell."""
        return None

    async def send(self, message: OutboundMessage) -> SendResult:
        """Submit the message, or the parts of it that the SMSC is not known to have."""
        try:
            submissions = submissions_of(message, self._link, self._references)
        except UnsendableError as error:
            failure = Failure(reason=FailureReason.SENDER_REJECTED, carrier_code="not sent")
            return Refused(failure=failure, detail=str(error))
        begun_at = self._clock.monotonic()
        sending = _Sending(
            message=message,
            submissions=submissions,
            progress=self._progress.open(message.message_id, message.sender, len(submissions)),
            leave_by=begun_at + LEAVE_SECONDS,
            answer_by=begun_at + ANSWER_SECONDS,
        )
        sending.progress.attempt_number = message.attempt_number
        try:
            result = await self._send_missing(sending)
        finally:
            sending.progress.given_up = True
        if isinstance(result, Taken | Refused) or (isinstance(result, TryLater) and not sending.progress.taken):
            self._progress.close(message.message_id, message.sender)
        return result

    async def _send_missing(self, sending: _Sending) -> SendResult:
        # One part goes ahead: if it is refused, nothing of the message is out. The others follow together.
        first, *others = sending.progress.missing or [0]
        result = await self._send_part(sending, first) if first else None
        if others and result is None:
            results = await asyncio.gather(*(self._send_part(sending, number) for number in others))
            result = _worst([each for each in results if each])
        return result or _taken(sending)

    async def _send_part(self, sending: _Sending, number: int) -> SendResult | None:
        """Submit one part and note its id; return what became of it instead if it was not taken."""
        message, submission = sending.message, sending.submissions[number - 1]
        # A receipt is of one part, and the store would take one that names the message for a word on all of it.
        if submission.reference is not None and sending.progress.total == 1:
            self._ids.expect(submission.reference, message_id=message.message_id, to=message.to)
        try:
            session = await self._connections[0].session()
            answer = await session.submit(
                submission,
                leave_by=sending.leave_by,
                answer_by=sending.answer_by,
                late=partial(self._take_late, message, sending.progress, number),
            )
        except NotSubmittedError as error:
            failure = Failure(reason=FailureReason.CARRIER_UNAVAILABLE, carrier_code=error.code)
            detail = _of_part(sending, number, f"nothing was sent: {error}")
            return TryLater(failure=failure, detail=detail, after_seconds=error.after_seconds)
        except UnansweredError as error:
            return Unknown(detail=_of_part(sending, number, str(error)))
        if answer.status != statuses.OK:
            return _refusal(sending, number, answer)
        self._note(message, sending.progress, number, answer)
        return None

    def _note(self, message: OutboundMessage, progress: Progress, number: int, answer: Answer) -> None:
        # An SMSC that gives no id gives no receipt that could be told from others: ours serves as well.
        text = clean(answer.message_id)
        # Nor is a message of several parts named by the receipt of one: it waits until all their ids are on disk.
        named = message.message_id if progress.total == 1 else ""
        progress.taken[number] = (
            self._ids.of_submit(text, message_id=named, to=message.to) if text else message.message_id
        )

    def _take_late(self, message: OutboundMessage, progress: Progress, number: int, answer: Answer) -> None:
        """Take in an answer to which nobody listens any more: what was unknown is known."""
        if answer.status != statuses.OK:
            return
        self._note(message, progress, number, answer)
        log.info("an answer came late", carrier=self.name, message=message.message_id)
        if progress.given_up and not progress.missing:
            self._keep_task(asyncio.create_task(self._tell_taken(message, progress)))

    async def _tell_taken(self, message: OutboundMessage, progress: Progress) -> None:
        is_whole = progress.total == 1
        receipt = CarrierReceipt(
            status=Status.SENT,
            failure=None,
            detail="the SMSC took it, and said so late",
            message_id=message.message_id,
            carrier_message_id=progress.ids[0] if is_whole else "",
            attempt_number=progress.attempt_number,
            part_ids=() if is_whole else progress.ids,
        )
        if self._events:
            # It is a bonus: the attempt counts as unknown without it, and the next one here brings the same.
            with contextlib.suppress(Exception):
                await self._events.receipt(self.name, receipt)

    async def _take_delivery(self, delivery: Delivery, link_identity: object) -> int:
        if self._inbound is None:
            return statuses.TEMPORARY_APPLICATION_ERROR
        return await self._inbound.take(delivery, link_identity)

    def _keep_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _taken(sending: _Sending) -> Taken:
    ids = sending.progress.ids
    if len(ids) == 1:
        return Taken(carrier_message_id=ids[0], detail=f"submit_sm_resp 0: id {ids[0]}")
    detail = f"submit_sm_resp 0 for {len(ids)} parts: first id {ids[0]}"
    return Taken(carrier_message_id=ids[0], detail=detail, part_ids=ids)


def _refusal(sending: _Sending, number: int, answer: Answer) -> SendResult:
    meaning = statuses.meaning_of(answer.status)
    failure = Failure(reason=meaning.reason, carrier_code=meaning.name)
    detail = _of_part(sending, number, f"submit_sm_resp {meaning.name} (0x{answer.status:08X})")
    if not meaning.retryable:
        return Refused(failure=failure, detail=detail)
    wait = THROTTLE_SECONDS if answer.status in statuses.THROTTLED else None
    return TryLater(failure=failure, detail=detail, after_seconds=wait)


def _of_part(sending: _Sending, number: int, detail: str) -> str:
    total = len(sending.submissions)
    if total == 1:
        return detail
    return f"part {number} of {total}: {detail} ({len(sending.progress.taken)} of its parts were taken)"


def _worst(results: list[SendResult]) -> SendResult | None:
    """Return what becomes of a message of whose parts some were not taken.

    A part that is refused for good decides: the message can not become whole here. Then one that nobody knows about.
    """
    for kind in (Refused, Unknown, TryLater):
        for result in results:
            if isinstance(result, kind):
                return result
    return None
