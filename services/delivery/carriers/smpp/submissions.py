"""What goes to the SMSC for one message: one `submit_sm`, or one for each part of a long text.

Documentation: SMPP 3.4 issue 1.2, 4.4.1, 5.2.5 and 5.2.6 (addresses), 7.1.1.2 (relative times).
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import Final

from servicekit import phone_numbers
from services.delivery.carriers.base import OutboundMessage
from services.delivery.carriers.smpp import text as sms
from services.delivery.carriers.smpp.link import MAX_ADDRESS_LENGTH, LongMessages, SmppLink
from services.delivery.carriers.smpp.pdu import MAX_SHORT_MESSAGE_OCTETS, Address, Submission

TON_UNKNOWN: Final = 0
TON_INTERNATIONAL: Final = 1
TON_NETWORK_SPECIFIC: Final = 3
TON_ALPHANUMERIC: Final = 5
NPI_UNKNOWN: Final = 0
NPI_E164: Final = 1
MOST_REFERENCES: Final = 127  # of one recipient; a handset has long put together what is older
REMEMBERED_REFERENCES: Final = 20_000  # of all recipients, each of them less than 1 KB

_INTERNATIONAL: Final = re.compile(r"\+[0-9]{3,20}")
_SHORT_CODE: Final = re.compile(r"[0-9]{1,8}")
_DIGITS: Final = re.compile(r"[0-9]+")


class UnsendableError(Exception):
    """The link can not carry the message as it is; the text says why."""


def submissions_of(
    message: OutboundMessage, link: SmppLink, references: PartReferences | None = None
) -> tuple[Submission, ...]:
    """Return what to submit, in order. Raises UnsendableError when the sender is nothing that SMPP carries.

    `references` remembers which references the recipient's handset may have parts of.
    """
    whole = link.long_messages is LongMessages.PAYLOAD
    text = sms.encode(message.text, alphabet=link.alphabet, data_coding=link.data_coding, whole=whole)
    source = _with_overrides(source_address(message.sender), link.source_ton, link.source_npi)
    destination = _with_overrides(_address_of_number(message.to), link.destination_ton, link.destination_npi)
    total = len(text.parts)
    if total > sms.MAX_PARTS:
        raise UnsendableError(f"the text takes {total} parts, and a long message has {sms.MAX_PARTS} at most")
    reference = reference_of(message.message_id)
    if total > 1 and references is not None:
        reference = references.of(message.message_id, message.to, reference)
    submissions = []
    for number, part in enumerate(text.parts, start=1):
        content = sms.with_header(part, reference=reference, total=total, number=number) if total > 1 else part
        fits = len(content) <= _room(link)
        submissions.append(
            Submission(
                source=source,
                destination=destination,
                esm_class=sms.UDH_INDICATOR if total > 1 else 0,
                data_coding=text.data_coding,
                short_message=content if fits else b"",
                payload=b"" if fits else content,
                validity_period=validity_period(link.validity_minutes),
                reference=user_reference_of(message.message_id) if link.receipts else None,
            )
        )
    return tuple(submissions)


def _room(link: SmppLink) -> int:
    # What is more than one SMS goes into the payload, even where the field would hold it: many SMSCs cut nothing else.
    return 140 if link.long_messages is LongMessages.PAYLOAD else MAX_SHORT_MESSAGE_OCTETS


def reference_of(message_id: str) -> int:
    """Return the 8-bit reference that a message's parts have in common.

    The same on every attempt, so that a handset which gets a part twice puts one message together, not two.
    """
    return hashlib.sha256(message_id.encode()).digest()[0]


class PartReferences:
    """Which references long messages went out with lately: two at once to one handset must not share one.

    A handset knows parts by sender, reference and total only, and would put parts of two messages together.
    """

    def __init__(self) -> None:
        self._used: OrderedDict[str, OrderedDict[int, str]] = OrderedDict()  # by recipient: messages by reference
        self._remembered = 0  # references in all

    def of(self, message_id: str, to: str, wanted: int) -> int:
        """Return the reference of a message: the one it had before, or the wanted one or the next that is free."""
        used = self._used.setdefault(to, OrderedDict())
        self._used.move_to_end(to)
        for before, other in used.items():
            if other == message_id:
                return before
        if len(used) == MOST_REFERENCES:
            used.popitem(last=False)
            self._remembered -= 1
        reference: int = next(free for free in (*range(wanted, 256), *range(wanted)) if free not in used)
        used[reference] = message_id
        self._remembered += 1
        while self._remembered > REMEMBERED_REFERENCES:
            _, forgotten = self._used.popitem(last=False)
            self._remembered -= len(forgotten)
        return reference


def user_reference_of(message_id: str) -> int:
    """Return the 16-bit reference by which a receipt can name a message whose answer was lost."""
    return int.from_bytes(hashlib.sha256(message_id.encode()).digest()[1:3], "big")


def source_address(sender: str) -> Address:
    """Return a sender with its type: E.164, a short code, a national number, a name, or none for the SMSC's choice."""
    if not sender:
        return Address(ton=TON_UNKNOWN, npi=NPI_UNKNOWN, text="")
    if _INTERNATIONAL.fullmatch(sender) or _DIGITS.fullmatch(sender):
        return _address_of_number(sender)
    if not (sender.isascii() and sender.isprintable() and len(sender) <= MAX_ADDRESS_LENGTH):
        raise UnsendableError("the sender is neither a number nor a name of at most 20 printable ASCII characters")
    return Address(ton=TON_ALPHANUMERIC, npi=NPI_UNKNOWN, text=sender)


def _address_of_number(number: str) -> Address:
    if number.startswith("+"):
        return Address(ton=TON_INTERNATIONAL, npi=NPI_E164, text=number[1:])
    if _SHORT_CODE.fullmatch(number):
        return Address(ton=TON_NETWORK_SPECIFIC, npi=NPI_UNKNOWN, text=number)
    return Address(ton=TON_UNKNOWN, npi=NPI_E164, text=number[:MAX_ADDRESS_LENGTH])


def _with_overrides(address: Address, ton: int | None, npi: int | None) -> Address:
    return Address(ton=address.ton if ton is None else ton, npi=address.npi if npi is None else npi, text=address.text)


def validity_period(minutes: int | None) -> str:
    """Return a relative time, `YYMMDDhhmmsstnnR`, in days of 24 hours and months of 30 days; empty for None."""
    if minutes is None:
        return ""
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    months, days = divmod(days, 30)
    years, months = divmod(months, 12)
    return f"{years:02}{months:02}{days:02}{hours:02}{minutes:02}00000R"


def number_from(address: Address, default_region: str) -> str:
    """Return an inbound address as E.164 where it can be read as such, and else as it came."""
    text = "".join(each for each in address.text if each.isprintable()).strip()
    if address.ton == TON_ALPHANUMERIC or not _DIGITS.fullmatch(text.removeprefix("+")):
        return text
    digits = text.removeprefix("+")
    readings = [f"+{digits.removeprefix('00')}"]
    if default_region:
        # A number that says it is international is; of one that does not, the country's own reading comes first.
        readings.insert(len(readings) if address.ton == TON_INTERNATIONAL or text != digits else 0, digits)
    for reading in readings:
        try:
            return phone_numbers.normalise(reading, default_region)
        except phone_numbers.NotAPhoneNumberError:
            continue
    return f"+{digits}" if address.ton == TON_INTERNATIONAL else text
