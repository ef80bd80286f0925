"""The message store in SQL: one implementation for every engine, in Core statements, because rows pass in thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.database import Database
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery import rows, sql_keys, sql_ledger, sql_queue, sql_receipts
from services.delivery.domain import (
    TERMINAL,
    Accepted,
    History,
    IdempotencyKey,
    Message,
    MessageFilter,
    NewMessage,
    OnUnknown,
    Receipt,
    Reply,
    Resolution,
    Status,
    shard_of,
)
from services.delivery.fair_order import Lane, lane_of
from services.delivery.sql_keys import Repeat
from services.delivery.sql_statements import DELETE_DUE, UPDATE_DUE, UPDATE_MESSAGE, at, insert_ignoring, shards_of
from services.delivery.store import (
    Begin,
    CancelResult,
    Decision,
    DueMessage,
    FinishedAttempt,
    ResolveResult,
    StartedAttempt,
)
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES, RECEIPTS, REPLIES


class SqlMessageStore:
    """Keeps the guarantees of `store.MessageStore` on a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Claim keys, then insert messages and due rows, in one transaction."""
        async with self._database.write() as connection:
            known = await self._repeats(connection, messages)
            fresh = [message for message in messages if _is_stored(message, known.get(message.id))]
            if fresh:
                await connection.execute(insert(MESSAGES), [rows.new_message(message) for message in fresh])
                await sql_queue.enter(connection, [_queue_entry(message) for message in fresh])
            firsts = await _first_messages(connection, known)
        return [_answer(message, known.get(message.id), firsts) for message in messages]

    async def _repeats(self, connection: AsyncConnection, messages: Sequence[NewMessage]) -> dict[str, Repeat]:
        if not any(message.idempotency or message.dedupe for message in messages):
            return {}
        return await sql_keys.repeats(connection, messages, to_milliseconds(messages[-1].created_at))

    async def claim(
        self,
        *,
        shard: int,
        now: datetime,
        lease_until: datetime,
        limit: int,
        decide: Callable[[DueMessage], Decision],
    ) -> list[StartedAttempt]:
        """Lock due rows, decide, and write the ledger, in one transaction."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            await sql_queue.promote(connection, shard, now_ms)
            taken = await sql_queue.take(connection, shard, limit)
            tokens = {message_id: token + 1 for message_id, token in taken.items()}
            if not tokens:
                return []
            due = await sql_ledger.due_messages(connection, shard, list(tokens))
            await sql_ledger.close_lost(connection, due, now_ms)
            plan = [(entry, decide(entry)) for entry in due]
            started = [
                StartedAttempt(
                    message=entry.message,
                    number=entry.message.attempts + 1,
                    carrier=decision.carrier,
                    sender=decision.sender,
                    token=tokens[entry.message.id],
                    possible_duplicate=decision.possible_duplicate,
                )
                for entry, decision in plan
                if isinstance(decision, Begin)
            ]
            await sql_ledger.start(connection, started, now_ms, to_milliseconds(lease_until))
            await sql_ledger.settle_without_attempt(connection, plan, now_ms)
            return started

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            held = await sql_queue.lock(connection, [attempt.message.id for attempt in attempts])
            mine = [a.message.id for a in attempts if held.get(a.message.id) == a.token]
            if mine:
                due_at_ms = to_milliseconds(lease_until)
                await connection.execute(
                    UPDATE_DUE.values(due_at_ms=due_at_ms), [at(message_id) for message_id in mine]
                )
            return set(mine)

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Close the attempts that are still open under the caller's token, and move their messages on."""
        async with self._database.write() as connection:
            await sql_queue.lock(connection, [attempt.message_id for attempt in attempts])
            open_tokens = await sql_ledger.open_tokens(connection, [attempt.message_id for attempt in attempts])
            verdicts = [open_tokens.get((a.message_id, a.number)) == a.token for a in attempts]
            mine = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if is_mine]
            mine.sort(key=lambda attempt: attempt.message_id)
            if mine:
                await sql_ledger.close(connection, mine)
                await sql_ledger.leave_or_requeue(connection, mine)
            return verdicts

    async def release_leases(self, now: datetime) -> int:
        """Make claimed rows due."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(DUE).where(DUE.c.claimed).values(due_at_ms=to_milliseconds(now), claimed=False)
            )
            return released.rowcount

    async def next_due(self, shard: int) -> datetime | None:
        """Read the heads of the two due indexes."""
        async with self._database.read() as connection:
            head = await sql_queue.next_due_ms(connection, shard)
        return None if head is None else from_milliseconds(head)

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[bool]:
        """Insert the receipts that are new and move their messages forward."""
        async with self._database.write() as connection:
            await sql_queue.lock(connection, [receipt.message_id for receipt in receipts])
            current = await sql_receipts.statuses(connection, [receipt.message_id for receipt in receipts])
            known = [receipt for receipt in receipts if receipt.message_id in current]
            if known:
                await connection.execute(
                    insert_ignoring(connection, RECEIPTS), [rows.new_receipt(receipt) for receipt in known]
                )
                await sql_receipts.move(connection, known, current)
            return [receipt.message_id in current for receipt in receipts]

    async def awaiting_receipt(self, carriers: Sequence[str], sent_before: datetime, limit: int) -> list[Message]:
        """Read the waiting part of the due-queue and the partial index over sent messages."""
        before_ms = to_milliseconds(sent_before)
        in_doubt = (
            select(MESSAGES)
            .join(DUE, and_(DUE.c.shard == MESSAGES.c.shard, DUE.c.message_id == MESSAGES.c.id))
            .where(
                DUE.c.rank.is_(None),
                DUE.c.claimed.is_(False),
                MESSAGES.c.status == Status.SENDING.value,
                MESSAGES.c.carrier.in_(carriers),
                MESSAGES.c.updated_at_ms < before_ms,
            )
            .order_by(DUE.c.due_at_ms)
            .limit(limit)
        )
        sent = (
            select(MESSAGES)
            .where(
                MESSAGES.c.status == Status.SENT.value,
                MESSAGES.c.carrier.in_(carriers),
                MESSAGES.c.sent_at_ms < before_ms,
            )
            .order_by(MESSAGES.c.sent_at_ms)
            .limit(limit)
        )
        async with self._database.read() as connection:
            found = [rows.message(row) for wanted in (in_doubt, sent) for row in await connection.execute(wanted)]
        return found[:limit]

    async def add_reply(self, reply: Reply, matched_since: datetime) -> None:
        """Find the message that it answers and insert it, unless it is there."""
        newest = (
            select(MESSAGES.c.tenant_id, MESSAGES.c.id)
            .where(
                MESSAGES.c.recipient == reply.sender,
                MESSAGES.c.sender == reply.recipient,
                MESSAGES.c.created_at_ms >= to_milliseconds(matched_since),
            )
            .order_by(MESSAGES.c.created_at_ms.desc(), MESSAGES.c.id.desc())
            .limit(1)
        )
        async with self._database.write() as connection:
            tenant_id, message_id = (await connection.execute(newest)).first() or (None, None)
            await connection.execute(
                insert_ignoring(connection, REPLIES), [rows.new_reply(reply, tenant_id, message_id)]
            )

    async def get(self, tenant_id: str, message_id: str) -> Message | None:
        """Read one row by its whole key and its owner."""
        async with self._database.read() as connection:
            return await _message(connection, tenant_id, message_id)

    async def history(self, tenant_id: str, message_id: str) -> History | None:
        """Read the message and all that hangs on it, in one snapshot."""
        async with self._database.read() as connection:
            message = await _message(connection, tenant_id, message_id)
            if message is None:
                return None
            shard = shard_of(message_id)
            attempts = await connection.execute(
                select(ATTEMPTS)
                .where(ATTEMPTS.c.shard == shard, ATTEMPTS.c.message_id == message_id)
                .order_by(ATTEMPTS.c.number)
            )
            receipts = await connection.execute(
                select(RECEIPTS).where(RECEIPTS.c.shard == shard, RECEIPTS.c.message_id == message_id)
            )
            replies = await connection.execute(select(REPLIES).where(REPLIES.c.message_id == message_id))
            return History(
                message=message,
                attempts=tuple(rows.attempt(row) for row in attempts),
                receipts=tuple(rows.receipt(row) for row in receipts),
                replies=tuple(rows.reply(row) for row in replies),
            )

    async def list_messages(self, tenant_id: str, wanted: MessageFilter, page: PageRequest) -> list[Message]:
        """Read one page by its key, never by an offset."""
        query = select(MESSAGES).where(MESSAGES.c.tenant_id == tenant_id, *_conditions(wanted))
        if page.after:
            milliseconds, message_id = page.after
            query = query.where(
                or_(
                    MESSAGES.c.created_at_ms < milliseconds,
                    and_(MESSAGES.c.created_at_ms == milliseconds, MESSAGES.c.id < message_id),
                )
            )
        query = query.order_by(MESSAGES.c.created_at_ms.desc(), MESSAGES.c.id.desc()).limit(page.size)
        async with self._database.read() as connection:
            return [rows.message(row) for row in await connection.execute(query)]

    async def resolve(
        self,
        tenant_id: str,
        message_id: str,
        resolution: Resolution,
        now: datetime,
        idempotency: IdempotencyKey | None = None,
    ) -> ResolveResult:
        """Settle or requeue under the message's lock."""
        now_ms = to_milliseconds(now)
        async with self._database.write() as connection:
            await sql_queue.lock(connection, [message_id])
            message = await _message(connection, tenant_id, message_id, for_update=True)
            if message is None:
                return ResolveResult.NOT_FOUND
            if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
                return ResolveResult.MISMATCH if repeat.mismatch else ResolveResult.REPLAYED
            if message.status is not Status.UNKNOWN:
                return ResolveResult.NOT_HELD
            changes: dict[str, object] = {"status": _STATUS_RESOLVED[resolution].value, "updated_at_ms": now_ms}
            if resolution is Resolution.SENT:
                changes |= {"sent_at_ms": now_ms, **rows.failure_columns(None)}
            if resolution is Resolution.RESEND:
                # The operator has decided: from now on this one message is to be sent, whatever the policy was.
                changes |= {"on_unknown": OnUnknown.RESEND.value}
                lane = lane_of(message.integration_id or message.tenant_id, message.priority)
                await sql_queue.enter(connection, [(message_id, lane, now_ms)])
            await connection.execute(UPDATE_MESSAGE.values(**changes), [at(message_id)])
            if idempotency:
                await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
            return ResolveResult.RESOLVED

    async def remove_finished(self, shard: int, before: datetime, limit: int) -> int:
        """Walk the primary key, whose ids sort by time, and delete what hangs on a message before the message."""
        ended = [status.value for status in (*TERMINAL, Status.SENT, Status.UNKNOWN)]
        async with self._database.write() as connection:
            found = await connection.scalars(
                select(MESSAGES.c.id)
                .where(MESSAGES.c.shard == shard, MESSAGES.c.id < new_id("msg", before), MESSAGES.c.status.in_(ended))
                .order_by(MESSAGES.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = found.all()
            if ids:
                for table in (ATTEMPTS, RECEIPTS):
                    await connection.execute(delete(table).where(table.c.shard == shard, table.c.message_id.in_(ids)))
                await connection.execute(delete(REPLIES).where(REPLIES.c.message_id.in_(ids)))
                await connection.execute(delete(MESSAGES).where(MESSAGES.c.shard == shard, MESSAGES.c.id.in_(ids)))
            return len(ids)

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
            await sql_queue.lock(connection, [message_id])
            message = await _message(connection, tenant_id, message_id, for_update=True)
            if message is None:
                return CancelResult.NOT_FOUND
            if idempotency and (repeat := await sql_keys.known_request(connection, idempotency, now_ms)):
                return CancelResult.MISMATCH if repeat.mismatch else CancelResult.REPLAYED
            if message.status is not Status.QUEUED or message.attempts:
                return CancelResult.BEGUN
            await connection.execute(
                UPDATE_MESSAGE.values(status=Status.CANCELED.value, updated_at_ms=now_ms),
                [at(message_id)],
            )
            await connection.execute(DELETE_DUE, [at(message_id)])
            if idempotency:
                await sql_keys.remember_request(connection, idempotency, message_id, now_ms)
            return CancelResult.CANCELED


_STATUS_RESOLVED: Final = {
    Resolution.SENT: Status.SENT,
    Resolution.FAILED: Status.FAILED,
    Resolution.RESEND: Status.QUEUED,
}


def _is_stored(message: NewMessage, repeat: Repeat | None) -> bool:
    if repeat is None:
        return True
    return not repeat.replayed and message.dedupe is not None and not message.dedupe.suppresses


def _queue_entry(message: NewMessage) -> tuple[str, Lane, int]:
    lane = lane_of(message.integration_id or message.tenant_id, message.priority)
    return message.id, lane, to_milliseconds(message.created_at)


async def _first_messages(connection: AsyncConnection, known: Mapping[str, Repeat]) -> dict[str, Message]:
    ids = {repeat.first_id for repeat in known.values()}
    if not ids:
        return {}
    found = await connection.execute(
        select(MESSAGES).where(MESSAGES.c.shard.in_(shards_of(ids)), MESSAGES.c.id.in_(ids))
    )
    return {row.id: rows.message(row) for row in found}


def _answer(message: NewMessage, repeat: Repeat | None, firsts: Mapping[str, Message]) -> Accepted:
    if repeat is None or _is_stored(message, repeat):
        return Accepted(
            message_id=message.id,
            to=message.to,
            text=message.text,
            ref=message.ref,
            created_at=message.created_at,
            duplicate=repeat is not None,
        )
    # A first message that retention has removed meanwhile is answered in the words of its repeat.
    first = firsts.get(repeat.first_id)
    return Accepted(
        message_id=repeat.first_id,
        to=first.to if first else message.to,
        text=first.text if first else message.text,
        ref=first.ref if first else message.ref,
        created_at=first.created_at if first else message.created_at,
        replayed=repeat.replayed,
        duplicate=repeat.duplicate,
        mismatch=repeat.mismatch,
    )


async def _message(
    connection: AsyncConnection, tenant_id: str, message_id: str, *, for_update: bool = False
) -> Message | None:
    query = select(MESSAGES).where(
        MESSAGES.c.shard == shard_of(message_id), MESSAGES.c.id == message_id, MESSAGES.c.tenant_id == tenant_id
    )
    row = (await connection.execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else rows.message(row)


def _conditions(wanted: MessageFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.status is not None:
        conditions.append(MESSAGES.c.status == wanted.status.value)
    if wanted.ref is not None:
        conditions.append(MESSAGES.c.ref == wanted.ref)
    if wanted.to is not None:
        conditions.append(MESSAGES.c.recipient == wanted.to)
    if wanted.integration_id is not None:
        conditions.append(MESSAGES.c.integration_id == wanted.integration_id)
    if wanted.created_after is not None:
        conditions.append(MESSAGES.c.created_at_ms >= to_milliseconds(wanted.created_after))
    if wanted.created_before is not None:
        conditions.append(MESSAGES.c.created_at_ms < to_milliseconds(wanted.created_before))
    return conditions
