"""One bound connection to an SMSC, from the bind to the end of the link.

Documentation: SMPP 3.4 issue 1.2, chapter 2 and 7.2 (timers). A sequence number whose answer is waited for is never
forgotten: it is answered, or its submit ends with UnansweredError, at the latest when the link ends. Nothing that a
peer sends ends more than its own link.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from servicekit.clock import Clock
from servicekit.deadlines import STOOD_STILL_SECONDS
from services.delivery.carriers.smpp import pdu as wire
from services.delivery.carriers.smpp import statuses
from services.delivery.carriers.smpp.link import SmppLink
from services.delivery.carriers.smpp.pdu import Command, Delivery, Pdu, Submission
from services.delivery.carriers.smpp.window import NotSubmittedError, Window

TICK_SECONDS: Final = 0.5
CATCH_UP_TURNS: Final = 20  # of the event loop, each of which reads 64 KiB of a link at least
ENQUIRE_ANSWER_SECONDS: Final = 10.0
MAX_DELIVERIES_AT_ONCE: Final = 256
MAX_LATE: Final = 1000
# What may wait in our own buffers: an SMSC that does not read is sent nothing, and then cut off.
MAX_UNSENT_OCTETS: Final = 262_144
CUT_OFF_OCTETS: Final = 1_048_576

T = TypeVar("T")
log = structlog.get_logger(__name__)


class BindRefusedError(Exception):
    """The SMSC does not let us in; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the SMSC refused the bind: {statuses.meaning_of(status).name}")
        self.status = status


class LinkLostError(Exception):
    """The link has ended; the text says how."""


class UnansweredError(Exception):
    """It was sent, and nobody can tell whether the SMSC took it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an SMSC answered to a submit."""

    status: int
    message_id: str  # as the SMSC writes it; empty in a refusal


@dataclass(frozen=True, kw_only=True)
class _Unanswered:
    answer: asyncio.Future[Answer]
    until: float
    entry: int
    late: Callable[[Answer], None]


async def within(clock: Clock, seconds: float, work: Coroutine[object, object, T]) -> T:
    """Return what the work returns; cancel it and raise TimeoutError when it takes longer by the given clock."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        timer.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


class SmppSession:
    """A link with its window, its unanswered submits and its heartbeat."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        link: SmppLink,
        clock: Clock,
        on_delivery: Callable[[Delivery, object], Awaitable[int]],
    ) -> None:
        """`on_delivery` gets what tells this link from all others, and returns the status to answer with."""
        self._reader = reader
        self._writer = writer
        self._link = link
        self._clock = clock
        self._on_delivery = on_delivery
        self._sequence = 0
        self._unanswered: dict[int, _Unanswered] = {}
        self._late: OrderedDict[int, Callable[[Answer], None]] = OrderedDict()
        self._delivering: set[asyncio.Task[None]] = set()
        self._heard_at = clock.monotonic()
        self._asked_at: float | None = None
        self._over = ""
        self._identity = object()
        self.window = Window(link.window)

    async def bind(self, command: Command) -> None:
        """Bind. Raises BindRefusedError, BrokenPduError, or OSError and EOFError when the link ends."""
        sequence = self._next_sequence()
        link = self._link
        self._writer.write(
            wire.bind(
                command,
                sequence=sequence,
                system_id=link.system_id,
                password=link.password,
                system_type=link.system_type,
            )
        )
        while True:
            pdu = await wire.read_pdu(self._reader)
            if pdu.command in (command | wire.IS_RESPONSE, Command.GENERIC_NACK):
                if pdu.status or pdu.command == Command.GENERIC_NACK:
                    raise BindRefusedError(pdu.status or statuses.UNKNOWN_ERROR)
                return

    async def run(self) -> str:
        """Serve the link until it ends, and return how it ended."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._end(_how_it_ended(done.pop()))
        finally:
            self._end("the link was closed")
            await _cancelled([*tasks, *self._delivering])
            self._writer.close()
        return self._over

    def unbind(self) -> None:
        """Take leave; what is on its way out still goes out."""
        if not self._over:
            self._write(wire.header_only(Command.UNBIND, sequence=self._next_sequence()))

    async def submit(
        self, submission: Submission, *, leave_by: float, answer_by: float, late: Callable[[Answer], None]
    ) -> Answer:
        """Submit, and wait for the answer; both times are of the clock's `monotonic`.

        Raises NotSubmittedError when nothing has left by `leave_by`, and UnansweredError when no answer has come by
        `answer_by`. `late` is called with an answer that comes after that, or after the caller has given up.
        """
        entry = await self.window.enter(leave_by)
        try:
            if self._over or self._writer.is_closing():
                raise NotSubmittedError(self._over or "the link is being closed")
            if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_OCTETS:
                raise NotSubmittedError("the SMSC does not read what it is sent")
            sequence = self._next_sequence()
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._unanswered[sequence] = _Unanswered(answer=answer, until=answer_by, entry=entry, late=late)
            try:
                self._writer.write(wire.submit(submission, sequence=sequence))
                return await answer
            finally:
                if self._unanswered.pop(sequence, None) and not self._over:
                    self._expect_late(sequence, late)
        finally:
            self.window.leave()

    def _expect_late(self, sequence: int, late: Callable[[Answer], None]) -> None:
        self._late[sequence] = late
        if len(self._late) > MAX_LATE:
            self._late.popitem(last=False)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % wire.MAX_SEQUENCE + 1
        return self._sequence

    async def _read(self) -> None:
        while True:
            try:
                pdu = await wire.read_pdu(self._reader)
            except wire.BrokenPduError:
                self._write(wire.header_only(Command.GENERIC_NACK, sequence=0, status=statuses.INVALID_COMMAND_LENGTH))
                raise
            self._heard_at = self._clock.monotonic()
            self._take(pdu)

    def _take(self, pdu: Pdu) -> None:
        match pdu.command:
            case Command.SUBMIT_SM_RESP | Command.GENERIC_NACK:
                self._take_answer(pdu)
            case Command.DELIVER_SM:
                self._take_delivery(pdu)
            case Command.ENQUIRE_LINK:
                self._write(wire.header_only(Command.ENQUIRE_LINK_RESP, sequence=pdu.sequence))
            case Command.UNBIND:
                self._write(wire.header_only(Command.UNBIND_RESP, sequence=pdu.sequence))
                raise LinkLostError("the SMSC has unbound")
            case Command.ALERT_NOTIFICATION | Command.OUTBIND:
                pass  # neither has an answer
            case command if not command & wire.IS_RESPONSE:
                nack = wire.header_only(Command.GENERIC_NACK, sequence=pdu.sequence, status=statuses.INVALID_COMMAND_ID)
                self._write(nack)

    def _take_answer(self, pdu: Pdu) -> None:
        refused = statuses.UNKNOWN_ERROR if pdu.command == Command.GENERIC_NACK else statuses.OK
        answer = Answer(status=pdu.status or refused, message_id=pdu.text_id)
        waiting = self._unanswered.pop(pdu.sequence, None)
        if waiting is None:
            late = self._late.pop(pdu.sequence, None)
            if late:
                late(answer)
            return
        if answer.status in statuses.THROTTLED:
            self.window.throttled(waiting.entry)
        elif answer.status == statuses.OK:
            self.window.answered()
        if waiting.answer.done():
            waiting.late(answer)  # the caller gave up just now
        else:
            waiting.answer.set_result(answer)

    def _take_delivery(self, pdu: Pdu) -> None:
        if len(self._delivering) >= MAX_DELIVERIES_AT_ONCE:
            self._answer_delivery(pdu, statuses.TEMPORARY_APPLICATION_ERROR)
            return
        task = asyncio.create_task(self._deliver(pdu))
        self._delivering.add(task)
        task.add_done_callback(self._delivering.discard)

    async def _deliver(self, pdu: Pdu) -> None:
        try:
            status = await self._on_delivery(wire.read_delivery(pdu), self._identity)
        except wire.UnreadableBodyError as error:
            # It would be as unreadable the next time.
            log.warning("a deliver_sm can not be read", carrier=self._link.name, problem=str(error))
            status = statuses.PERMANENT_APPLICATION_ERROR
        self._answer_delivery(pdu, status)

    def _answer_delivery(self, pdu: Pdu, status: int) -> None:
        self._write(wire.deliver_response(sequence=pdu.sequence, status=status))

    def _write(self, octets: bytes) -> None:
        if self._over or self._writer.is_closing():
            return
        self._writer.write(octets)
        if self._writer.transport.get_write_buffer_size() > CUT_OFF_OCTETS:
            self._end("the SMSC does not read what it is sent")
            self._writer.transport.abort()

    async def _keep(self) -> None:
        while True:
            slept_at = self._clock.monotonic()
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            if now - slept_at > TICK_SECONDS + STOOD_STILL_SECONDS:
                await _catch_up()
            self.window.expire(now)
            self._expire(now)
            self._ask(now)

    def _expire(self, now: float) -> None:
        for sequence, waiting in list(self._unanswered.items()):
            if waiting.until <= now and not waiting.answer.done():
                del self._unanswered[sequence]
                self._expect_late(sequence, waiting.late)
                waiting.answer.set_exception(UnansweredError("the SMSC did not answer in time"))

    def _ask(self, now: float) -> None:
        if self._asked_at is not None and self._heard_at >= self._asked_at:
            self._asked_at = None
        if self._asked_at is None:
            if now - self._heard_at >= self._link.enquire_link_seconds:
                self._asked_at = now
                self._write(wire.header_only(Command.ENQUIRE_LINK, sequence=self._next_sequence()))
        elif now - self._asked_at >= ENQUIRE_ANSWER_SECONDS:
            raise LinkLostError("the SMSC did not answer an enquire_link")

    def _end(self, how: str) -> None:
        if self._over:
            return
        self._over = how
        self.window.close(how)
        for waiting in self._unanswered.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(UnansweredError(f"no answer before the end of the link: {how}"))
        self._unanswered.clear()
        self._late.clear()


async def _catch_up() -> None:
    """Let be read what has come while this process stood still: it has come in time."""
    for _ in range(CATCH_UP_TURNS):
        await asyncio.sleep(0)


def _how_it_ended(task: asyncio.Task[None]) -> str:
    error = task.exception()
    match error:
        case LinkLostError() | wire.BrokenPduError():
            return str(error)
        case OSError() | EOFError():
            return f"the link was lost ({type(error).__name__})"
    log.error("an SMPP session has a defect", exc_info=error)
    return "the link was given up after a defect"


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
