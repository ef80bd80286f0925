"""What goes to the SMSC for one message."""

from dataclasses import replace

import pytest

from services.delivery.carriers.base import OutboundMessage
from services.delivery.carriers.smpp.link import LongMessages, SmppLink
from services.delivery.carriers.smpp.pdu import Address
from services.delivery.carriers.smpp.submissions import (
    MOST_REFERENCES,
    REMEMBERED_REFERENCES,
    PartReferences,
    UnsendableError,
    number_from,
    reference_of,
    source_address,
    submissions_of,
    validity_period,
)

LINK = SmppLink(name="smsc", sender="ACME", host="smsc.example", system_id="textway")
MESSAGE = OutboundMessage(message_id="msg_1", attempt_number=1, to="+6581230000", sender="ACME", text="hello")


@pytest.mark.parametrize(
    ("sender", "address"),
    [
        ("+6598765432", (1, 1, "6598765432")),
        ("ACME Bank", (5, 0, "ACME Bank")),
        ("79797", (3, 0, "79797")),
        ("0987654321", (0, 1, "0987654321")),
        ("", (0, 0, "")),
    ],
)
def test_tells_the_type_of_a_sender_by_its_look(sender, address):
    assert source_address(sender) == Address(ton=address[0], npi=address[1], text=address[2])


@pytest.mark.parametrize("sender", ["Größe", "A\0B", "+65 9876", "x" * 21])
def test_refuses_what_is_no_address(sender):
    if sender == "+65 9876":
        assert source_address(sender).ton == 5  # a name, since it is no number
        return
    with pytest.raises(UnsendableError):
        source_address(sender)


def test_the_settings_overrule_the_look_of_an_address():
    link = replace(LINK, source_ton=0, source_npi=9, destination_ton=2, destination_npi=0)

    (submission,) = submissions_of(MESSAGE, link)

    assert (submission.source.ton, submission.source.npi) == (0, 9)
    assert (submission.destination.ton, submission.destination.npi) == (2, 0)


@pytest.mark.parametrize(
    ("text", "as_payload"), [("x" * 140, False), ("x" * 161, True), ("漢" * 70, False), ("漢" * 71, True)]
)
def test_only_what_is_longer_than_one_sms_goes_into_the_payload(text, as_payload):
    (submission,) = submissions_of(replace(MESSAGE, text=text), replace(LINK, long_messages=LongMessages.PAYLOAD))

    assert bool(submission.payload) is as_payload
    assert bool(submission.short_message) is not as_payload


def test_every_attempt_has_the_same_reference_and_most_messages_have_another():
    assert reference_of("msg_1") == reference_of("msg_1")
    assert len({reference_of(f"msg_{number}") for number in range(1000)}) > 200


def test_long_messages_to_one_recipient_have_references_of_their_own_as_long_as_a_handset_may_wait_for_parts():
    references = PartReferences()

    first = [references.of(f"msg_{number}", "+1", 250) for number in range(100)]
    again = [references.of(f"msg_{number}", "+1", 250) for number in range(100)]

    assert first == again
    assert len(set(first)) == 100
    assert first[:7] == [250, 251, 252, 253, 254, 255, 0]
    assert references.of("msg_other", "+2", 250) == 250


def test_forgets_the_references_of_messages_and_recipients_of_long_ago():
    references = PartReferences()

    for number in range(1000):
        assert 0 <= references.of(f"msg_{number}", "+1", 7) <= 255
    for number in range(REMEMBERED_REFERENCES):
        references.of("msg_x", f"+2{number}", 7)

    assert references.of("msg_y", "+1", 7) == 7


@pytest.mark.parametrize("messages", [1, 10, 2 * MOST_REFERENCES])
def test_remembers_so_many_references_in_all_however_many_messages_each_recipient_gets(messages):
    references = PartReferences()
    each = min(messages, MOST_REFERENCES)
    # As many as there is room for, and then the first again, so that the second is the one of longest ago.
    recipients = [f"+1{number}" for number in range(REMEMBERED_REFERENCES // each)]
    for to in recipients:
        for number in range(messages):
            references.of(f"msg_{number}", to, 7)
    last = references.of(f"msg_{messages - 1}", recipients[0], 7)

    for number in range(each):
        references.of(f"msg_{number}", "+2", 7)

    assert references.of("msg_more", recipients[0], last) != last
    assert references.of("msg_more", recipients[1], 7) == 7


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (None, ""),
        (1, "000000000100000R"),
        (240, "000000040000000R"),
        (1440, "000001000000000R"),
        (43200, "000100000000000R"),
    ],
)
def test_writes_a_validity_as_a_relative_time(minutes, text):
    assert validity_period(minutes) == text


@pytest.mark.parametrize(
    ("ton", "text", "region", "number"),
    [
        (1, "6581230000", "", "+6581230000"),
        (1, "+6581230000", "", "+6581230000"),
        (0, "6581230000", "", "+6581230000"),
        (0, "006581230000", "", "+6581230000"),
        (2, "81230000", "SG", "+6581230000"),
        (0, "81230000", "SG", "+6581230000"),
        (1, "6581230000", "SG", "+6581230000"),
        (3, "79797", "", "79797"),
        (5, "Bank", "", "Bank"),
        (1, "999", "", "+999"),
        (0, "\x07", "", ""),
    ],
)
def test_reads_an_inbound_number_as_e164_where_it_is_one(ton, text, region, number):
    assert number_from(Address(ton=ton, npi=1, text=text), region) == number
