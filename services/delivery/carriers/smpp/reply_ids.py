"""Ids for inbound messages, which SMPP does not have: the same when a message is told again.

An id is a hash over everything that is the same when an SMSC tells a message again. Two messages of the same words from
the same person have that in common too, so the hour goes in, and a count of those that can not be repeats: the SMSC
had our answer to the one before, on a link that still stands. Where the SMSC gives an id or a time with a message,
neither is needed.

What is left: the same words twice within one hour, with a new link or a new process in between, are taken for one
message, save for opt-out words that change something; one that is told again across the full hour after a crash is
taken for two.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.delivery.carriers.smpp.pdu import Delivery, Tag
from services.delivery.carriers.smpp.text import Part

REMEMBERED: Final = 10_000
REPEATED_WITHIN_SECONDS: Final = 3600.0

# They tell of the SMSC's queue at the moment, not of the message.
_NOT_THE_MESSAGE: Final = frozenset({Tag.MORE_MESSAGES_TO_SEND})


@dataclass(kw_only=True)
class _Told:
    """The last message with these words."""

    at: datetime
    link: object
    count: int
    reply_id: str
    answered: bool = False


class ReplyIds:
    """Gives ids, and remembers the last ones."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, _Told] = OrderedDict()

    def id_of(self, delivery: Delivery, link: object, now: datetime) -> str:
        """Return the id of a message that came just now over a link."""
        content = _hash_of(delivery)
        if has_own_id(delivery):
            return content
        last = self._told.get(content)
        if last and (now - last.at).total_seconds() < REPEATED_WITHIN_SECONDS:
            if not (last.answered and last.link is link):
                last.link = link
                return last.reply_id
            count = last.count + 1
        else:
            count = 0
        reply_id = _hashed(content, now.strftime("%Y%m%d%H"), str(count))
        self._told[content] = _Told(at=now, link=link, count=count, reply_id=reply_id)
        self._told.move_to_end(content)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return reply_id

    def answered(self, delivery: Delivery) -> None:
        """Take in that the SMSC may forget a message."""
        last = self._told.get(_hash_of(delivery))
        if last:
            last.answered = True


def has_own_id(delivery: Delivery) -> bool:
    """Tell whether the SMSC gives an id or a time with a message, so that no other one can have its hash."""
    return bool(delivery.scheduled or delivery.tlvs.get(Tag.RECEIPTED_MESSAGE_ID))


def id_of_parts(sender: str, recipient: str, reference: tuple[str, int], parts: Sequence[Part], now: datetime) -> str:
    """Return the id of a long message: by its words, its reference, and the hour."""
    kind, number = reference
    pieces = [f"{part.number}/{part.total} {part.data_coding} {part.content.hex()}" for part in parts]
    return _hashed(sender, recipient, kind, str(number), *pieces, now.strftime("%Y%m%d%H"))


def _hash_of(delivery: Delivery) -> str:
    source, destination = delivery.source, delivery.destination
    tlvs = [f"{tag} {value.hex()}" for tag, value in sorted(delivery.tlvs.items()) if tag not in _NOT_THE_MESSAGE]
    return _hashed(
        source.text,
        destination.text,
        str(delivery.esm_class),
        str(delivery.data_coding),
        delivery.scheduled,
        delivery.content.hex(),
        *tlvs,
    )


def _hashed(*pieces: str) -> str:
    # Zeros between the pieces: none of them has one.
    return hashlib.sha256("\0".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()[:40]
