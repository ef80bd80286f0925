"""What every carrier is to Delivery, and the values that pass between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from services.delivery.domain import Failure, FailureReason, Status
from services.delivery.errors import CallbackUnauthenticatedError, CallbackUnreadableError

__all__ = [
    "Callback",
    "CallbackAnswer",
    "CallbackKind",
    "CallbackUnauthenticatedError",
    "CallbackUnreadableError",
    "Capability",
    "Carrier",
    "CarrierEvents",
    "CarrierReceipt",
    "CarrierReply",
    "Failure",
    "FailureReason",
    "KeepsLink",
    "LinkProblem",
    "OutboundMessage",
    "ReadCallback",
    "Refused",
    "SendResult",
    "Status",
    "Taken",
    "TakesCallbacks",
    "TryLater",
    "Unknown",
]


class Capability(Enum):
    """What a carrier offers for the case that its answer is lost."""

    IDEMPOTENT = "idempotent"  # it takes our id as a key and drops a second message with the same one
    RECONCILABLE = "reconcilable"  # a receipt or a query tells whether it has the message
    BLIND = "blind"  # nothing tells


@dataclass(frozen=True, kw_only=True)
class OutboundMessage:
    """What a carrier gets. `message_id` is the same on every attempt."""

    message_id: str
    attempt_number: int
    to: str
    sender: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The carrier has the message.

    `part_ids` has the carrier's id of each part, in order, when it took a long message as several that get receipts of
    their own; `carrier_message_id` is then the first of them.
    """

    carrier_message_id: str
    detail: str
    part_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The carrier will never take the message."""

    failure: Failure
    detail: str


@dataclass(frozen=True, kw_only=True)
class TryLater:
    """The carrier does not have the message, and may take it later; `after_seconds` if it said when."""

    failure: Failure
    detail: str
    after_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """The carrier may have the message, or not."""

    detail: str


SendResult = Taken | Refused | TryLater | Unknown


@dataclass(frozen=True, kw_only=True)
class CarrierReceipt:
    """A carrier's later word on a message, by our id if the carrier gives it back, or else by its own.

    At least one of the two ids is there; both are better, because a long message's parts differ by the carrier's.
    """

    status: Status  # SENT, DELIVERED or UNDELIVERED
    failure: Failure | None
    detail: str
    message_id: str = ""
    carrier_message_id: str = ""
    # Of a message that the carrier has taken in parts, and said so when its attempt had ended already.
    attempt_number: int = 0
    part_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CarrierReply:
    """An inbound SMS as the carrier tells it; `carrier_reply_id` is the same when it is told again."""

    carrier_reply_id: str
    sender: str
    recipient: str
    text: str
    has_own_id: bool = True  # False: the id is made of what it says, and the same words said again may have it too


class CallbackKind(Enum):
    """What a carrier calls back about: the last word of the address that it calls."""

    STATUS = "status"
    INBOUND = "inbound"


@dataclass(frozen=True, kw_only=True)
class Callback:
    """A carrier's call as it came. Nothing in it is to be believed before its signature is checked."""

    kind: CallbackKind
    method: str  # GET or POST
    url: str  # as the carrier knows it: our public address, path and query, byte for byte
    query: str  # what follows the question mark, still percent-encoded
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    received_at: datetime


@dataclass(frozen=True, kw_only=True)
class CallbackAnswer:
    """What the carrier wants to hear once its callback is on disk."""

    status: int = 204
    content_type: str = ""
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class ReadCallback:
    """What a verified callback says. A callback that says nothing of interest has neither receipts nor replies."""

    answer: CallbackAnswer
    receipts: tuple[CarrierReceipt, ...] = ()
    replies: tuple[CarrierReply, ...] = ()


@runtime_checkable
class TakesCallbacks(Protocol):
    """A carrier that calls us back over HTTP."""

    def read(self, callback: Callback) -> ReadCallback:
        """Verify a callback, then read it: no network, no disk, a few milliseconds at most.

        Raises CallbackUnauthenticatedError when it is not the carrier's, and CallbackUnreadableError when it is and
        can not be read.
        """


@dataclass(frozen=True, kw_only=True)
class LinkProblem:
    """Why there is no link to a carrier."""

    at: datetime  # when it was lost, or when the last try to make it failed
    detail: str


@runtime_checkable
class KeepsLink(Protocol):
    """A carrier to which a link is kept up, whether there are messages or not."""

    @property
    def link_problem(self) -> LinkProblem | None:
        """Why a link is missing; None while all are up, and until the first try to make them has failed."""


class CarrierEvents(Protocol):
    """Where a carrier tells what happened later. Both return once it is on disk; repeats are harmless."""

    async def receipt(self, carrier: str, receipt: CarrierReceipt) -> None:
        """Take in a receipt."""

    async def reply(self, carrier: str, reply: CarrierReply) -> None:
        """Take in a reply."""


class Carrier(Protocol):
    """One way to hand over messages."""

    @property
    def name(self) -> str:
        """The name in settings, timelines and routes."""

    @property
    def kind(self) -> str:
        """`http`, `smpp` or `simulator`."""

    @property
    def sender(self) -> str:
        """The number or name that it sends from unless a route or a message says otherwise; empty to let it choose."""

    @property
    def capability(self) -> Capability:
        """What it offers for the case that an answer is lost."""

    @property
    def can_look_up(self) -> bool:
        """Whether it can be asked what became of a message."""

    async def send(self, message: OutboundMessage) -> SendResult:
        """Hand over one message, once: a carrier never retries by itself.

        The caller sets a deadline by cancelling; an attempt that is cancelled or raises counts as Unknown.
        """

    async def look_up(self, message: OutboundMessage) -> CarrierReceipt | None:
        """Ask what became of a message that it took; None when it can not tell (yet). The call has a deadline."""

    async def start(self, events: CarrierEvents) -> None:
        """Begin to listen for receipts and replies."""

    async def stop(self) -> None:
        """Close what is open."""
