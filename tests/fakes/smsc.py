"""A scripted SMSC on a free port, made with smpplib's codec, which is not the one that the client under test has.

It records every `submit_sm` with its time, and does with it what `treat` says: by default what the recipient's role is.
Everything else is for a test to call: `drop`, `send_raw`, `receipt`, `inbound`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from smpplib import smpp

OK = 0x00
INVALID_DESTINATION = 0x0B
QUEUE_FULL = 0x14
THROTTLED = 0x58

RECEIPT = 0x04  # esm_class of an SMSC's delivery receipt
UDH = 0x40  # and of a message with a user data header

# Recipients that always get the same treatment: the simulator's numbers, for the carrier suite.
REFUSED = "6581230001"
THROTTLED_TWICE = "6581230002"
HANGS = "6581230003"
UNDELIVERED = "6581230004"
REPLIES = "6581230005"


@dataclass(frozen=True, kw_only=True)
class Submit:
    """One `submit_sm` as it came."""

    at: float
    link: Link
    sequence: int
    source: tuple[int, int, str]  # TON, NPI, address
    destination: tuple[int, int, str]
    esm_class: int
    data_coding: int
    registered_delivery: int
    validity_period: str
    reference: int | None
    short_message: bytes
    payload: bytes

    @property
    def to(self) -> str:
        return self.destination[2]


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What to do with a submit: a status to answer with, or None to be silent."""

    status: int | None = OK
    delay_seconds: float = 0.0
    answers: int = 1  # how often to answer
    drops: bool = False  # cut the link instead of answering, or after it
    state: str = "DELIVRD"  # in the receipt
    receipts: int = 1
    early: bool = False  # the receipt before the answer
    reply: str = ""


def hexadecimal(number: int) -> str:
    return f"{number:08X}"


def decimal(number: int) -> str:
    return f"{number:010}"


class Link:
    """One connection from a client."""

    def __init__(self, smsc: FakeSmsc, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._smsc = smsc
        self._reader = reader
        self.writer = writer
        self.bound_as = ""
        self.heard: list[Any] = []  # every PDU
        self.sequence = 0
        self._answers: dict[int, asyncio.Future[int]] = {}

    def next_sequence(self) -> int:  # what smpplib asks its client for
        self.sequence += 1
        return self.sequence

    async def serve(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = await self._reader.readexactly(4)
                octets = length + await self._reader.readexactly(struct.unpack(">I", length)[0] - 4)
                pdu = smpp.parse_pdu(octets, client=self, allow_unknown_opt_params=True)
                self.heard.append(pdu)
                self._take(pdu)

    def _take(self, pdu: Any) -> None:
        if pdu.command.startswith("bind_") and not pdu.command.endswith("_resp"):
            self._smsc.binds.append((pdu.command, pdu.system_id, pdu.password, pdu.system_type))
            self._smsc.bound_at.append(time.monotonic())
            if self._smsc.bind_status is not None:
                self.send(f"{pdu.command}_resp", sequence=pdu.sequence, status=self._smsc.bind_status)
            if self._smsc.bind_status == OK:
                self.bound_as = pdu.command
                self._smsc.links.append(self)
                self._smsc.changed()
        elif pdu.command == "submit_sm":
            self._smsc.spawn(self._smsc.handle(self, pdu))
        elif pdu.command == "deliver_sm_resp":
            self._smsc.answered.append((pdu.sequence, pdu.status))
            answer = self._answers.pop(pdu.sequence, None)
            if answer and not answer.done():
                answer.set_result(pdu.status)
        elif pdu.command == "enquire_link" and self._smsc.answers_enquiries:
            self.send("enquire_link_resp", sequence=pdu.sequence)
        elif pdu.command == "unbind":
            self.send("unbind_resp", sequence=pdu.sequence)

    def send(self, command: str, *, sequence: int, status: int = OK, **fields: Any) -> None:
        pdu = smpp.make_pdu(command, client=self, sequence=sequence, **fields)
        pdu.sequence, pdu.status = sequence, status
        self.send_raw(pdu.generate())

    def send_raw(self, octets: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(octets)

    async def deliver(self, *, tlvs: dict[int, bytes] | None = None, **fields: Any) -> int:
        """Send a `deliver_sm`, and return the status that it is answered with."""
        pdu = smpp.make_pdu("deliver_sm", client=self, **fields)
        octets = pdu.generate() + b"".join(
            struct.pack(">HH", tag, len(value)) + value for tag, value in (tlvs or {}).items()
        )
        answer = self._answers[pdu.sequence] = asyncio.get_running_loop().create_future()
        self.send_raw(struct.pack(">I", len(octets)) + octets[4:])
        return await answer

    def drop(self) -> None:
        """Cut the link, without a word."""
        self.writer.transport.abort()


@dataclass
class FakeSmsc:
    """The SMSC, and everything that it heard."""

    submit_id: Callable[[int], str] = hexadecimal
    receipt_id: Callable[[int], str] = decimal
    receipt_tlvs: bool = False
    tells: bool = True  # receipts and replies by itself
    bind_status: int | None = OK
    answers_enquiries: bool = True
    tls: ssl.SSLContext | None = None
    treat: Callable[[Submit], Treatment | Awaitable[Treatment]] | None = None
    port: int = 0
    binds: list[tuple[str, bytes, bytes, bytes]] = field(default_factory=list)
    bound_at: list[float] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    submits: list[Submit] = field(default_factory=list)
    answered: list[tuple[int, int]] = field(default_factory=list)  # deliver_sm_resp: sequence and status
    most_unanswered: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(0x1A2B3C4D)
        self._tries: Counter[str] = Counter()
        self._unanswered = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected: set[Link] = set()
        self._change = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server
        self._server.close()
        for link in list(self._connected):
            link.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        self._connected.add(link)
        try:
            await link.serve()
        finally:
            self._connected.discard(link)
            if link in self.links:
                self.links.remove(link)
            writer.close()

    @property
    def receiver(self) -> Link:
        """The link that gets what the SMSC tells."""
        return next(link for link in reversed(self.links) if link.bound_as != "bind_transmitter")

    def changed(self) -> None:
        self._change.set()

    async def bound(self, links: int = 1) -> None:
        """Wait for so many bound links."""
        async with asyncio.timeout(5):
            while len(self.links) < links:
                self._change.clear()
                await self._change.wait()

    def spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def handle(self, link: Link, pdu: Any) -> None:
        submit = _read(link, pdu)
        self.submits.append(submit)
        self._unanswered += 1
        self.most_unanswered = max(self.most_unanswered, self._unanswered)
        treated = (self.treat or self._by_role)(submit)
        treatment = treated if isinstance(treated, Treatment) else await treated
        number = next(self._numbers)
        if treatment.early:
            await self.receipt(number, submit, state=treatment.state)
        if treatment.delay_seconds:
            await asyncio.sleep(treatment.delay_seconds)
        self._unanswered -= 1
        if treatment.status is not None:
            fields = {"message_id": self.submit_id(number)} if treatment.status == OK else {}
            for _ in range(treatment.answers):
                link.send("submit_sm_resp", sequence=submit.sequence, status=treatment.status, **fields)
        if treatment.drops:
            with contextlib.suppress(OSError):
                await link.writer.drain()
            link.drop()
        elif treatment.status == OK and self.tells and not treatment.early:
            for _ in range(treatment.receipts):
                await self.receipt(number, submit, state=treatment.state)
            if treatment.reply:
                await self.inbound(submit.to, submit.source[2], treatment.reply.encode())

    def _by_role(self, submit: Submit) -> Treatment:
        self._tries[submit.to] += 1
        match submit.to:
            case n if n == REFUSED:
                return Treatment(status=INVALID_DESTINATION)
            case n if n == THROTTLED_TWICE and self._tries[n] <= 2:
                return Treatment(status=THROTTLED)
            case n if n == HANGS:
                return Treatment(status=None)
            case n if n == UNDELIVERED:
                return Treatment(state="UNDELIV")
            case n if n == REPLIES:
                return Treatment(reply="YES")
        return Treatment()

    async def receipt(self, number: int, submit: Submit, *, state: str = "DELIVRD") -> int:
        """Tell what became of a message, and return the answer."""
        text = (
            f"id:{self.receipt_id(number)} sub:001 dlvrd:001 submit date:2611220000 done date:2611220001"
            f" stat:{state} err:{'000' if state == 'DELIVRD' else '011'} text:hello"
        )
        tlvs: dict[int, bytes] = {} if submit.reference is None else {0x0204: struct.pack(">H", submit.reference)}
        tlvs |= {0x001E: self.submit_id(number).encode() + b"\0", 0x1401: b"vendor"} if self.receipt_tlvs else {}
        return await self.receiver.deliver(
            tlvs=tlvs,
            source_addr_ton=1,
            source_addr_npi=1,
            source_addr=submit.to,
            dest_addr_ton=1,
            dest_addr_npi=1,
            destination_addr=submit.source[2],
            esm_class=RECEIPT,
            short_message=text.encode(),
        )

    async def inbound(
        self,
        sender: str,
        recipient: str,
        content: bytes,
        *,
        data_coding: int = 0,
        esm_class: int = 0,
        tlvs: dict[int, bytes] | None = None,
    ) -> int:
        """Bring an SMS from a handset, or a part of one, and return the answer."""
        return await self.receiver.deliver(
            tlvs=tlvs,
            source_addr_ton=1,
            source_addr_npi=1,
            source_addr=sender,
            dest_addr_ton=1,
            dest_addr_npi=1,
            destination_addr=recipient,
            esm_class=esm_class,
            data_coding=data_coding,
            short_message=content,
        )


def _read(link: Link, pdu: Any) -> Submit:
    return Submit(
        at=time.monotonic(),
        link=link,
        sequence=pdu.sequence,
        source=(pdu.source_addr_ton, pdu.source_addr_npi, pdu.source_addr.decode()),
        destination=(pdu.dest_addr_ton, pdu.dest_addr_npi, pdu.destination_addr.decode()),
        esm_class=pdu.esm_class,
        data_coding=pdu.data_coding,
        registered_delivery=pdu.registered_delivery,
        validity_period=pdu.validity_period.decode(),
        reference=getattr(pdu, "user_message_reference", None),
        short_message=pdu.short_message or b"",
        payload=getattr(pdu, "message_payload", None) or b"",
    )
