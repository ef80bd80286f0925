"""Message ids, which an SMSC may write in one way when it takes a message and in another in its receipts.

A number is kept in decimal, whichever way it is written; anything else in lower case. Leading zeros never count. Which
way an id is written can not always be seen: `1234` may be hexadecimal. Hence a memory of the ids that were given last,
with the number that each message went to, which tells what a receipt means; where it can not (after a restart, in
another process), the settings decide, or what was learned, or the look of the id.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from services.delivery.carriers.smpp.link import IdForm, MessageIdFormat

REMEMBERED: Final = 20_000
MAX_ID_LENGTH: Final = 128
MAX_NUMBER_LENGTH: Final = 32  # longer ones are no numbers to anybody
SAME_NUMBER_DIGITS: Final = 7  # national and international writings of a number end alike

log = structlog.get_logger(__name__)

_DECIMAL: Final = re.compile(r"[0-9]+")
_HEX: Final = re.compile(r"[0-9a-f]+")


def canonical(text: str, form: IdForm) -> str:
    """Return an id in the one way in which ids are compared. AUTO takes digits for decimal, and a to f for hex."""
    plain = clean(text).lower()
    plain = plain.lstrip("0") or plain[:1]
    if form is IdForm.TEXT or len(plain) > MAX_NUMBER_LENGTH:
        return plain
    if _DECIMAL.fullmatch(plain) and form is not IdForm.HEX:
        return plain
    if _HEX.fullmatch(plain) and form is not IdForm.DECIMAL:
        return str(int(plain, 16))
    return plain


def clean(text: str) -> str:
    """Return an SMSC's word without what a database or a screen can not bear."""
    return "".join(each for each in text[:MAX_ID_LENGTH] if each.isprintable()).strip()


@dataclass(frozen=True, kw_only=True)
class Given:
    """An id that the SMSC gave lately."""

    canonical_id: str
    message_id: str  # ours
    to: str


class MessageIds:
    """Brings ids of both sources to one form, and learns the SMSC's where the settings leave it open."""

    def __init__(self, carrier: str, settings: MessageIdFormat) -> None:
        self._carrier = carrier
        self._submit = settings.submit
        self._receipt = settings.receipt
        self._sent: OrderedDict[tuple[int, str], str] = (
            OrderedDict()
        )  # our ids; empty where two messages share a reference
        self._given: OrderedDict[str, Given] = OrderedDict()  # by each canonical form that a receipt may have

    def expect(self, reference: int, *, message_id: str, to: str) -> None:
        """Remember what is being sent to whom, for the case that its answer is lost."""
        key = (reference, _tail(to))
        self._sent[key] = message_id if self._sent.get(key, message_id) == message_id else ""
        self._sent.move_to_end(key)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def of_submit(self, text: str, *, message_id: str, to: str) -> str:
        """Return the canonical form of an id that came when a message was taken, and remember it."""
        if self._submit is IdForm.AUTO and _shows_hex(text):
            self._submit = IdForm.HEX
            log.info("the carrier gives message ids in hexadecimal", carrier=self._carrier)
        given = Given(canonical_id=canonical(text, self._submit), message_id=message_id, to=to)
        # As long as the form is open, every way in which a receipt may write it leads here.
        others = {canonical(text, IdForm.HEX)} if self._submit is IdForm.AUTO else set()
        for reading in {given.canonical_id, *others}:
            self._given[reading] = given
            self._given.move_to_end(reading)
        while len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        return given.canonical_id

    def of_receipt(self, text: str, *, to: str, reference: int | None = None) -> tuple[str, str]:
        """Return the canonical form of an id in a receipt, and our own id of that message if it is remembered.

        `reference` is what the receipt gives back of ours.
        """
        forms = [self._receipt] if self._receipt is not IdForm.AUTO else [IdForm.DECIMAL, IdForm.HEX, IdForm.TEXT]
        readings = {canonical(text, form): form for form in reversed(forms)}
        known = {
            given.canonical_id: (given, form)
            for reading, form in readings.items()
            if (given := self._given.get(reading)) and _tail(given.to) == _tail(to)
        }
        if len(known) == 1:
            ((given, form),) = known.values()
            self._learn(text, given, form)
            return given.canonical_id, given.message_id
        sent = self._sent.get((reference, _tail(to)), "") if reference is not None else ""
        return canonical(text, self._receipt), sent

    def _learn(self, text: str, given: Given, form: IdForm) -> None:
        # Only digits that are hexadecimal teach anything: all else is read rightly by its look.
        if (
            self._receipt is IdForm.AUTO
            and form is IdForm.HEX
            and self._submit is IdForm.HEX
            and canonical(text, IdForm.HEX) == given.canonical_id != canonical(text, IdForm.DECIMAL)
        ):
            self._receipt = IdForm.HEX
            log.info("the carrier's receipts have message ids in hexadecimal", carrier=self._carrier)


def _shows_hex(text: str) -> bool:
    plain = clean(text).lower().lstrip("0")
    return len(plain) <= MAX_NUMBER_LENGTH and bool(_HEX.fullmatch(plain)) and not _DECIMAL.fullmatch(plain)


def _tail(number: str) -> str:
    return "".join(each for each in number if each.isdecimal())[-SAME_NUMBER_DIGITS:]
