"""The message store in SQL: one implementation for every engine, in Core statements, because rows pass in thousands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select, update

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import (
    rows,
    sql_accepting,
    sql_interventions,
    sql_keys,
    sql_ledger,
    sql_messages,
    sql_opt_outs,
    sql_overdue,
    sql_pacing,
    sql_parked_receipts,
    sql_queue,
    sql_receipts,
    sql_senders,
    sql_webhook_queue,
)
from services.delivery.domain import (
    Accepted,
    Failure,
    FailureReason,
    History,
    IdempotencyKey,
    Message,
    MessageFilter,
    NewMessage,
    Receipt,
    Resolution,
    Status,
)
from services.delivery.pacing import Limits
from services.delivery.sql_opt_outs import Refused
from services.delivery.sql_senders import Sender
from services.delivery.sql_statements import UPDATE_DUE, at
from services.delivery.store import (
    Added,
    Begin,
    Beginning,
    CancelResult,
    Claimed,
    Decision,
    DueMessage,
    Finish,
    FinishedAttempt,
    Leave,
    ReceiptResult,
    ResolveResult,
    Share,
    StartedAttempt,
)
from services.delivery.tables import DUE, MESSAGES
from services.delivery.webhooks import WebhookDelivery

Result = TypeVar("Result")
Announce = Callable[[Message], Sequence[WebhookDelivery]]


class SqlMessageStore:
    """Keeps the guarantees of `store.MessageStore` on a `Database`."""

    def __init__(
        self,
        database: Database,
        announce: Announce = lambda _message: (),
        on_announced: Callable[[], None] = lambda: None,
        on_moved: Callable[[Sequence[Message]], None] = lambda _messages: None,
        is_awaited: Callable[[Message, Status], bool] = lambda _message, _status: True,
    ) -> None:
        """Take whoever knows which webhooks want to hear of a message's status, and whoever brings that to them.

        `on_moved` is told of the messages to which receipts have given another status, once that is on disk.
        `is_awaited` tells quickly, and at first, whether anybody wants to hear that a message has come to a status.
        """
        self._database = database
        self._announce = announce
        self._is_awaited = is_awaited
        self._senders: frozenset[Sender] = frozenset()  # those that this process knows to be on disk
        self._on_announced = on_announced
        self._on_moved = on_moved

    async def add(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Begin nothing."""
        if not messages:
            return []
        now = messages[-1].created_at
        return list((await self.add_and_begin(messages, {}, now=now, lease_until=now)).answers)

    async def add_and_begin(
        self,
        messages: Sequence[NewMessage],
        beginnings: Mapping[str, Beginning],
        *,
        now: datetime,
        lease_until: datetime,
    ) -> Added:
        """Claim keys, see what waits, then insert messages, due rows and attempts, in one transaction."""
        now_ms, lease_until_ms = to_milliseconds(now), to_milliseconds(lease_until)

        async def work(connection: Connection) -> tuple[Added, frozenset[Sender]]:
            return await sql_accepting.add_and_begin(
                connection, messages, beginnings, now_ms=now_ms, lease_until_ms=lease_until_ms, senders=self._senders
            )

        added, self._senders = await self._database.run_write(work, rows=len(messages))
        return added

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
        """Lock due rows, decide, find slots, and write the ledger, in one transaction."""
        now_ms, lease_until_ms = to_milliseconds(now), to_milliseconds(lease_until)

        async def work(connection: Connection) -> tuple[tuple[Claimed, frozenset[Sender]], bool]:
            await sql_queue.promote(connection, shard, now_ms)
            tokens: dict[str, int] = {}
            for share in shares:
                tokens |= await sql_queue.take(connection, shard, share.route, share.limit)
            if not tokens:
                return (Claimed(started=()), self._senders), False
            due = await sql_ledger.due_messages(connection, shard, list(tokens))
            wanted = await sql_opt_outs.suppress(connection, [(entry, decide(entry)) for entry in due])
            plan, go_at, full_until = await sql_pacing.paced(connection, wanted, limits, now_ms)
            await sql_ledger.close_lost(connection, [entry for entry, it in plan if not isinstance(it, Leave)], now_ms)
            started = [
                StartedAttempt.of(
                    entry.message, it, token=tokens[entry.message.id] + 1, not_before=go_at[entry.message.id]
                )
                for entry, it in plan
                if isinstance(it, Begin)
            ]
            await sql_ledger.start(connection, started, now_ms, lease_until_ms)
            settled = await sql_ledger.settle_without_attempt(connection, plan, now_ms)
            has_told = await self._tell(connection, _ended(plan, now))
            senders = await sql_senders.keep(connection, started, known=self._senders)
            claimed = Claimed(started=tuple(started), settled=settled, full_until=full_until)
            return (claimed, senders), has_told

        claimed, self._senders = await self._write(work, rows=sum(share.limit for share in shares))
        return claimed

    async def _write(self, work: Callable[[Connection], Awaitable[tuple[Result, bool]]], *, rows: int = 1) -> Result:
        """Run a transaction that tells whether it has left webhook deliveries; have those brought once it is over."""
        result, has_told = await self._database.run_write(work, rows=rows)
        if has_told:
            self._on_announced()
        return result

    async def _tell(self, connection: Connection, messages: Sequence[Message]) -> bool:
        """Leave the webhook deliveries of messages that have come to a new status; return whether there are any."""
        deliveries = [delivery for message in messages for delivery in self._announce(message)]
        if deliveries:
            await sql_webhook_queue.enter(connection, deliveries)
        return bool(deliveries)

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            held = await sql_queue.lock_leased(connection, [attempt.message.id for attempt in attempts])
            mine = [a.message.id for a in attempts if held.get(a.message.id) == a.token]
            if mine:
                due_at_ms = to_milliseconds(lease_until)
                await connection.execute(
                    UPDATE_DUE.values(due_at_ms=due_at_ms), [at(message_id) for message_id in mine]
                )
            return set(mine)

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Close the attempts that are still open under the caller's token, and move their messages on."""
        ids = [attempt.message_id for attempt in attempts]

        async def work(connection: Connection) -> tuple[list[bool], bool]:
            unmoved = await sql_queue.lock(connection, ids)
            open_tokens = await sql_ledger.open_tokens(connection, ids)
            verdicts = [open_tokens.get((a.message_id, a.number)) == a.token for a in attempts]
            mine = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if is_mine]
            mine.sort(key=lambda attempt: attempt.message_id)
            has_told = False
            if mine:
                await sql_ledger.close(connection, mine)
                await sql_ledger.leave_or_requeue(connection, mine)
                # A receipt that was quicker has moved the message, taken it out of the queue, and told of it.
                to_tell = [self._awaited(attempt) for attempt in mine if attempt.message_id in unmoved]
                has_told = await self._tell(connection, [after for after in to_tell if after])
            late = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if not is_mine]
            await sql_ledger.keep_carrier_ids(connection, late)
            # Last, because it locks out every claim. It is the carrier's word, however late the outcome came.
            await sql_opt_outs.bind_refused(connection, _opted_out(attempts))
            return verdicts, has_told

        return await self._write(work, rows=len(attempts))

    def _awaited(self, attempt: FinishedAttempt) -> Message | None:
        if attempt.message is None or not self._is_awaited(attempt.message, attempt.status):
            return None
        return attempt.message_after

    async def release_leases(self, now: datetime) -> int:
        """Make claimed rows due."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(DUE).where(DUE.c.claimed).values(due_at_ms=to_milliseconds(now), claimed=False)
            )
            return released.rowcount

    async def next_due(self, shard: int, routes: Sequence[str]) -> datetime | None:
        """Read the heads of the two kinds of due indexes."""
        head = await sql_queue.next_due_ms(self._database, shard, routes)
        return None if head is None else from_milliseconds(head)

    async def adopt_queues(self, routes: Sequence[str], into: str, now: datetime, limit: int) -> int:
        """Rename the queues, and let the messages find their ranks anew."""
        async with self._database.write() as connection:
            return await sql_queue.adopt(connection, routes, into, to_milliseconds(now), limit)

    async def expire(self, shard: int, now: datetime, limit: int) -> int:
        """Walk the primary key of the due-queue, whose ids sort by time, as far as messages have expired."""
        now_ms = to_milliseconds(now)
        oldest = (
            select(DUE.c.message_id)
            .where(DUE.c.shard == shard, DUE.c.claimed.is_(False))
            .order_by(DUE.c.message_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: Connection) -> tuple[int, bool]:
            ids = (await connection.scalars(oldest)).all()
            expired = await connection.execute(
                select(MESSAGES).where(
                    MESSAGES.c.shard == shard,
                    MESSAGES.c.id.in_(ids),
                    MESSAGES.c.status == Status.QUEUED.value,
                    MESSAGES.c.valid_until_ms <= now_ms,
                )
            )
            plan = [(DueMessage(message=message), _expiry(message)) for message in map(rows.message, expired)]
            has_told = await self._tell(connection, _ended(plan, now))
            return await sql_ledger.settle_without_attempt(connection, plan, now_ms), has_told

        return await self._write(work, rows=limit)

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[ReceiptResult]:
        """Find what they are about, then record those that are new and move their messages forward."""

        async def work(connection: Connection) -> tuple[tuple[list[ReceiptResult], list[Message]], bool]:
            results, moved_ids = await sql_receipts.take_in(connection, receipts)
            moved = await sql_messages.several(connection, moved_ids)
            return (results, moved), await self._tell(connection, moved)

        results, moved = await self._write(work, rows=len(receipts))
        self._on_moved(moved)
        return results

    async def has_parked(self, *, since: datetime) -> bool:
        """Read one row of the index by age."""
        since_ms = to_milliseconds(since)
        return await self._database.run_read(lambda connection: sql_parked_receipts.any_since(connection, since_ms))

    async def settle_parked(self, limit: int, *, since: datetime) -> int:
        """Read what may be applied, and apply it like any other receipt."""
        since_ms = to_milliseconds(since)
        parked = await sql_parked_receipts.due(self._database, since_ms, limit)
        if not parked:
            return 0

        async def work(connection: Connection) -> tuple[tuple[int, list[Message]], bool]:
            results, moved_ids = await sql_receipts.take_in(connection, parked)
            moved = await sql_messages.several(connection, moved_ids)
            has_told = await self._tell(connection, moved)
            settled = [each for each, result in zip(parked, results, strict=True) if result is not ReceiptResult.PARKED]
            await sql_parked_receipts.remove(connection, settled)
            return (len(settled), moved), has_told

        count, moved = await self._write(work, rows=len(parked))
        self._on_moved(moved)
        return count

    async def remove_parked(self, before: datetime, *, kept: int, limit: int) -> int:
        """Rank each carrier's by time."""
        async with self._database.write() as connection:
            return await sql_parked_receipts.remove_surplus(connection, to_milliseconds(before), kept, limit)

    async def in_doubt(
        self, carrier: str, *, unchanged_since: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Read one page."""
        before_ms = to_milliseconds(unchanged_since)
        return await self._database.run_read(
            lambda connection: sql_overdue.in_doubt(connection, carrier, before_ms, after, limit), rows=limit
        )

    async def awaiting_receipt(
        self, carrier: str, *, sent_after: datetime, sent_before: datetime, after: Message | None, limit: int
    ) -> list[Message]:
        """Read one page."""
        between_ms = to_milliseconds(sent_after), to_milliseconds(sent_before)
        return await self._database.run_read(
            lambda connection: sql_overdue.awaiting_receipt(connection, carrier, between_ms, after, limit), rows=limit
        )

    async def first_answer(self, tenant_id: str, key: IdempotencyKey, now: datetime) -> Accepted | None:
        """Read the key and the message of who holds it, in one snapshot."""
        async with self._database.read() as connection:
            return await sql_accepting.first_answer(connection, tenant_id, key, to_milliseconds(now))

    async def get(self, tenant_id: str, message_id: str) -> Message | None:
        """Read one row by its whole key and its owner."""
        async with self._database.read() as connection:
            return await sql_messages.one(connection, tenant_id, message_id)

    async def history(self, tenant_id: str, message_id: str) -> History | None:
        """Read the message and all that hangs on it, in one snapshot."""
        async with self._database.read() as connection:
            return await sql_messages.history(connection, tenant_id, message_id)

    async def list_messages(self, tenant_id: str, wanted: MessageFilter, page: PageRequest) -> list[Message]:
        """Read one page by its key, never by an offset."""
        async with self._database.read() as connection:
            return await sql_messages.page_of(connection, tenant_id, wanted, page)

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
        """Settle or requeue under the message's lock."""
        now_ms = to_milliseconds(now)

        async def work(connection: Connection) -> tuple[ResolveResult, bool]:
            result = await sql_interventions.resolve(
                connection,
                tenant_id,
                message_id,
                resolution,
                now_ms=now_ms,
                idempotency=idempotency,
                queue_of=queue_of,
            )
            moved = [message_id] if result is ResolveResult.RESOLVED else []
            return result, await self._tell(connection, await sql_messages.several(connection, moved))

        return await self._write(work)

    async def remove_finished(self, shard: int, before: datetime, limit: int) -> int:
        """Walk the primary key, and delete what hangs on a message before the message."""
        async with self._database.write() as connection:
            return await sql_messages.remove_finished(connection, shard, before, limit)

    async def remove_expired_keys(self, now: datetime, limit: int) -> int:
        """Walk the index by expiry."""
        async with self._database.write() as connection:
            return await sql_keys.remove_expired(connection, to_milliseconds(now), limit)

    async def cancel(
        self, tenant_id: str, message_id: str, now: datetime, idempotency: IdempotencyKey | None = None
    ) -> CancelResult:
        """Cancel under the same lock that a claim takes."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            return await sql_interventions.cancel(connection, tenant_id, message_id, now_ms, idempotency)


def _ended(plan: Sequence[tuple[DueMessage, Decision]], now: datetime) -> list[Message]:
    return [
        replace(entry.message, status=decision.status, failure=decision.failure, updated_at=now)
        for entry, decision in plan
        if isinstance(decision, Finish)
    ]


def _opted_out(attempts: Sequence[FinishedAttempt]) -> list[Refused]:
    return [
        Refused(attempt.message_id, attempt.number, attempt.finished_at)
        for attempt in attempts
        if attempt.failure and attempt.failure.reason is FailureReason.OPTED_OUT
    ]


def _expiry(message: Message) -> Finish:
    return Finish(status=Status.EXPIRED, failure=message.failure or Failure(reason=FailureReason.EXPIRED))
