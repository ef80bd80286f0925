"""Messages and what happens to them: the words of the business, and the rules that need nothing but their arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final

from servicekit.ids import CROCKFORD
from servicekit.sms_text import Encoding

MAX_REF_LENGTH: Final = 64
MAX_TAG_LENGTH: Final = 64
MAX_DETAIL_LENGTH: Final = 500
MAX_CARRIER_ID_LENGTH: Final = 255
SHARDS: Final = len(CROCKFORD)  # as many as an id's last character can tell apart


class Status(StrEnum):
    """Where a message stands. A terminal status never goes back."""

    QUEUED = "queued"  # on disk, waiting for its next attempt
    SENDING = "sending"  # an attempt is under way, or its outcome is waited for
    SENT = "sent"  # a carrier took it
    DELIVERED = "delivered"  # the handset has it, by the carrier's word
    UNDELIVERED = "undelivered"  # the carrier took it and could not bring it to the handset
    FAILED = "failed"  # no carrier takes it
    EXPIRED = "expired"  # its validity ended before a carrier took it
    CANCELED = "canceled"  # stopped by its sender before the first attempt
    SUPPRESSED = "suppressed"  # accepted, never attempted: the recipient has opted out
    UNKNOWN = "unknown"  # an attempt's outcome can not be known, and nobody may guess


TERMINAL: Final = frozenset(
    {Status.DELIVERED, Status.UNDELIVERED, Status.FAILED, Status.EXPIRED, Status.CANCELED, Status.SUPPRESSED}
)


class Priority(StrEnum):
    """Which messages go first when there are more than can go."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnUnknown(StrEnum):
    """What to do with a message when nothing tells whether a carrier has it."""

    RESEND = "resend"  # better twice than never
    HOLD = "hold"  # better never than twice: an operator decides


class Resolution(StrEnum):
    """What an operator decides about a message that is held."""

    SENT = "sent"
    FAILED = "failed"
    RESEND = "resend"


RESOLVED_STATUS: Final = {
    Resolution.SENT: Status.SENT,
    Resolution.FAILED: Status.FAILED,
    Resolution.RESEND: Status.QUEUED,
}


class Outcome(StrEnum):
    """How an attempt stands."""

    STARTED = "started"  # committed before the first byte went to the carrier
    TAKEN = "taken"
    REFUSED = "refused"
    TRY_LATER = "try_later"
    UNKNOWN = "unknown"  # the carrier may have it, or not


class FailureReason(Enum):
    """Why a message is not delivered, in the same words for every carrier: a code, and a sentence for a person."""

    INVALID_NUMBER = ("invalid_number", "The carrier says that the number does not exist or can not get SMS.")
    OPTED_OUT = ("opted_out", "The recipient does not want messages from this sender.")
    UNREACHABLE = ("unreachable", "The handset could not be reached.")
    SENDER_REJECTED = ("sender_rejected", "The carrier does not send from this number or name.")
    CONTENT_REJECTED = ("content_rejected", "The carrier or a network takes the text for spam or for forbidden.")
    DESTINATION_NOT_ALLOWED = ("destination_not_allowed", "The account at the carrier may not send to this country.")
    ACCOUNT_REJECTED = ("account_rejected", "The carrier does not accept the credentials, or has closed the account.")
    CARRIER_REJECTED = ("carrier_rejected", "The carrier refuses this message.")
    CARRIER_UNAVAILABLE = ("carrier_unavailable", "The carrier can not take messages just now.")
    THROTTLED = ("throttled", "The carrier asks to be sent less at a time.")
    INSUFFICIENT_FUNDS = ("insufficient_funds", "The account at the carrier has no credit left.")
    NO_ANSWER = ("no_answer", "The carrier did not answer in time; it may have the message.")
    EXPIRED = ("expired", "No carrier took the message before its validity ended.")

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        self.sentence = sentence


# What is wrong with the recipient or the text is so at every carrier; all else another carrier may not mind.
FINAL_EVERYWHERE: Final = frozenset(
    {FailureReason.INVALID_NUMBER, FailureReason.OPTED_OUT, FailureReason.CONTENT_REJECTED}
)
# What is wrong with the carrier or with our account there concerns every message, so that none is given up for it.
NOT_THE_MESSAGE: Final = frozenset(
    {
        FailureReason.ACCOUNT_REJECTED,
        FailureReason.INSUFFICIENT_FUNDS,
        FailureReason.CARRIER_UNAVAILABLE,
        FailureReason.THROTTLED,
    }
)
REASON_BY_CODE: Final = {reason.code: reason for reason in FailureReason}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A reason, with the carrier's own code beside it (empty when it gave none)."""

    reason: FailureReason
    carrier_code: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchPlace:
    """Where a message stands in the request that made it, and the batch's `bat_` id."""

    batch_id: str
    place: int


@dataclass(frozen=True, kw_only=True)
class IdempotencyKey:
    """The caller's word that two requests are the same request. It counts within its scope."""

    scope: str  # an integration's id, or a tenant's for the API
    key: str
    request_sha256: bytes
    expires_at: datetime
    batch: BatchPlace | None = None  # of a message that is one of a request's many


@dataclass(frozen=True, kw_only=True)
class DedupeKey:
    """The integration's word that two payloads mean the same message. It counts within its scope."""

    scope: str
    value: str
    expires_at: datetime
    suppresses: bool  # False: the repeat is sent too, and marked


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The answer to a new message: itself, or the first one of which it is a repeat."""

    message_id: str
    to: str
    text: str
    ref: str
    created_at: datetime
    replayed: bool = False  # its idempotency key was known
    duplicate: bool = False  # its dedupe key was known
    mismatch: bool = False  # its idempotency key was known with another body: nothing was stored
    batch_id: str = ""  # of the first batch with its idempotency key


@dataclass(frozen=True, kw_only=True)
class Message:
    """One SMS to one number, as it stands."""

    id: str
    tenant_id: str
    integration_id: str  # empty for a message that was sent by the API
    status: Status
    to: str  # E.164
    sender: str  # empty until the first attempt
    text: str
    ref: str  # empty for none
    callback: str  # empty for none
    carrier: str  # of the last attempt; empty before the first
    carrier_message_id: str  # empty until a carrier took it
    segments: int
    encoding: Encoding
    attempts: int
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    valid_until: datetime
    priority: Priority
    on_unknown: OnUnknown
    sent_at: datetime | None
    delivered_at: datetime | None
    wanted_sender: str = ""  # empty for the route's own
    tag: str = ""  # a word for routing rules
    despite_opt_out: bool = False  # it goes to somebody who has opted out: the answer to that very word
    request_id: str = ""  # of the request that it came by
    traceparent: str = ""  # of that request: all that becomes of the message is in its trace


@dataclass(frozen=True, kw_only=True)
class NewMessage(Message):
    """A message on its way into the store, as it will stand there before any attempt."""

    status: Status = Status.QUEUED
    sender: str = ""
    carrier: str = ""
    carrier_message_id: str = ""
    attempts: int = 0
    failure: Failure | None = None
    priority: Priority = Priority.NORMAL
    on_unknown: OnUnknown = OnUnknown.RESEND
    sent_at: datetime | None = None
    delivered_at: datetime | None = None
    route: str = ""  # the name of the route in whose queue it waits
    idempotency: IdempotencyKey | None = None
    dedupe: DedupeKey | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try to hand a message to one carrier."""

    number: int  # from 1
    carrier: str
    outcome: Outcome
    started_at: datetime
    finished_at: datetime | None
    detail: str  # the carrier's own answer
    possible_duplicate: bool  # this attempt and another may both have reached the handset
    sender: str = ""
    why: str = ""  # why this carrier, in one sentence
    failure: Failure | None = None  # what the carrier said when it did not take the message


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A carrier's later word on a message. It names the message by our id, or by the carrier's own."""

    message_id: str  # ours; empty when the carrier gives only its own back
    carrier: str
    carrier_message_id: str  # empty when the carrier gives ours back and nothing else
    status: Status  # SENT, DELIVERED or UNDELIVERED
    failure: Failure | None
    detail: str
    received_at: datetime
    attempt: int = 0  # that it is about, where that is told; 0 where it is to be found
    part_ids: tuple[str, ...] = ()  # in which that attempt was taken, as its end does not tell


@dataclass(frozen=True, kw_only=True)
class RecordedReceipt:
    """A receipt with what it was found to be about."""

    attempt: int  # the carrier's first when it gave only our id back; 0 when that was not kept
    part: int  # from 1; 0 for the message as a whole
    parts: int  # in how many parts the attempt was taken; 0 for as a whole
    status: Status
    failure: Failure | None
    detail: str
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An inbound SMS."""

    id: str
    carrier: str
    carrier_reply_id: str  # unique for the carrier: a repeat is the same reply
    has_own_id: bool = True  # False: that is made of what it says, and the same words said again may have it too
    sender: str  # the person who wrote, E.164
    recipient: str  # our number
    text: str
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """How a message that was held was settled: by what a person decided, or by a late receipt."""

    held_at: datetime
    at: datetime
    resolution: Resolution | None  # None for a receipt


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that is known of one message."""

    message: Message
    attempts: tuple[Attempt, ...]
    receipts: tuple[RecordedReceipt, ...]
    replies: tuple[Reply, ...]
    resolved: tuple[Resolved, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MessageFilter:
    """Which messages to list; None means that it does not matter."""

    status: Status | None = None
    ref: str | None = None
    to: str | None = None
    integration_id: str | None = None
    created_after: datetime | None = None  # at this time or later
    created_before: datetime | None = None  # before this time


def status_after_receipt(current: Status, told: Status, *, newer_may_arrive: bool = False) -> Status:
    """Return a message's status after a receipt: forwards only, whatever the order in which receipts come.

    A message that is held because its outcome is unknown learns it from its receipt; one that expired or was suppressed
    while a carrier had it after all, too. `newer_may_arrive` says that the receipt is of an older attempt, and that the
    newest one may still reach the handset: then `undelivered` is not the last word.
    """
    if current in TERMINAL and current not in (Status.EXPIRED, Status.SUPPRESSED):
        return current
    if told is Status.UNDELIVERED and newer_may_arrive:
        return current
    return told


def shard_of(message_id: str) -> int:
    """Return the shard that a message lives on, from 0 to below `SHARDS`: its id's last character says so."""
    return CROCKFORD.index(message_id[-1])
