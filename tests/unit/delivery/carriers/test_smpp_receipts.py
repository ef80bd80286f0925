"""How receipts are read, in all the ways in which SMSCs write them."""

import pytest

from services.delivery.carriers.base import FailureReason, Status
from services.delivery.carriers.smpp.pdu import Address, Delivery, Tag
from services.delivery.carriers.smpp.receipts import is_receipt, read_receipt

SOMEBODY = Address(ton=1, npi=1, text="6581230000")


def delivery(text: str = "", *, esm_class: int = 0x04, tlvs: dict[int, bytes] | None = None) -> Delivery:
    return Delivery(
        source=SOMEBODY,
        destination=SOMEBODY,
        esm_class=esm_class,
        data_coding=0,
        content=text.encode("latin-1"),
        tlvs=tlvs or {},
    )


@pytest.mark.parametrize(
    "text",
    [
        "id:0A1B sub:001 dlvrd:000 submit date:2611220000 done date:2611220001 stat:UNDELIV err:011 text:hello",
        "ID:0A1B SUB:001 DLVRD:000 SUBMIT DATE:2611220000 DONE DATE:2611220001 STAT:UNDELIV ERR:011 TEXT:hello",
        "id: 0A1B  sub: 001 dlvrd: 000 submit date: 2611220000 done date: 2611220001 stat: UNDELIV err: 011 Text: hi",
        "id:0A1B submit_date:2611220000 done_date:2611220001 stat:undeliv err:011",
        "stat:UNDELIV err:011 id:0A1B",
        "id:0A1B,stat:UNDELIV,err:011",
        "id:0A1B sub: dlvrd: submit date: done date: stat:Undelivered err:011 text:",
        "id:0A1B stat:UNDELIV err:011 text:id:9 stat:DELIVRD err:000",
    ],
)
def test_reads_a_receipt_however_it_is_written(text):
    receipt = read_receipt(delivery(text))

    assert (receipt.id_text, receipt.status) == ("0A1B", Status.UNDELIVERED)
    assert (receipt.failure.reason, receipt.failure.carrier_code) == (FailureReason.UNREACHABLE, "011")


@pytest.mark.parametrize(
    ("state", "number", "status", "reason"),
    [
        ("ENROUTE", 1, Status.SENT, None),
        ("DELIVRD", 2, Status.DELIVERED, None),
        ("EXPIRED", 3, Status.UNDELIVERED, FailureReason.UNREACHABLE),
        ("DELETED", 4, Status.UNDELIVERED, FailureReason.CARRIER_REJECTED),
        ("UNDELIV", 5, Status.UNDELIVERED, FailureReason.UNREACHABLE),
        ("ACCEPTD", 6, Status.SENT, None),
        ("UNKNOWN", 7, Status.SENT, None),
        ("REJECTD", 8, Status.UNDELIVERED, FailureReason.CARRIER_REJECTED),
    ],
)
def test_knows_every_state_by_word_and_by_number(state, number, status, reason):
    by_word = read_receipt(delivery(f"id:1 stat:{state} err:000"))
    by_number = read_receipt(
        delivery(tlvs={Tag.RECEIPTED_MESSAGE_ID: b"1\0", Tag.MESSAGE_STATE: bytes([number])}),
    )

    assert by_word == by_number
    assert by_word.status is status
    assert (by_word.failure and by_word.failure.reason) == reason


@pytest.mark.parametrize("tlvs", [{}, {Tag.MESSAGE_STATE: b""}, {Tag.MESSAGE_STATE: b"\xff"}, {0x1400: b"junk"}])
@pytest.mark.parametrize("text", ["", "\0\xff", "id", "id:", "stat:NONSENSE", "id::::"])
def test_takes_what_can_not_be_read_for_a_message_on_its_way(text, tlvs):
    receipt = read_receipt(delivery(text, tlvs=tlvs))

    assert (receipt.status, receipt.failure) == (Status.SENT, None)


def test_takes_the_networks_error_where_the_text_has_none():
    receipt = read_receipt(delivery("id:1 stat:UNDELIV err:000", tlvs={Tag.NETWORK_ERROR_CODE: b"\x03\x00\x1b"}))

    assert receipt.failure.carrier_code == "27"


@pytest.mark.parametrize(
    ("esm_class", "tlvs", "expected"),
    [
        (0x04, {}, True),
        (0x44, {}, True),
        (0x20, {}, True),
        (0x00, {}, False),
        (0x00, {Tag.RECEIPTED_MESSAGE_ID: b"1\0", Tag.MESSAGE_STATE: b"\2"}, True),
        (0x00, {Tag.RECEIPTED_MESSAGE_ID: b"1\0"}, False),
    ],
)
def test_tells_receipts_from_replies_by_what_no_handset_can_set(esm_class, tlvs, expected):
    text = "id:1 sub:001 dlvrd:001 stat:DELIVRD err:000 text:"

    assert is_receipt(delivery(text, esm_class=esm_class, tlvs=tlvs)) is expected
