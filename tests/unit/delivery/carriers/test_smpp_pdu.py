"""PDUs on the wire, also ones that no SMSC should send."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smpplib import smpp

from services.delivery.carriers.smpp import pdu as wire
from services.delivery.carriers.smpp.pdu import Address, Command, Pdu, Submission

NUMBER = Address(ton=1, npi=1, text="6581230000")
NAME = Address(ton=5, npi=0, text="ACME")


async def read(octets: bytes) -> Pdu:
    reader = asyncio.StreamReader()
    reader.feed_data(octets)
    reader.feed_eof()
    return await wire.read_pdu(reader)


@pytest.mark.parametrize("length", [0, 15, wire.MAX_PDU_OCTETS + 1, 0xFFFFFFFF])
async def test_refuses_an_impossible_length_before_it_reads_on(length):
    with pytest.raises(wire.BrokenPduError):
        await read(struct.pack(">IIII", length, 5, 0, 1))


async def test_reads_a_pdu_of_the_greatest_length():
    pdu = await read(struct.pack(">IIII", wire.MAX_PDU_OCTETS, 5, 0, 1) + b"x" * (wire.MAX_PDU_OCTETS - 16))

    assert (pdu.command, pdu.sequence, len(pdu.octets)) == (5, 1, wire.MAX_PDU_OCTETS)


async def test_ends_with_the_stream_in_the_middle_of_a_pdu():
    with pytest.raises(asyncio.IncompleteReadError):
        await read(struct.pack(">IIII", 100, 5, 0, 1) + b"x")


@given(st.binary(max_size=400))
def test_reads_any_body_of_a_delivery_or_says_that_it_can_not(body):
    octets = struct.pack(">IIII", 16 + len(body), 5, 0, 1) + body
    pdu = Pdu(command=Command.DELIVER_SM, status=0, sequence=1, octets=octets)

    try:
        delivery = wire.read_delivery(pdu)
    except wire.UnreadableBodyError:
        return

    assert isinstance(delivery.content, bytes)


def test_another_library_reads_what_is_written():
    submission = Submission(source=NAME, destination=NUMBER, esm_class=0x40, data_coding=8, short_message=b"\0h")

    submit = smpp.parse_pdu(wire.submit(submission, sequence=7), allow_unknown_opt_params=True, client=None, sequence=0)
    bind = smpp.parse_pdu(
        wire.bind(Command.BIND_TRANSCEIVER, sequence=1, system_id="id", password="pw", system_type=""),
        allow_unknown_opt_params=True,
        client=None,
        sequence=0,
    )

    assert (submit.sequence, submit.source_addr, submit.destination_addr) == (7, b"ACME", b"6581230000")
    assert (submit.esm_class, submit.data_coding, submit.short_message) == (0x40, 8, b"\0h")
    assert (bind.system_id, bind.password, bind.interface_version) == (b"id", b"pw", 0x34)


def test_a_secret_or_a_text_is_in_no_representation():
    submission = Submission(source=NAME, destination=NUMBER, esm_class=0, data_coding=0, short_message=b"my text")

    assert "my text" not in repr(submission)
