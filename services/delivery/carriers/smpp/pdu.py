"""SMPP 3.4 on the wire: protocol data units (PDUs) in and out.

Documentation: SMPP 3.4 issue 1.2, chapters 3 to 5. The bodies of `submit_sm` and `deliver_sm` are smpp34's to write and
to read, and nothing else imports it; a header and a bind are a line of `struct` each
(docs/decisions/0010-smpp-library.md). Limits: a PDU of a peer has at most 64 KiB, whatever its length field says.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import smpp34

HEADER_OCTETS: Final = 16
MAX_PDU_OCTETS: Final = 65_536
MAX_SHORT_MESSAGE_OCTETS: Final = 254
MAX_SEQUENCE: Final = 0x7FFFFFFF
IS_RESPONSE: Final = 0x80000000
VERSION: Final = 0x34

_HEADER: Final = struct.Struct(">IIII")


class Command(IntEnum):
    """Every command that is sent or understood."""

    GENERIC_NACK = 0x80000000
    BIND_RECEIVER = 0x1
    BIND_TRANSMITTER = 0x2
    SUBMIT_SM = 0x4
    SUBMIT_SM_RESP = 0x80000004
    DELIVER_SM = 0x5
    DELIVER_SM_RESP = 0x80000005
    UNBIND = 0x6
    UNBIND_RESP = 0x80000006
    BIND_TRANSCEIVER = 0x9
    OUTBIND = 0xB
    ENQUIRE_LINK = 0x15
    ENQUIRE_LINK_RESP = 0x80000015
    ALERT_NOTIFICATION = 0x102


class Tag(IntEnum):
    """The optional parameters (TLVs) that say something here. All others are let be."""

    RECEIPTED_MESSAGE_ID = 0x001E
    USER_MESSAGE_REFERENCE = 0x0204
    SAR_MSG_REF_NUM = 0x020C
    SAR_TOTAL_SEGMENTS = 0x020E
    SAR_SEGMENT_SEQNUM = 0x020F
    NETWORK_ERROR_CODE = 0x0423
    MESSAGE_PAYLOAD = 0x0424
    MORE_MESSAGES_TO_SEND = 0x0426
    MESSAGE_STATE = 0x0427


class BrokenPduError(Exception):
    """What came is no PDU, and nothing after it can be made out."""


class UnreadableBodyError(Exception):
    """A PDU came whole, and its body can not be read."""


@dataclass(frozen=True, kw_only=True)
class Pdu:
    """One PDU as it came."""

    command: int
    status: int
    sequence: int
    octets: bytes = field(repr=False)  # header and body

    @property
    def text_id(self) -> str:
        """The message id in the body of a `submit_sm_resp`; empty when there is none, as in most refusals."""
        text, _, _ = self.octets[HEADER_OCTETS:].partition(b"\0")
        return text.decode("latin-1")


@dataclass(frozen=True, kw_only=True)
class Address:
    """A number or a name, with its type of number and numbering plan (5.2.5, 5.2.6)."""

    ton: int
    npi: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one `submit_sm` says. `short_message` and `payload` exclude each other."""

    source: Address
    destination: Address
    esm_class: int
    data_coding: int
    short_message: bytes = field(default=b"", repr=False)
    payload: bytes = field(default=b"", repr=False)
    validity_period: str = ""
    reference: int | None = None  # the user_message_reference, which the receipt gives back


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What one `deliver_sm` says: a receipt, or an inbound SMS."""

    source: Address
    destination: Address
    esm_class: int
    data_coding: int
    content: bytes = field(repr=False)  # of the short message, or else of the message payload
    scheduled: str = ""  # empty by the book; where an SMSC sets it, it is the time of the message
    tlvs: Mapping[int, bytes] = field(default_factory=dict, repr=False)


async def read_pdu(reader: asyncio.StreamReader) -> Pdu:
    """Wait for a whole PDU.

    Raises BrokenPduError for a length that no PDU has, before anything of it is read; IncompleteReadError at the end.
    """
    header = await reader.readexactly(HEADER_OCTETS)
    length, command, status, sequence = _HEADER.unpack(header)
    if not HEADER_OCTETS <= length <= MAX_PDU_OCTETS:
        raise BrokenPduError(f"a PDU claims to have {length} octets")
    body = await reader.readexactly(length - HEADER_OCTETS)
    return Pdu(command=command, status=status, sequence=sequence, octets=header + body)


def header_only(command: Command, *, sequence: int, status: int = 0) -> bytes:
    """Return a PDU without a body."""
    return _HEADER.pack(HEADER_OCTETS, command, status, sequence)


def deliver_response(*, sequence: int, status: int) -> bytes:
    """Return a `deliver_sm_resp`; its message id is empty by the book (4.6.2)."""
    return _HEADER.pack(HEADER_OCTETS + 1, Command.DELIVER_SM_RESP, status, sequence) + b"\0"


def bind(command: Command, *, sequence: int, system_id: str, password: str, system_type: str) -> bytes:
    """Return a bind of any of the three kinds (4.1), for whatever addresses the SMSC has set the account up for."""
    names = b"".join(text.encode("latin-1", "replace") + b"\0" for text in (system_id, password, system_type))
    body = names + bytes([VERSION, 0, 0]) + b"\0"
    return _HEADER.pack(HEADER_OCTETS + len(body), command, 0, sequence) + body


def submit(submission: Submission, *, sequence: int) -> bytes:
    """Return a `submit_sm` (4.4.1) that asks for a receipt of success and failure."""
    source, destination = submission.source, submission.destination
    tlvs = [smpp34.Tlv(Tag.MESSAGE_PAYLOAD, submission.payload)] if submission.payload else []
    if submission.reference is not None:
        tlvs.append(smpp34.Tlv(Tag.USER_MESSAGE_REFERENCE, submission.reference.to_bytes(2, "big")))
    return smpp34.SubmitSm(
        source.text,
        destination.text,
        submission.short_message,
        source_addr_ton=source.ton,
        source_addr_npi=source.npi,
        dest_addr_ton=destination.ton,
        dest_addr_npi=destination.npi,
        esm_class=submission.esm_class,
        validity_period=submission.validity_period,
        registered_delivery=1,
        data_coding=submission.data_coding,
        tlvs=tlvs,
        sequence_number=sequence,
    ).encode()


def read_delivery(pdu: Pdu) -> Delivery:
    """Read a `deliver_sm`; raise UnreadableBodyError when its body is none."""
    try:
        read = smpp34.decode(pdu.octets)
    except smpp34.SmppError as error:
        raise UnreadableBodyError(str(error)) from None
    if not isinstance(read, smpp34.DeliverSm):
        raise UnreadableBodyError("it is no deliver_sm")
    tlvs = {tlv.tag: tlv.value for tlv in read.tlvs}
    return Delivery(
        source=Address(ton=read.source_addr_ton, npi=read.source_addr_npi, text=read.source_addr),
        destination=Address(ton=read.dest_addr_ton, npi=read.dest_addr_npi, text=read.destination_addr),
        esm_class=read.esm_class,
        data_coding=read.data_coding,
        content=read.short_message or tlvs.get(Tag.MESSAGE_PAYLOAD, b""),
        scheduled=read.schedule_delivery_time,
        tlvs=tlvs,
    )
