"""How many SMS parts a text takes, counted as handsets count them.

Source: 3GPP TS 23.038 (alphabet and extension table) and TS 23.040 (a part of a long message loses six octets to its
header, which leaves 153 septets or 67 code units of 160 or 70).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.delivery.domain import Encoding

GSM7_ALPHABET: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Each of these takes an escape and a second septet, and the two are never parted.
GSM7_EXTENSION: Final = "\f^{}\\[~]|€"

# What one message holds, and what one part of a longer one does: septets, or code units.
GSM7_ALONE: Final = 160
GSM7_PART: Final = 153
UCS2_ALONE: Final = 70
UCS2_PART: Final = 67

_IN_GSM7: Final = re.compile(f"[{re.escape(GSM7_ALPHABET + GSM7_EXTENSION)}]*")
_EXTENDED: Final = re.compile(f"[{re.escape(GSM7_EXTENSION)}]")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a text takes on the air."""

    encoding: Encoding
    segments: int


def measure(text: str) -> Measure:
    """Return the encoding that holds the text in the fewest bits, and the number of parts that it takes."""
    if _IN_GSM7.fullmatch(text):
        extended = len(_EXTENDED.findall(text))
        septets = len(text) + extended
        if septets <= GSM7_ALONE:
            return Measure(encoding=Encoding.GSM7, segments=1)
        if not extended:
            return Measure(encoding=Encoding.GSM7, segments=-(-septets // GSM7_PART))
        return Measure(encoding=Encoding.GSM7, segments=_parts([1 + (c in GSM7_EXTENSION) for c in text], GSM7_PART))
    if len(text) + sum(c > "\uffff" for c in text) <= UCS2_ALONE:
        return Measure(encoding=Encoding.UCS2, segments=1)
    return Measure(encoding=Encoding.UCS2, segments=_parts([1 + (c > "\uffff") for c in text], UCS2_PART))


def _parts(sizes: list[int], room: int) -> int:
    # An escape pair or a surrogate pair that does not fit goes whole into the next part.
    parts, used = 1, 0
    for size in sizes:
        if used + size > room:
            parts, used = parts + 1, 0
        used += size
    return parts
