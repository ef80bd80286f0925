"""What every carrier is to Delivery, and the values that pass between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.delivery.domain import Failure, FailureReason, Status

__all__ = [
    "Capability",
    "Carrier",
    "CarrierEvents",
    "CarrierReceipt",
    "CarrierReply",
    "Failure",
    "FailureReason",
    "OutboundMessage",
    "Refused",
    "SendResult",
    "Status",
    "Taken",
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
    """The carrier has the message."""

    carrier_message_id: str
    detail: str


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
    """A carrier's later word. `message_id` is ours: the carrier gave it back, or we looked it up by the carrier's."""

    message_id: str
    status: Status
    failure: Failure | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class CarrierReply:
    """An inbound SMS as the carrier tells it; `carrier_reply_id` is the same when it is told again."""

    carrier_reply_id: str
    sender: str
    recipient: str
    text: str


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
    def sender(self) -> str:
        """The number or name that it sends from."""

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
