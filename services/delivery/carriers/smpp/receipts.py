"""Receipts: what an SMSC says later about a message that it took, in a `deliver_sm`.

Documentation: SMPP 3.4 issue 1.2, 5.2.12 (which `deliver_sm` is a receipt) and appendix B (its text, which is each
SMSC's own): `id:IIII sub:SSS dlvrd:DDD submit date:YYMMDDhhmm done date:YYMMDDhhmm stat:DDDDDDD err:E text:...`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.delivery.carriers.base import Failure, Status
from services.delivery.carriers.smpp.ids import clean
from services.delivery.carriers.smpp.pdu import Delivery, Tag
from services.delivery.carriers.smpp.statuses import SPELLINGS, STATE_NAMES, STATES

REFERENCE_OCTETS: Final = 2

_TYPE_MASK: Final = 0x3C
_RECEIPT_TYPES: Final = frozenset({0x04, 0x20})  # the final one, and one on the way
_KEYS: Final = r"id|sub|dlvrd|submit[ _]?date|done[ _]?date|stat|err"
_TEXT: Final = re.compile(r"(?:^|\s)text\s*:", re.IGNORECASE)
_PAIR: Final = re.compile(
    rf"(?:^|(?<=[\s,;]))(?P<key>{_KEYS})\s*:\s*(?!(?:{_KEYS})\s*:)(?P<value>[^\s,;]*)", re.IGNORECASE
)
_NO_ERROR: Final = re.compile(r"0*")


@dataclass(frozen=True, kw_only=True)
class ReadReceipt:
    """What a receipt says. `id_text` is as the SMSC wrote it, and empty when it names no message."""

    id_text: str
    reference: int | None  # ours, where the SMSC gives it back
    status: Status
    failure: Failure | None
    detail: str


def is_receipt(delivery: Delivery) -> bool:
    """Tell whether a `deliver_sm` is a receipt.

    By its type, or by a parameter that only an SMSC sets; never by its text, which anybody can write on a handset.
    """
    message_type = delivery.esm_class & _TYPE_MASK
    if message_type in _RECEIPT_TYPES:
        return True
    return not message_type and Tag.RECEIPTED_MESSAGE_ID in delivery.tlvs and Tag.MESSAGE_STATE in delivery.tlvs


def read_receipt(delivery: Delivery) -> ReadReceipt:
    """Read a receipt, from its text or else from its parameters. One that says nothing is one on the way."""
    fields = _fields(delivery.content)
    state = _state(fields, delivery.tlvs)
    code = _error_code(fields, delivery.tlvs)
    meaning = STATES[state]
    failure = Failure(reason=meaning.reason, carrier_code=code or state) if meaning.reason else None
    return ReadReceipt(
        id_text=fields.get("id") or _c_string(delivery.tlvs.get(Tag.RECEIPTED_MESSAGE_ID, b"")),
        reference=_reference(delivery.tlvs.get(Tag.USER_MESSAGE_REFERENCE, b"")),
        status=meaning.status,
        failure=failure,
        detail=f"{state} {code}".strip(),
    )


def _fields(content: bytes) -> Mapping[str, str]:
    # Keys and values are ASCII in every alphabet that an SMSC writes them in. What follows `text:` is the sender's.
    text = _TEXT.split(content.decode("latin-1"), maxsplit=1)[0]
    found: dict[str, str] = {}
    for pair in _PAIR.finditer(text):
        found.setdefault(pair["key"].lower(), clean(pair["value"]))
    return found


def _state(fields: Mapping[str, str], tlvs: Mapping[int, bytes]) -> str:
    word = fields.get("stat", "").upper()
    word = SPELLINGS.get(word, word)
    if word in STATES:
        return word
    number = int.from_bytes(tlvs.get(Tag.MESSAGE_STATE, b""), "big")
    return STATE_NAMES[number] if 0 < number < len(STATE_NAMES) else "UNKNOWN"


def _error_code(fields: Mapping[str, str], tlvs: Mapping[int, bytes]) -> str:
    code = fields.get("err", "")
    if not _NO_ERROR.fullmatch(code):
        return code
    network = tlvs.get(Tag.NETWORK_ERROR_CODE, b"")  # the network's kind, and its code in two octets
    number = int.from_bytes(network[1:3], "big")
    return str(number) if number else ""


def _reference(octets: bytes) -> int | None:
    return int.from_bytes(octets, "big") if len(octets) == REFERENCE_OCTETS else None


def _c_string(octets: bytes) -> str:
    return clean(octets.partition(b"\0")[0].decode("latin-1"))
