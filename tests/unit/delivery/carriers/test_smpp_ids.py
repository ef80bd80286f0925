"""How message ids of different writings are brought together."""

import pytest

from services.delivery.carriers.smpp.ids import REMEMBERED, MessageIds, canonical
from services.delivery.carriers.smpp.link import IdForm, MessageIdFormat

TO = "+6581230000"


@pytest.mark.parametrize(
    ("one", "form", "other", "other_form"),
    [
        ("1A2B3C4D", IdForm.HEX, "439041101", IdForm.DECIMAL),
        ("1a2b3c4d", IdForm.AUTO, "0439041101", IdForm.AUTO),
        ("0001A2B", IdForm.AUTO, "1a2b", IdForm.AUTO),
        ("000123", IdForm.AUTO, "123", IdForm.AUTO),
        ("10", IdForm.HEX, "16", IdForm.DECIMAL),
        ("00A-7", IdForm.TEXT, "a-7", IdForm.TEXT),
        ("7F3C9B1E-22D1-4C59-9A3E-0B6A4A4F1C11", IdForm.AUTO, "7f3c9b1e-22d1-4c59-9a3e-0b6a4a4f1c11", IdForm.AUTO),
        ("0", IdForm.AUTO, "0000", IdForm.AUTO),
        (" 12 ", IdForm.AUTO, "12\x00", IdForm.AUTO),
    ],
)
def test_brings_two_writings_of_an_id_to_one(one, form, other, other_form):
    assert canonical(one, form) == canonical(other, other_form)


@pytest.mark.parametrize(("one", "other"), [("1234", "4660"), ("A", "B"), ("1.5", "15"), ("", "0")])
def test_keeps_different_ids_apart(one, other):
    assert canonical(one, IdForm.AUTO) != canonical(other, IdForm.AUTO)


def test_finds_a_hexadecimal_id_without_letters_by_the_recipient():
    ids = MessageIds("smsc", MessageIdFormat())
    stored = ids.of_submit("1234", message_id="msg_1", to=TO)

    assert ids.of_receipt("4660", to="6581230000") == (stored, "msg_1")


def test_does_not_take_another_recipients_message_for_the_one_that_is_meant():
    ids = MessageIds("smsc", MessageIdFormat())
    ids.of_submit("1234", message_id="msg_1", to=TO)

    assert ids.of_receipt("4660", to="6599990000") == ("4660", "")


def test_learns_that_an_smsc_writes_ids_in_hexadecimal():
    ids = MessageIds("smsc", MessageIdFormat())
    ids.of_submit("00AB", message_id="msg_1", to=TO)
    stored = ids.of_submit("1234", message_id="msg_2", to=TO)

    assert stored == "4660"
    assert ids.of_receipt("1234", to=TO) == ("4660", "msg_2")
    assert ids.of_receipt("2000", to="") == ("8192", "")  # and that its receipts do so too


def test_what_the_settings_say_is_not_learned_away():
    ids = MessageIds("smsc", MessageIdFormat(submit=IdForm.DECIMAL, receipt=IdForm.DECIMAL))
    ids.of_submit("00AB", message_id="msg_1", to=TO)

    assert ids.of_submit("1234", message_id="msg_2", to=TO) == "1234"
    assert ids.of_receipt("4660", to=TO) == ("4660", "")


def test_remembers_a_bounded_number_of_ids():
    ids = MessageIds("smsc", MessageIdFormat(submit=IdForm.DECIMAL, receipt=IdForm.DECIMAL))
    for number in range(1, REMEMBERED + 2):
        ids.of_submit(str(number), message_id=f"msg_{number}", to=TO)

    assert len(ids._given) == REMEMBERED
    assert ids.of_receipt(str(REMEMBERED + 1), to=TO)[1] == f"msg_{REMEMBERED + 1}"


def test_a_reference_names_a_message_unless_two_to_one_number_share_it():
    ids = MessageIds("smsc", MessageIdFormat())
    ids.expect(7, message_id="msg_1", to=TO)
    ids.expect(7, message_id="msg_2", to="+6599990000")
    alone = ids.of_receipt("5", to=TO, reference=7)

    ids.expect(7, message_id="msg_3", to=TO)

    assert alone == ("5", "msg_1")
    assert ids.of_receipt("5", to=TO, reference=7) == ("5", "")
    assert ids.of_receipt("5", to="6599990000", reference=7) == ("5", "msg_2")
    assert ids.of_receipt("5", to="6599990000", reference=8) == ("5", "")
