"""The message store in SQL: one implementation for every engine, in Core statements, because rows pass in thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import rows
from services.delivery.domain import (
    TERMINAL,
    History,
    Message,
    MessageFilter,
    NewMessage,
    Outcome,
    Receipt,
    Reply,
    Status,
    shard_of,
    status_after_receipt,
)
from services.delivery.store import (
    Begin,
    CancelResult,
    Decision,
    DueMessage,
    FinishedAttempt,
    Postpone,
    StartedAttempt,
)
from services.delivery.tables import AttemptRow, DueRow, MessageRow, ReceiptRow, ReplyRow

MESSAGES: Final = SQLModel.metadata.tables[str(MessageRow.__tablename__)]
DUE: Final = SQLModel.metadata.tables[str(DueRow.__tablename__)]
ATTEMPTS: Final = SQLModel.metadata.tables[str(AttemptRow.__tablename__)]
RECEIPTS: Final = SQLModel.metadata.tables[str(ReceiptRow.__tablename__)]
REPLIES: Final = SQLModel.metadata.tables[str(ReplyRow.__tablename__)]

# Statements that run once for each row of a batch; their parameters are named so as not to be taken for columns.
_THIS_MESSAGE: Final = and_(MESSAGES.c.shard == bindparam("at_shard"), MESSAGES.c.id == bindparam("at_id"))
_THIS_DUE: Final = and_(DUE.c.shard == bindparam("at_shard"), DUE.c.message_id == bindparam("at_id"))
_THIS_ATTEMPT: Final = and_(
    ATTEMPTS.c.shard == bindparam("at_shard"),
    ATTEMPTS.c.message_id == bindparam("at_id"),
    ATTEMPTS.c.number == bindparam("at_number"),
)
_UPDATE_MESSAGE: Final = update(MESSAGES).where(_THIS_MESSAGE)
_UPDATE_DUE: Final = update(DUE).where(_THIS_DUE)
_DELETE_DUE: Final = delete(DUE).where(_THIS_DUE)
_UPDATE_ATTEMPT: Final = update(ATTEMPTS).where(_THIS_ATTEMPT)
# A message with an open attempt is `sending`, unless a receipt came before the outcome: what it said stands.
_STILL_SENDING: Final = MESSAGES.c.status == Status.SENDING.value
_FINISH_MESSAGE: Final = _UPDATE_MESSAGE.values(
    status=case((_STILL_SENDING, bindparam("to_status")), else_=MESSAGES.c.status),
    failure_reason=case((_STILL_SENDING, bindparam("to_reason")), else_=MESSAGES.c.failure_reason),
    failure_code=case((_STILL_SENDING, bindparam("to_code")), else_=MESSAGES.c.failure_code),
    carrier_message_id=bindparam("to_carrier_message_id"),
    sent_at_ms=func.coalesce(MESSAGES.c.sent_at_ms, bindparam("to_sent_at_ms")),
    updated_at_ms=bindparam("to_updated_at_ms"),
)


class SqlMessageStore:
    """Keeps the guarantees of `store.MessageStore` on a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, messages: Sequence[NewMessage]) -> None:
        """Insert message and due row together."""
        async with self._database.write() as connection:
            await connection.execute(insert(MESSAGES), [rows.new_message(message) for message in messages])
            await connection.execute(insert(DUE), [rows.new_due(message) for message in messages])

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
            wanted = (
                select(DUE.c.message_id, DUE.c.token)
                .where(DUE.c.shard == shard, DUE.c.due_at_ms <= now_ms)
                .order_by(DUE.c.due_at_ms)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            tokens = {row.message_id: row.token + 1 for row in await connection.execute(wanted)}
            if not tokens:
                return []
            due = await _due_messages(connection, shard, list(tokens))
            await _close_lost_attempts(connection, due, now_ms)
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
            await _start(connection, started, now_ms, to_milliseconds(lease_until))
            await _settle_without_attempt(connection, plan, now_ms)
            return started

    async def renew(self, attempts: Sequence[StartedAttempt], lease_until: datetime) -> set[str]:
        """Move the end of the leases that still carry the caller's token."""
        async with self._database.write() as connection:
            held = await _tokens(connection, [attempt.message.id for attempt in attempts])
            mine = [a.message.id for a in attempts if held.get(a.message.id) == a.token]
            if mine:
                due_at_ms = to_milliseconds(lease_until)
                await connection.execute(
                    _UPDATE_DUE.values(due_at_ms=due_at_ms), [_at(message_id) for message_id in mine]
                )
            return set(mine)

    async def finish(self, attempts: Sequence[FinishedAttempt]) -> list[bool]:
        """Close the attempts that are still open under the caller's token, and move their messages on."""
        async with self._database.write() as connection:
            open_tokens = await _open_attempts(connection, [attempt.message_id for attempt in attempts])
            verdicts = [open_tokens.get((a.message_id, a.number)) == a.token for a in attempts]
            mine = [attempt for attempt, is_mine in zip(attempts, verdicts, strict=True) if is_mine]
            if mine:
                await _close_attempts(connection, mine)
                await _leave_or_requeue(connection, mine)
            return verdicts

    async def release_leases(self, now: datetime) -> int:
        """Make claimed rows due."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(DUE).where(DUE.c.claimed).values(due_at_ms=to_milliseconds(now), claimed=False)
            )
            return released.rowcount

    async def next_due(self, shard: int) -> datetime | None:
        """Read the head of the due index."""
        async with self._database.read() as connection:
            head = await connection.scalar(select(func.min(DUE.c.due_at_ms)).where(DUE.c.shard == shard))
        return None if head is None else from_milliseconds(head)

    async def apply_receipts(self, receipts: Sequence[Receipt]) -> list[bool]:
        """Insert the receipts that are new and move their messages forward."""
        async with self._database.write() as connection:
            current = await _statuses(connection, [receipt.message_id for receipt in receipts])
            known = [receipt for receipt in receipts if receipt.message_id in current]
            if known:
                await connection.execute(
                    _insert_ignoring(connection, ReceiptRow), [rows.new_receipt(receipt) for receipt in known]
                )
                await _apply(connection, known, current)
            return [receipt.message_id in current for receipt in receipts]

    async def awaiting_receipt(self, carriers: Sequence[str], sent_before: datetime, limit: int) -> list[Message]:
        """Read the partial index over sent messages."""
        wanted = (
            select(MESSAGES)
            .where(
                MESSAGES.c.status == Status.SENT.value,
                MESSAGES.c.carrier.in_(carriers),
                MESSAGES.c.sent_at_ms < to_milliseconds(sent_before),
            )
            .order_by(MESSAGES.c.sent_at_ms)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [rows.message(row) for row in await connection.execute(wanted)]

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
                _insert_ignoring(connection, ReplyRow), [rows.new_reply(reply, tenant_id, message_id)]
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

    async def cancel(self, tenant_id: str, message_id: str, now: datetime) -> CancelResult:
        """Cancel under the same lock that a claim takes."""
        async with self._database.write() as connection:
            message = await _message(connection, tenant_id, message_id, for_update=True)
            if message is None:
                return CancelResult.NOT_FOUND
            if message.status is not Status.QUEUED or message.attempts:
                return CancelResult.BEGUN
            await connection.execute(
                _UPDATE_MESSAGE.values(status=Status.CANCELED.value, updated_at_ms=to_milliseconds(now)),
                [_at(message_id)],
            )
            await connection.execute(_DELETE_DUE, [_at(message_id)])
            return CancelResult.CANCELED


def _at(message_id: str) -> dict[str, object]:
    return {"at_shard": shard_of(message_id), "at_id": message_id}


def _shards(message_ids: Iterable[str]) -> list[int]:
    return sorted({shard_of(message_id) for message_id in message_ids})


def _insert_ignoring(connection: AsyncConnection, table: type[SQLModel]) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


async def _message(
    connection: AsyncConnection, tenant_id: str, message_id: str, *, for_update: bool = False
) -> Message | None:
    query = select(MESSAGES).where(
        MESSAGES.c.shard == shard_of(message_id), MESSAGES.c.id == message_id, MESSAGES.c.tenant_id == tenant_id
    )
    row = (await connection.execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else rows.message(row)


async def _due_messages(connection: AsyncConnection, shard: int, ids: list[str]) -> list[DueMessage]:
    found = await connection.execute(select(MESSAGES).where(MESSAGES.c.shard == shard, MESSAGES.c.id.in_(ids)))
    messages = {row.id: rows.message(row) for row in found}
    tried = [message.id for message in messages.values() if message.attempts]
    last: dict[str, Row[Any]] = {}
    if tried:
        ledger = await connection.execute(
            select(ATTEMPTS)
            .where(ATTEMPTS.c.shard == shard, ATTEMPTS.c.message_id.in_(tried))
            .order_by(ATTEMPTS.c.number)
        )
        last = {row.message_id: row for row in ledger}
    return [
        DueMessage(
            message=messages[message_id],
            last_attempt=rows.attempt(last[message_id]) if message_id in last else None,
        )
        for message_id in ids
    ]


async def _close_lost_attempts(connection: AsyncConnection, due: Sequence[DueMessage], now_ms: int) -> None:
    lost = [
        {**_at(entry.message.id), "at_number": entry.last_attempt.number}
        for entry in due
        if entry.last_attempt and entry.last_attempt.outcome is Outcome.STARTED
    ]
    if lost:
        await connection.execute(
            _UPDATE_ATTEMPT.values(
                outcome=Outcome.UNKNOWN.value,
                finished_at_ms=now_ms,
                detail="the process that made this attempt stopped before it knew the outcome",
            ),
            lost,
        )


async def _start(
    connection: AsyncConnection, started: Sequence[StartedAttempt], now_ms: int, lease_until_ms: int
) -> None:
    if not started:
        return
    await connection.execute(
        _UPDATE_DUE.values(due_at_ms=lease_until_ms, claimed=True, token=bindparam("to_token")),
        [{**_at(attempt.message.id), "to_token": attempt.token} for attempt in started],
    )
    await connection.execute(
        _UPDATE_MESSAGE.values(
            status=Status.SENDING.value,
            attempts=bindparam("to_attempts"),
            carrier=bindparam("to_carrier"),
            sender=bindparam("to_sender"),
            updated_at_ms=now_ms,
        ),
        [
            {**_at(a.message.id), "to_attempts": a.number, "to_carrier": a.carrier, "to_sender": a.sender}
            for a in started
        ],
    )
    await connection.execute(insert(ATTEMPTS), [rows.new_attempt(attempt, now_ms) for attempt in started])
    doubled = [{**_at(a.message.id), "at_number": a.number - 1} for a in started if a.possible_duplicate]
    if doubled:
        await connection.execute(_UPDATE_ATTEMPT.values(possible_duplicate=True), doubled)


async def _settle_without_attempt(
    connection: AsyncConnection, plan: Sequence[tuple[DueMessage, Decision]], now_ms: int
) -> None:
    for entry, decision in plan:
        at = _at(entry.message.id)
        if isinstance(decision, Begin):
            continue
        if isinstance(decision, Postpone):
            until_ms = to_milliseconds(decision.until)
            await connection.execute(_UPDATE_DUE.values(due_at_ms=until_ms, claimed=False, token=DUE.c.token + 1), [at])
            continue
        await connection.execute(
            _UPDATE_MESSAGE.values(
                status=decision.status.value, updated_at_ms=now_ms, **rows.failure_columns(decision.failure)
            ),
            [at],
        )
        await connection.execute(_DELETE_DUE, [at])


async def _tokens(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, int]:
    held = await connection.execute(
        select(DUE.c.message_id, DUE.c.token)
        .where(DUE.c.shard.in_(_shards(ids)), DUE.c.message_id.in_(ids))
        .with_for_update()
    )
    return {row.message_id: row.token for row in held}


async def _open_attempts(connection: AsyncConnection, ids: Sequence[str]) -> dict[tuple[str, int], int]:
    found = await connection.execute(
        select(ATTEMPTS.c.message_id, ATTEMPTS.c.number, ATTEMPTS.c.token)
        .where(
            ATTEMPTS.c.shard.in_(_shards(ids)),
            ATTEMPTS.c.message_id.in_(ids),
            ATTEMPTS.c.outcome == Outcome.STARTED.value,
        )
        .with_for_update()
    )
    return {(row.message_id, row.number): row.token for row in found}


async def _close_attempts(connection: AsyncConnection, attempts: Sequence[FinishedAttempt]) -> None:
    await connection.execute(
        _UPDATE_ATTEMPT.values(
            outcome=bindparam("to_outcome"),
            finished_at_ms=bindparam("to_finished_at_ms"),
            detail=bindparam("to_detail"),
        ),
        [
            {
                **_at(attempt.message_id),
                "at_number": attempt.number,
                "to_outcome": attempt.outcome.value,
                "to_finished_at_ms": to_milliseconds(attempt.finished_at),
                "to_detail": attempt.detail,
            }
            for attempt in attempts
        ],
    )
    await connection.execute(_FINISH_MESSAGE, [rows.finished_message(attempt) for attempt in attempts])


async def _leave_or_requeue(connection: AsyncConnection, attempts: Sequence[FinishedAttempt]) -> None:
    done = [_at(attempt.message_id) for attempt in attempts if attempt.retry_at is None]
    again = [
        {**_at(attempt.message_id), "to_due_at_ms": to_milliseconds(attempt.retry_at)}
        for attempt in attempts
        if attempt.retry_at is not None
    ]
    if done:
        await connection.execute(_DELETE_DUE, done)
    if again:
        await connection.execute(_UPDATE_DUE.values(due_at_ms=bindparam("to_due_at_ms"), claimed=False), again)


async def _statuses(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Status]:
    found = await connection.execute(
        select(MESSAGES.c.id, MESSAGES.c.status)
        .where(MESSAGES.c.shard.in_(_shards(ids)), MESSAGES.c.id.in_(ids))
        .with_for_update()
    )
    return {row.id: Status(row.status) for row in found}


async def _apply(connection: AsyncConnection, receipts: Sequence[Receipt], current: dict[str, Status]) -> None:
    moved: list[dict[str, object]] = []
    ended: list[dict[str, object]] = []
    for receipt in receipts:
        before = current[receipt.message_id]
        after = status_after_receipt(before, receipt.status)
        if after is before:
            continue
        current[receipt.message_id] = after
        moved.append(rows.message_after_receipt(receipt, after))
        if after in TERMINAL:
            ended.append(_at(receipt.message_id))
    if moved:
        await connection.execute(
            _UPDATE_MESSAGE.values(
                status=bindparam("to_status"),
                failure_reason=bindparam("to_reason"),
                failure_code=bindparam("to_code"),
                updated_at_ms=bindparam("to_updated_at_ms"),
                sent_at_ms=func.coalesce(MESSAGES.c.sent_at_ms, bindparam("to_updated_at_ms")),
                delivered_at_ms=func.coalesce(bindparam("to_delivered_at_ms"), MESSAGES.c.delivered_at_ms),
            ),
            moved,
        )
    if ended:
        await connection.execute(_DELETE_DUE, ended)


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
