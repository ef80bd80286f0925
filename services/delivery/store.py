"""What Delivery's storage must guarantee, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import NamedTuple, Protocol, Self

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
    Resolution,
    Status,
)
from services.delivery.pacing import Limits, Wish


@dataclass(frozen=True, kw_only=True)
class DueMessage:
    """A message whose time has come, and its attempts so far, oldest first.

    A last attempt that is still `started` belongs to a process that lost its lease: its outcome is unknown.
    """

    message: Message
    attempts: tuple[Attempt, ...] = ()

    @property
    def last_attempt(self) -> Attempt | None:
        """The newest attempt; None before the first."""
        return self.attempts[-1] if self.attempts else None

    @property
    def doubtful_attempt(self) -> Attempt | None:
        """The newest attempt of which nobody knows whether the carrier has the message; None where there is none.

        What came of later ones does not tell it, except a refusal: who does not take the message now did not before.
        """
        refused: set[str] = set()
        for attempt in reversed(self.attempts):
            if attempt.outcome in (Outcome.STARTED, Outcome.UNKNOWN) and attempt.carrier not in refused:
                return attempt
            if attempt.outcome is Outcome.REFUSED:
                refused.add(attempt.carrier)
        return None


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Start an attempt with this carrier and sender.

    `why` says in a few words why this carrier. `doubles` is the number of an earlier attempt that may have reached the
    handset too, 0 for none; both are then marked as possible duplicates.
    """

    carrier: str
    sender: str
    why: str = ""
    doubles: int = 0
    others: bool = False  # another carrier of the route may take it, should this one refuse
    fresh_others: bool = False  # one that can take messages now, and has not failed since the last round


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Start nothing: the message ends with this status."""

    status: Status
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class Postpone:
    """Start nothing now: look again at this time."""

    until: datetime


@dataclass(frozen=True, kw_only=True)
class Leave:
    """Start nothing now, and change nothing: the message keeps its turn."""


Decision = Begin | Finish | Postpone | Leave


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many messages to take at most from one route's queue."""

    route: str
    limit: int


@dataclass(frozen=True, kw_only=True)
class StartedAttempt:
    """An attempt that is committed as started, and the right to make it."""

    message: Message
    number: int
    carrier: str
    sender: str
    token: int  # fences: whoever claims the message after a lost lease gets a higher one
    doubles: int  # as `Begin` has it
    why: str = ""
    not_before: datetime | None = None  # when its slot comes; None for at once
    others: bool = False  # as `Begin` has them
    fresh_others: bool = False

    @classmethod
    def of(cls, message: Message, begin: Begin, *, token: int, not_before: datetime | None = None) -> Self:
        """Return a message's next attempt, as it was decided."""
        return cls(
            message=message,
            number=message.attempts + 1,
            carrier=begin.carrier,
            sender=begin.sender,
            token=token,
            doubles=begin.doubles,
            why=begin.why,
            not_before=not_before,
            others=begin.others,
            fresh_others=begin.fresh_others,
        )


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a claim brought: attempts to make, and carriers that have no free slot before a time."""

    started: tuple[StartedAttempt, ...]
    settled: int = 0  # messages that ended or were put off without an attempt
    full_until: Mapping[str, datetime] = field(default_factory=dict)


class Beginning(NamedTuple):
    """A new message, and the attempt with which it may begin as it is stored."""

    message: Message
    begin: Begin


@dataclass(frozen=True, kw_only=True)
class Added:
    """What came of new messages: an answer to each, the attempts that have begun, and the routes where some wait."""

    answers: Sequence[Accepted]
    started: Sequence[StartedAttempt]
    waiting: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class FinishedAttempt:
    """What became of an attempt, and of its message."""

    message_id: str
    number: int
    carrier: str
    token: int
    outcome: Outcome
    detail: str
    carrier_message_id: str  # empty unless the carrier took it
    status: Status
    failure: Failure | None
    retry_at: datetime | None  # None when nothing more is to be sent
    finished_at: datetime
    part_ids: tuple[str, ...] = ()  # the carrier's id of each part, when it took the message as several
    message: Message | None = None  # as it was when the attempt began, for whoever wants to hear of its end
    sender: str = ""  # that the attempt was made from

    @property
    def message_after(self) -> Message | None:
        """The message as the attempt leaves it, unless a receipt has said otherwise meanwhile."""
        if self.message is None:
            return None
        return replace(
            self.message,
            status=self.status,
            sender=self.sender or self.message.sender,
            carrier=self.carrier,
            carrier_message_id=self.carrier_message_id,
            attempts=self.number,
            failure=self.failure,
            updated_at=self.finished_at,
            sent_at=self.finished_at if self.outcome is Outcome.TAKEN else self.message.sent_at,
        )


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


class ReceiptResult(Enum):
    """What came of a receipt."""

    APPLIED = "applied"  # recorded with its message, which it moved as far as it says anything new
    REPEATED = "repeated"  # it was recorded before
    PARKED = "parked"  # what it is about is not known, or not yet
    UNKNOWN = "unknown"  # it names a message that does not exist, or that its carrier never had


class MessageStore(Protocol):
    """Messages, the due-queue, the ledger of attempts, receipts and replies.

    Every method that changes something is one transaction and returns only when it is on disk. All raise
    UnavailableError when the database can not be had; nothing has changed then. A message that reaches a status which
    somebody wants to hear of leaves the webhook deliveries of that in the same transaction.
    """

    async def add(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Store messages as `queued` and due at once, all of them or none; return the answer to each.

        A message whose idempotency key is held, within the batch or before it, is not stored: its answer is the first
        request's, or a mismatch when that had another body. One whose dedupe key is held is not stored if its rule
        suppresses, and marked as a duplicate in any case. Keys count until they expire. Of concurrent calls with the
        same key one stores, and the others wait and return its answer.
        """

    async def add_and_begin(
        self,
        messages: Sequence[NewMessage],
        beginnings: Mapping[str, Beginning],
        *,
        now: datetime,
        lease_until: datetime,
    ) -> Added:
        """Store messages as `add` does, and begin attempts as `claim` does, in the one transaction.

        A message begins if it has a beginning under its id, if none of its route and shard waits ready, and if nobody
        has opted out from it; all others wait in the queue, where a claim finds them. No carrier in `beginnings` may be
        limited, since no slots are looked for.
        """

    async def claim(
        self,
        *,
        shard: int,
        now: datetime,
        lease_until: datetime,
        shares: Sequence[Share],
        decide: Callable[[DueMessage], Decision],
        limits: Mapping[str, Limits],
    ) -> Claimed:
        """Take due messages of one shard from the queues of some routes, fairly, and begin attempts as `decide` says.

        Within a route integrations take turns, each in the order of its messages, and priorities in proportion
        (`fair_order`). What begins keeps to the carriers' limits, all processes together: each attempt has the time of
        its slot, at most `pacing.HORIZON_US` ahead. A message for which the carrier has no slot by then stays where it
        is; one for which only its sender's own limit has none is put off until it has.

        No two callers get the same message before `lease_until`, whatever process or machine they are on. The attempts
        that are returned are committed as `started`, their messages are `sending` and count them. A last attempt that
        was still `started` is closed as `unknown`. `decide` runs inside the transaction, so it must be quick and pure.

        A message to somebody who has opted out from the sender that `decide` names ends as `suppressed` instead.
        """

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Extend leases; return the ids of the messages whose lease is still the caller's."""

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Record outcomes; return for each whether it was still the caller's to record.

        Nothing changes for an attempt that is closed already, save that the carrier's id is kept. A terminal status
        stays, whatever the outcome, and so does a `sent` or `delivered` that a receipt brought before. A message
        without `retry_at` leaves the due-queue. Who has opted out by a carrier's word has done so in the same moment.
        """

    async def release_leases(self, now: datetime) -> int:
        """Make every claimed message due at once; return how many. Only for a caller that knows it is alone."""

    async def next_due(self, shard: int, routes: Sequence[str]) -> datetime | None:
        """Return when a shard has something to do for these routes; a time in the past for now, None for never.

        A message of another route that waits for its time counts too, because it must be made ready then.
        """

    async def adopt_queues(self, routes: Sequence[str], into: str, now: datetime, limit: int) -> int:
        """Move what is ready for a route that is not among these into the queue of one; return how many were moved.

        At most `limit`, and none that another process has locked. What waits for its time, or is under way, can be
        moved once it is ready; it becomes so whatever its route.
        """

    async def expire(self, shard: int, now: datetime, limit: int) -> int:
        """End messages whose validity is over while their route's queue stands still; return how many.

        Looks at the oldest `limit` messages of the queue only, and leaves alone those of which an attempt is in doubt.
        """

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[ReceiptResult]:
        """Record receipts and move their messages forward, in the order given; return what came of each.

        A receipt that carries our id is applied only if its carrier had an attempt at that message. One that carries
        the carrier's id alone is parked when nothing of that carrier has this id yet, and so is one that has both and
        may be about a part whose id is still on its way to the disk. A repeat changes nothing. A message that a carrier
        has, by its word, leaves the due-queue.
        """

    async def has_parked(self, *, since: datetime) -> bool:
        """Return whether a receipt is parked that came since a time."""

    async def settle_parked(self, limit: int, *, since: datetime) -> int:
        """Apply at most `limit` parked receipts that came since a time and whose message is known by now.

        Returns how many are parked no more. Any number of processes may do this at once.
        """

    async def remove_parked(self, before: datetime, *, kept: int, limit: int) -> int:
        """Delete at most `limit` parked receipts that came before a time, or beyond the `kept` newest of a carrier."""

    async def in_doubt(
        self, carrier: str, *, unchanged_since: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Return messages that wait because only this carrier knows the outcome of their last attempt.

        Those that have not changed since a time, longest first, behind `after`.
        """

    async def awaiting_receipt(
        self, carrier: str, *, sent_after: datetime, sent_before: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Return messages that this carrier took between two times and has said nothing final of, oldest first.

        Those behind `after`.
        """

    async def first_answer(self, tenant_id: str, key: IdempotencyKey, now: datetime) -> Accepted | None:
        """Return the answer to the tenant's request that came first with a key that counts now, as its repeat gets it.

        None when there is none, when it had another body, when it made a batch, and when its message is gone.
        """

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
        *,
        queue_of: Callable[[Message], str],
    ) -> ResolveResult:
        """Settle a message that is `unknown`, or make it due again; nothing changes unless it says RESOLVED.

        `queue_of` names the route in whose queue it is to wait.
        """

    async def remove_finished(self, shard: int, before: datetime, limit: int) -> int:
        """Delete at most `limit` messages that ended and were accepted before a time, with all that hangs on them."""

    async def remove_expired_keys(self, now: datetime, limit: int) -> int:
        """Delete at most `limit` idempotency and dedupe keys that count no more."""

    async def cancel(
        self, tenant_id: str, message_id: str, now: datetime, idempotency: IdempotencyKey | None = None
    ) -> CancelResult:
        """Cancel a message that no attempt has begun for; once it says CANCELED, none ever will."""


class Breaker(StrEnum):
    """Whether a carrier gets messages."""

    CLOSED = "closed"
    OPEN = "open"  # it fails: nothing is sent but, now and then, one message to see whether it is back


@dataclass(frozen=True, kw_only=True)
class CarrierCondition:
    """How a carrier is, for all processes together."""

    name: str
    breaker: Breaker = Breaker.CLOSED
    open_until: datetime | None = None  # when the next message may try it
    times_opened: int = 0  # in a row
    paused_until: datetime | None = None  # it asked for less, or for quiet
    rate_factor: float = 1.0  # of its limit, when it was last slowed
    slowed_at: datetime | None = None
    error: Failure | None = None  # the last thing that went wrong
    error_detail: str = ""
    error_at: datetime | None = None


class CarrierStore(Protocol):
    """What all processes that send know of the carriers. Same rules as for `MessageStore`."""

    async def states(self) -> dict[str, CarrierCondition]:
        """Return every carrier's state of which something is known."""

    async def change(self, name: str, change: Callable[[CarrierCondition], CarrierCondition]) -> CarrierCondition:
        """Change a carrier's state under its lock, and return it; `change` must be quick and pure."""

    async def take_slots(self, wishes: Sequence[Wish], limits: Mapping[str, Limits], now: datetime) -> list[datetime]:
        """Give messages whose slot has passed the next ones of their carriers, in turn; return when those are."""
