"""Texts as SMPP carries them: their encodings, and how a long one is cut and put together again.

Documentation: SMPP 3.4 issue 1.2, 5.2.19 (data_coding); 3GPP TS 23.038 (alphabets); 3GPP TS 23.040, 9.2.3.24 (user data
header) and 9.2.3.24.1 (concatenation). Septets travel unpacked, one an octet. National shift tables are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from servicekit import sms_text
from services.delivery.carriers.smpp.link import Alphabet
from services.delivery.carriers.smpp.pdu import Delivery, Tag

UDH_INDICATOR: Final = 0x40
UCS2_CODING: Final = 0x08
MAX_PARTS: Final = 255

_ESCAPE: Final = 0x1B
_CONCATENATION_8: Final = 0x00
_CONCATENATION_16: Final = 0x08
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
# The escape has no character of its own: one that stands before nothing known is a space (TS 23.038, 6.2.1.1).
_GSM7: Final = sms_text.GSM7_ALPHABET[:_ESCAPE] + " " + sms_text.GSM7_ALPHABET[_ESCAPE:]
_GSM7_EXTENDED: Final = {sms_text.gsm7_bytes(each)[1]: each for each in sms_text.GSM7_EXTENSION}
_CODECS: Final[Mapping[int, str]] = {
    0x01: "latin-1",  # IA5; SMSCs that say so send more than it has
    0x03: "latin-1",
    0x05: "shift_jis",
    0x06: "iso8859_5",
    0x07: "iso8859_8",
    0x08: "utf-16-be",
    0x0A: "iso2022_jp",
    0x0D: "iso2022_jp_1",
    0x0E: "euc_kr",
}
_BINARY: Final = frozenset({0x02, 0x04})
_MESSAGE_CLASS: Final = 0xF0  # from here on: bit 2 tells 8-bit data from the default alphabet
_EIGHT_BIT: Final = 0x04
_GENERAL: Final = range(0x10, 0x80)  # TS 23.038, 4: a message class or a marking, and the alphabet in bits 3 and 2
_UCS2_WAITING: Final = range(0xE0, 0xF0)  # "message waiting" in UCS-2
_ALPHABET_BITS: Final = 0x0C


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A text as octets, in parts where it is cut."""

    parts: tuple[bytes, ...] = field(repr=False)
    data_coding: int


def encode(text: str, *, alphabet: Alphabet, data_coding: int, whole: bool) -> EncodedText:
    """Encode a text, cut into parts unless it is wanted `whole`.

    What the SMSC's default alphabet does not have goes out in UCS-2.
    """
    text = _LONE_SURROGATES.sub("\ufffd", text)
    parts = [text] if whole else sms_text.split(text)
    if sms_text.is_gsm7(text):
        if alphabet is Alphabet.GSM7:
            return EncodedText(parts=tuple(map(sms_text.gsm7_bytes, parts)), data_coding=data_coding)
        if text.isascii() or _is_latin1(text):
            return EncodedText(parts=tuple(part.encode("latin-1") for part in parts), data_coding=data_coding)
        parts = [text] if whole else _cut_ucs2(text)
    return EncodedText(parts=tuple(part.encode("utf-16-be") for part in parts), data_coding=UCS2_CODING)


def _is_latin1(text: str) -> bool:
    return all(character <= "\xff" for character in text)


def _cut_ucs2(text: str) -> list[str]:
    # Only for GSM-7 texts that a Latin-1 SMSC can not have: they have no surrogate pairs.
    if len(text) <= sms_text.UCS2_ALONE:
        return [text]
    return [text[start : start + sms_text.UCS2_PART] for start in range(0, len(text), sms_text.UCS2_PART)]


def with_header(part: bytes, *, reference: int, total: int, number: int) -> bytes:
    """Return a part behind its user data header: a concatenation with an 8-bit reference."""
    return bytes([5, _CONCATENATION_8, 3, reference, total, number]) + part


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of an inbound message, or all of it."""

    reference: tuple[str, int] | None = None  # its kind and number; None when the message has no other parts
    total: int = 1
    number: int = 1  # from 1
    data_coding: int
    content: bytes = field(repr=False)


def part_of(delivery: Delivery) -> Part:
    """Read what part of a message a `deliver_sm` is, by its user data header or else by its `sar_` parameters."""
    content, found = delivery.content, None
    if delivery.esm_class & UDH_INDICATOR and content:
        header, content = content[1 : 1 + content[0]], content[1 + content[0] :]
        found = _concatenation(header)
    found = found or _sar(delivery.tlvs)
    if found:
        kind, reference, total, number = found
        if total > 1 and 1 <= number <= total:
            return Part(
                reference=(kind, reference),
                total=total,
                number=number,
                data_coding=delivery.data_coding,
                content=content,
            )
    return Part(data_coding=delivery.data_coding, content=content)


def _concatenation(header: bytes) -> tuple[str, int, int, int] | None:
    while len(header) >= 2:  # noqa: PLR2004  # an element's name and its length
        name, length, value = header[0], header[1], header[2 : 2 + header[1]]
        if name == _CONCATENATION_8 and len(value) == 3:  # noqa: PLR2004  # reference, total, number
            return "udh8", value[0], value[1], value[2]
        if name == _CONCATENATION_16 and len(value) == 4:  # noqa: PLR2004  # two octets of reference
            return "udh16", int.from_bytes(value[:2], "big"), value[2], value[3]
        header = header[2 + length :]
    return None


def _sar(tlvs: Mapping[int, bytes]) -> tuple[str, int, int, int] | None:
    tags = (Tag.SAR_MSG_REF_NUM, Tag.SAR_TOTAL_SEGMENTS, Tag.SAR_SEGMENT_SEQNUM)
    if not all(tag in tlvs for tag in tags):
        return None
    reference, total, number = (int.from_bytes(tlvs[tag], "big") for tag in tags)
    return "sar", reference, total, number


def decode(parts: Sequence[Part], *, alphabet: Alphabet) -> str:
    """Return the text of parts that follow each other; binary ones are written in hexadecimal.

    Octets of the same coding are joined first: a sender may have parted a pair.
    """
    runs = groupby(parts, key=lambda part: part.data_coding)
    return "".join(_decoded(b"".join(part.content for part in run), coding, alphabet) for coding, run in runs)


def _decoded(octets: bytes, data_coding: int, alphabet: Alphabet) -> str:
    if data_coding in _GENERAL or data_coding in _UCS2_WAITING:
        # SMSCs pass on a handset's coding as it is; SMPP's own names for these alphabets are 0, 4 and 8.
        data_coding = UCS2_CODING if data_coding in _UCS2_WAITING else data_coding & _ALPHABET_BITS
    if data_coding in _BINARY or (data_coding >= _MESSAGE_CLASS and data_coding & _EIGHT_BIT):
        return octets.hex()
    codec = _CODECS.get(data_coding) or ("latin-1" if alphabet is Alphabet.LATIN1 else "")
    text = octets.decode(codec, "replace") if codec else _gsm7_text(octets)
    # Nothing that follows stores a zero.
    return text.replace("\0", "")


def _gsm7_text(octets: bytes) -> str:
    characters = []
    escaped = False
    for octet in octets:
        if escaped:
            characters.append(_GSM7_EXTENDED.get(octet) or _GSM7[octet & 0x7F])
            escaped = False
        elif octet == _ESCAPE:
            escaped = True
        else:
            characters.append(_GSM7[octet & 0x7F])
    return "".join(characters)
