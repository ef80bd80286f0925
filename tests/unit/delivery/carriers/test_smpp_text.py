"""How texts become octets and parts, and come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit import sms_text
from services.delivery.carriers.smpp.link import Alphabet
from services.delivery.carriers.smpp.pdu import Address, Delivery
from services.delivery.carriers.smpp.text import UDH_INDICATOR, Part, decode, encode, part_of, with_header

SOMEBODY = Address(ton=1, npi=1, text="6581230000")


def encoded(text: str, *, alphabet: Alphabet = Alphabet.GSM7, whole: bool = False, data_coding: int = 0):
    return encode(text, alphabet=alphabet, data_coding=data_coding, whole=whole)


def delivered(content: bytes, *, data_coding: int = 0, esm_class: int = 0, tlvs: dict[int, bytes] | None = None):
    return Delivery(
        source=SOMEBODY,
        destination=SOMEBODY,
        esm_class=esm_class,
        data_coding=data_coding,
        content=content,
        tlvs=tlvs or {},
    )


@pytest.mark.parametrize(
    ("text", "alphabet", "octets", "data_coding"),
    [
        ("@Δ{€", Alphabet.GSM7, b"\x00\x10\x1b\x28\x1b\x65", 0),
        ("é{", Alphabet.LATIN1, b"\xe9{", 0),
        ("€", Alphabet.LATIN1, b"\x20\xac", 8),  # Latin-1 does not have it
        ("漢", Alphabet.GSM7, b"\x6f\x22", 8),
        ("a\ud800b", Alphabet.GSM7, "a\ufffdb".encode("utf-16-be"), 8),
    ],
)
def test_encodes_as_the_smsc_understands_it(text, alphabet, octets, data_coding):
    result = encoded(text, alphabet=alphabet)

    assert (result.parts, result.data_coding) == ((octets,), data_coding)


def test_sends_the_default_alphabet_under_the_data_coding_from_the_settings():
    assert encoded("hello", data_coding=1).data_coding == 1
    assert encoded("漢", data_coding=1).data_coding == 8


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=1600))
def test_parts_are_as_many_as_were_counted_fit_and_give_the_text_again(text):
    result = encoded(text)
    room = 153 if result.data_coding == 0 else 134

    parts = [
        part_of(
            delivered(
                with_header(octets, reference=7, total=len(result.parts), number=number),
                data_coding=result.data_coding,
                esm_class=UDH_INDICATOR,
            )
        )
        for number, octets in enumerate(result.parts, start=1)
    ]

    assert len(result.parts) == sms_text.measure(text).segments
    assert len(result.parts) == 1 or max(map(len, result.parts)) <= room
    # Each part by itself, as a phone may show it: no pair is parted.
    assert "".join(decode([part], alphabet=Alphabet.GSM7) for part in parts) == text


@settings(max_examples=100)
@given(st.text(alphabet="aé€Δ{", max_size=800))
def test_every_gsm7_text_gets_through_to_a_latin1_smsc(text):
    result = encoded(text, alphabet=Alphabet.LATIN1)

    parts = [Part(data_coding=result.data_coding, content=octets) for octets in result.parts]

    assert decode(parts, alphabet=Alphabet.LATIN1) == text
    assert len(parts) == 1 or max(map(len, result.parts)) <= (153 if result.data_coding == 0 else 134)


@given(st.binary(max_size=300), st.integers(0, 255), st.sampled_from([0, UDH_INDICATOR]))
def test_reads_whatever_octets_a_peer_sends(content, data_coding, esm_class):
    part = part_of(delivered(content, data_coding=data_coding, esm_class=esm_class))

    text = decode([part], alphabet=Alphabet.GSM7)

    assert "\0" not in text
    assert 1 <= part.number <= part.total


@pytest.mark.parametrize(
    "header",
    [bytes([5, 0, 3, 9, 0, 1]), bytes([5, 0, 3, 9, 2, 3]), bytes([5, 0, 3, 9, 2, 0]), bytes([5, 0, 3, 9, 1, 1])],
)
def test_takes_a_part_of_nothing_for_a_message_by_itself(header):
    part = part_of(delivered(header + b"hello", esm_class=UDH_INDICATOR))

    assert (part.reference, part.content) == (None, b"hello")


@pytest.mark.parametrize("data_coding", [0x18, 0x19, 0x48, 0xE0, 0xEF])
def test_reads_ucs2_whatever_class_or_marking_comes_with_it(data_coding):
    part = Part(data_coding=data_coding, content="STOP Да".encode("utf-16-be"))

    assert decode([part], alphabet=Alphabet.GSM7) == "STOP Да"


@pytest.mark.parametrize("data_coding", [0x10, 0x11, 0x40, 0xD0])
def test_reads_the_default_alphabet_whatever_class_or_marking_comes_with_it(data_coding):
    assert decode([Part(data_coding=data_coding, content=b"\x00STOP")], alphabet=Alphabet.GSM7) == "@STOP"


def test_writes_binary_messages_in_hexadecimal():
    assert decode([Part(data_coding=4, content=b"\xca\xfe")], alphabet=Alphabet.GSM7) == "cafe"
    assert decode([Part(data_coding=0xF5, content=b"\xca\xfe")], alphabet=Alphabet.GSM7) == "cafe"
    assert decode([Part(data_coding=0x15, content=b"\xca\xfe")], alphabet=Alphabet.GSM7) == "cafe"
    assert decode([Part(data_coding=0xF1, content=b"hi")], alphabet=Alphabet.GSM7) == "hi"
