"""How a text becomes SMS parts: its encoding, how many parts it takes, and what is in each, as handsets have it.

Source: 3GPP TS 23.038 (default alphabet and its extension table) and TS 23.040 (a part of a long message loses six
octets to its header, which leaves 153 septets or 67 code units of 160 or 70).

Handsets put the parts together before they show them, so a part may end between a letter and its combining accent, or
within an emoji of several code points: only what a decoder needs whole, an escape pair or a surrogate pair, is never
parted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

# By code, save that 0x1B, the escape, is left out: a character U+001B is not in the alphabet, and can forge no pair.
GSM7_ALPHABET: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Each of these takes an escape and a second septet, and the two are never parted. 0x0A is the page break.
GSM7_EXTENSION: Final = "\f^{}\\[~]|€"
_ESCAPE: Final = 0x1B
_EXTENSION_CODES: Final = (0x0A, 0x14, 0x28, 0x29, 0x2F, 0x3C, 0x3D, 0x3E, 0x40, 0x65)

# What one message holds, and what one part of a longer one does: septets, or code units.
GSM7_ALONE: Final = 160
GSM7_PART: Final = 153
UCS2_ALONE: Final = 70
UCS2_PART: Final = 67

# Of every message that is taken, in Unicode code points, as the sender's language counts a string.
MAX_TEXT_LENGTH: Final = 1600

_IN_GSM7: Final = re.compile(f"[{re.escape(GSM7_ALPHABET + GSM7_EXTENSION)}]*")
_ESCAPED: Final = re.compile(f"[{re.escape(GSM7_EXTENSION)}]")
_IN_SURROGATES: Final = re.compile("[\U00010000-\U0010ffff]")
_OCTETS: Final = {
    **{character: bytes([code + (code >= _ESCAPE)]) for code, character in enumerate(GSM7_ALPHABET)},
    **{character: bytes([_ESCAPE, code]) for character, code in zip(GSM7_EXTENSION, _EXTENSION_CODES, strict=True)},
}
_TEXTS: Final = {octets: character for character, octets in _OCTETS.items()}
_SEPTETS: Final = re.compile(rb"\x1b?[\x00-\xff]")


class Encoding(StrEnum):
    """How a text is put into SMS parts."""

    GSM7 = "gsm7"
    UCS2 = "ucs2"


# Which characters take two, what one message holds, and what a part of several does.
_ROOM: Final = {
    Encoding.GSM7: (_ESCAPED, GSM7_ALONE, GSM7_PART),
    Encoding.UCS2: (_IN_SURROGATES, UCS2_ALONE, UCS2_PART),
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a text takes on the air."""

    encoding: Encoding
    segments: int


def is_blank(text: str) -> bool:
    """Tell whether nobody would see anything of a text: it has blanks and format characters only."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def is_gsm7(text: str) -> bool:
    """Tell whether the default alphabet and its extension table hold the whole text."""
    return _IN_GSM7.fullmatch(text) is not None


def measure(text: str) -> Measure:
    """Return the encoding that holds the text in the fewest bits, and the number of parts that it takes.

    Remembered for a while: a text is measured when it is accepted, and twice when it goes to a carrier. One of more
    characters than a message may have goes nowhere, and would be kept whole.
    """
    return _measured(text) if len(text) > MAX_TEXT_LENGTH else _remembered(text)


def _measured(text: str) -> Measure:
    encoding = Encoding.GSM7 if is_gsm7(text) else Encoding.UCS2
    return Measure(encoding=encoding, segments=1 + len(_cuts(text, encoding)))


_remembered: Final = lru_cache(maxsize=512)(_measured)


def split(text: str) -> list[str]:
    """Return the parts of a text, as many as `measure` counts; one that fits alone is its only part.

    Each is to be encoded as `measure` says of the whole: a part of a UCS-2 text may look as if it were GSM-7.
    """
    ends = [*_cuts(text, measure(text).encoding), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def gsm7_bytes(text: str) -> bytes:
    """Return a text in the default alphabet, one septet an octet (unpacked), escapes included.

    Raises ValueError for a text that is not GSM-7.
    """
    try:
        return b"".join([_OCTETS[character] for character in text])
    except KeyError as error:
        raise ValueError(f"U+{ord(error.args[0]):04X} is not in the GSM default alphabet") from None


def gsm7_text(octets: bytes) -> str:
    """Return the text that unpacked septets of the default alphabet stand for.

    An escape before a septet that the extension does not have is passed over (TS 23.038, 6.2.1.1); what is no septet at
    all is U+FFFD.
    """
    return "".join(_TEXTS.get(found) or _TEXTS.get(found[-1:], "\ufffd") for found in _SEPTETS.findall(octets))


def _cuts(text: str, encoding: Encoding) -> Sequence[int]:
    """Return where each part but the last ends. A pair that does not fit goes whole into the next part."""
    pattern, alone, room = _ROOM[encoding]
    pairs = pattern.findall(text)
    if len(text) + len(pairs) <= alone:
        return ()
    if not pairs:
        return range(room, len(text), room)
    cuts, used, doubles = [], 0, frozenset(pairs)
    for index, character in enumerate(text):
        size = 2 if character in doubles else 1
        if used + size > room:
            cuts.append(index)
            used = 0
        used += size
    return cuts
