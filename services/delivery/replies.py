"""Inbound messages: whom they answer, whose they are, and who has opted out by them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.delivery.domain import Message

# No window is longer, so that no query looks further back.
LONGEST_WINDOW: Final = timedelta(days=30)
LONGEST_VALIDITY: Final = timedelta(days=3)  # of a message, by the limit of its setting
MAX_OTHER_CANDIDATES: Final = 10

# How long an inbound message counts as an answer to a message.
WindowOf = Callable[[Message], timedelta]

_WRITTEN_NUMBER: Final = re.compile(r"\+?[0-9 .()-]+")
# As many digits as the shortest number with its country has (ITU-T E.164 gives no minimum); fewer are a short code.
_SHORTEST_NUMBER: Final = 7


@dataclass(frozen=True, kw_only=True)
class AnsweredMessage:
    """The message that a reply answers."""

    id: str
    ref: str
    integration_id: str  # empty for one that was sent by the API
    sent_at: datetime
    traceparent: str = ""  # of the request that it came by, when the reply has just been matched to it


@dataclass(frozen=True, kw_only=True)
class ReceivedReply:
    """An inbound SMS, with what it was matched to."""

    id: str  # `mo_` and 26 characters
    tenant_id: str  # empty when nobody can know whose it is
    sender: str  # the person who wrote, E.164
    recipient: str  # our number
    text: str
    received_at: datetime
    in_reply_to: AnsweredMessage | None  # None when nothing went that way within the window
    other_candidates: tuple[str, ...] = ()  # ids of older messages that it may answer too, newest first
    keyword: str = ""  # `stop`, `start` or `help` when the text is such a word
    carrier: str = ""  # that brought it


@dataclass(frozen=True, kw_only=True)
class InboundFilter:
    """Which received messages to list; None means that it does not matter."""

    sender: str | None = None
    recipient: str | None = None
    message_id: str | None = None  # that they answer
    received_after: datetime | None = None  # at this time or later
    received_before: datetime | None = None  # before this time


class OptOutSource(StrEnum):
    """Who said that somebody wants no more messages."""

    REPLY = "reply"  # the person, by an opt-out word
    CARRIER = "carrier"  # a carrier, in a refusal or a receipt


@dataclass(frozen=True, kw_only=True)
class OptOut:
    """A person who wants no more messages from one of our numbers, whoever sends them."""

    id: str  # `opt_` and 26 characters
    tenant_id: str  # who may see and delete it; empty for nobody
    ours: str  # the number or name that may not write; empty for whatever number a carrier chooses by itself
    theirs: str  # the person's number
    source: OptOutSource
    word: str  # what the person wrote; empty when a carrier said so
    reply_id: str  # empty when a carrier said so
    created_at: datetime


def comparable_number(text: str) -> str:
    """Return a number or name as it is stored and compared: carriers write the same number in several ways.

    A number long enough to have its country is in E.164, with its plus sign; a short code has digits only. A name stays
    as it is. What came out of this comes out unchanged.
    """
    written = text.strip()
    if not written.isascii() or not _WRITTEN_NUMBER.fullmatch(written):
        return written
    digits = re.sub(r"[^0-9]", "", written)
    return f"+{digits}" if len(digits) >= _SHORTEST_NUMBER else digits


def spellings(number: str) -> tuple[str, ...]:
    """Return the ways in which `comparable_number` may be written as a message's sender."""
    digits = number.removeprefix("+")
    return (digits, f"+{digits}") if digits.isdecimal() else (number,)


def answered(candidates: Sequence[Message], received_at: datetime, window_of: WindowOf) -> list[Message]:
    """Return the messages that a reply may answer, newest first: those within their own windows, 30 days at most.

    What counts is when a message went, not when it was accepted: one may have waited for its carrier for long.
    """
    within = [
        message for message in candidates if received_at - went_at(message) <= min(window_of(message), LONGEST_WINDOW)
    ]
    return sorted(within, key=lambda message: (went_at(message), message.id), reverse=True)


def went_at(message: Message) -> datetime:
    """Return when a message went: when a carrier took it, or as far as is known when it may have."""
    return message.sent_at or message.updated_at
