"""What Delivery's storage must guarantee, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from servicekit.paging import PageRequest
from services.delivery.domain import (
    Accepted,
    Attempt,
    Failure,
    History,
    IdempotencyKey,
    Message,
    MessageFilter,
    NewMessage,
    Outcome,
    Receipt,
    Reply,
    Resolution,
    Status,
)


@dataclass(frozen=True, kw_only=True)
class DueMessage:
    """A message whose time has come, and its last attempt (None before the first).

    A last attempt that is still `started` belongs to a process that lost its lease: its outcome is unknown.
    """

    message: Message
    last_attempt: Attempt | None


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Start an attempt with this carrier and sender.

    `possible_duplicate` says that the last attempt may have reached the handset too; both are then marked so.
    """

    carrier: str
    sender: str
    possible_duplicate: bool = False


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Start nothing: the message ends with this status."""

    status: Status
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class Postpone:
    """Start nothing now: the last attempt's outcome is unknown, so look again at this time."""

    until: datetime


Decision = Begin | Finish | Postpone


@dataclass(frozen=True, kw_only=True)
class StartedAttempt:
    """An attempt that is committed as started, and the right to make it."""

    message: Message
    number: int
    carrier: str
    sender: str
    token: int  # fences: whoever claims the message after a lost lease gets a higher one
    possible_duplicate: bool


@dataclass(frozen=True, kw_only=True)
class FinishedAttempt:
    """What became of an attempt, and of its message."""

    message_id: str
    number: int
    token: int
    outcome: Outcome
    detail: str
    carrier_message_id: str  # empty unless the carrier took it
    status: Status
    failure: Failure | None
    retry_at: datetime | None  # None when nothing more is to be sent
    finished_at: datetime


class CancelResult(Enum):
    """What came of a wish to cancel."""

    CANCELED = "canceled"
    NOT_FOUND = "not_found"
    BEGUN = "begun"  # an attempt has begun, or the message is at its end
    REPLAYED = "replayed"  # it was canceled by the first request with this idempotency key
    MISMATCH = "mismatch"  # the idempotency key came with another request before


class ResolveResult(Enum):
    """What came of a wish to resolve."""

    RESOLVED = "resolved"
    NOT_FOUND = "not_found"
    NOT_HELD = "not_held"
    REPLAYED = "replayed"  # it was resolved by the first request with this idempotency key
    MISMATCH = "mismatch"  # the idempotency key came with another request before


class MessageStore(Protocol):
    """Messages, the due-queue, the ledger of attempts, receipts and replies.

    Every method that changes something is one transaction and returns only when it is on disk. All raise
    UnavailableError when the database can not be had; nothing has changed then.
    """

    async def add(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Store messages as `queued` and due at once, all of them or none; return the answer to each.

        A message whose idempotency key is held, within the batch or before it, is not stored: its answer is the first
        request's, or a mismatch when that had another body. One whose dedupe key is held is not stored if its rule
        suppresses, and marked as a duplicate in any case. Keys count until they expire. Of concurrent calls with the
        same key one stores, and the others wait and return its answer.
        """

    async def claim(
        self,
        *,
        shard: int,
        now: datetime,
        lease_until: datetime,
        limit: int,
        decide: Callable[[DueMessage], Decision],
    ) -> list[StartedAttempt]:
        """Take at most `limit` due messages of one shard, fairly, and begin attempts as `decide` says.

        Integrations take turns, each in the order of its messages, and priorities in proportion (`fair_order`).

        No two callers get the same message before `lease_until`, whatever process or machine they are on. The attempts
        that are returned are committed as `started`, their messages are `sending` and count them. A last attempt that
        was still `started` is closed as `unknown`. `decide` runs inside the transaction, so it must be quick and pure.
        """

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Extend leases; return the ids of the messages whose lease is still the caller's."""

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Record outcomes; return for each whether it was still the caller's to record.

        Nothing changes for an attempt that is closed already. A terminal status stays, whatever the outcome, and so
        does a `sent` or `delivered` that a receipt brought before. A message without `retry_at` leaves the due-queue.
        """

    async def release_leases(self, now: datetime) -> int:
        """Make every claimed message due at once; return how many. Only for a caller that knows it is alone."""

    async def next_due(self, shard: int) -> datetime | None:
        """Return when a shard has something to do, a time in the past for now; None when its queue is empty."""

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[bool]:
        """Record receipts and move their messages forward; return for each whether its message exists.

        A repeat changes nothing. A message that a carrier has, by its word, leaves the due-queue.
        """

    async def awaiting_receipt(self, carriers: Sequence[str], sent_before: datetime, limit: int) -> list[Message]:
        """Return messages whose fate only these carriers know, and that have not changed since a time.

        First those that wait because the outcome of their last attempt is unknown, then those that were taken and have
        no final receipt; longest first.
        """

    async def add_reply(self, reply: Reply, matched_since: datetime) -> None:
        """Store a reply once, matched to the newest message that went from its recipient to its sender since a time."""

    async def get(self, tenant_id: str, message_id: str) -> Message | None:
        """Return the tenant's message; None when there is none of this id or it is another tenant's."""

    async def history(self, tenant_id: str, message_id: str) -> History | None:
        """Return everything known of the tenant's message; None as in `get`."""

    async def list_messages(self, tenant_id: str, wanted: MessageFilter, page: PageRequest) -> list[Message]:
        """Return the tenant's messages that match, newest first, at most `page.size`, after `page.after`.

        Messages that are added meanwhile never make a page repeat or skip one.
        """

    async def resolve(
        self,
        tenant_id: str,
        message_id: str,
        resolution: Resolution,
        now: datetime,
        idempotency: IdempotencyKey | None = None,
    ) -> ResolveResult:
        """Settle a message that is `unknown`, or make it due again; nothing changes unless it says RESOLVED."""

    async def remove_finished(self, shard: int, before: datetime, limit: int) -> int:
        """Delete at most `limit` messages that ended and were accepted before a time, with all that hangs on them."""

    async def remove_expired_keys(self, now: datetime, limit: int) -> int:
        """Delete at most `limit` idempotency and dedupe keys that count no more."""

    async def cancel(
        self, tenant_id: str, message_id: str, now: datetime, idempotency: IdempotencyKey | None = None
    ) -> CancelResult:
        """Cancel a message that no attempt has begun for; once it says CANCELED, none ever will."""
