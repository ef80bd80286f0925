"""The ledger in SQL: attempts that start, attempts that end, and what that does to messages and to the due-queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, case, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from servicekit.clock import to_milliseconds
from services.delivery import rows
from services.delivery.domain import Attempt, Outcome, Status
from services.delivery.sql_statements import DELETE_DUE, UPDATE_ATTEMPT, UPDATE_DUE, UPDATE_MESSAGE, at, shards_of
from services.delivery.store import Decision, DueMessage, Finish, FinishedAttempt, Postpone, StartedAttempt
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES, PARTS

# A message with an open attempt is `sending`, unless a receipt came before the outcome: what it said stands.
_STILL_SENDING: Final = MESSAGES.c.status == Status.SENDING.value
_FINISH_MESSAGE: Final = UPDATE_MESSAGE.values(
    status=case((_STILL_SENDING, bindparam("to_status")), else_=MESSAGES.c.status),
    failure_reason=case((_STILL_SENDING, bindparam("to_reason")), else_=MESSAGES.c.failure_reason),
    failure_code=case((_STILL_SENDING, bindparam("to_code")), else_=MESSAGES.c.failure_code),
    carrier_message_id=bindparam("to_carrier_message_id"),
    sent_at_ms=func.coalesce(MESSAGES.c.sent_at_ms, bindparam("to_sent_at_ms")),
    updated_at_ms=bindparam("to_updated_at_ms"),
)
_SETTLE_MESSAGE: Final = UPDATE_MESSAGE.values(
    status=bindparam("to_status"),
    failure_reason=bindparam("to_reason"),
    failure_code=bindparam("to_code"),
    updated_at_ms=bindparam("to_updated_at_ms"),
)


async def due_messages(connection: AsyncConnection, shard: int, ids: list[str]) -> list[DueMessage]:
    """Return due messages with the attempts of each, in the order of the ids."""
    found = await connection.execute(select(MESSAGES).where(MESSAGES.c.shard == shard, MESSAGES.c.id.in_(ids)))
    messages = {row.id: rows.message(row) for row in found}
    tried = [message.id for message in messages.values() if message.attempts]
    attempts: dict[str, list[Attempt]] = {}
    if tried:
        ledger = await connection.execute(
            select(ATTEMPTS)
            .where(ATTEMPTS.c.shard == shard, ATTEMPTS.c.message_id.in_(tried))
            .order_by(ATTEMPTS.c.number)
        )
        for row in ledger:
            attempts.setdefault(row.message_id, []).append(rows.attempt(row))
    return [
        DueMessage(message=messages[message_id], attempts=tuple(attempts.get(message_id, ()))) for message_id in ids
    ]


async def close_lost(connection: AsyncConnection, due: Sequence[DueMessage], now_ms: int) -> None:
    """Close as unknown what a process left open that lost its lease."""
    lost = [
        {**at(entry.message.id), "at_number": entry.last_attempt.number}
        for entry in due
        if entry.last_attempt and entry.last_attempt.outcome is Outcome.STARTED
    ]
    if lost:
        await connection.execute(
            UPDATE_ATTEMPT.values(
                outcome=Outcome.UNKNOWN.value,
                finished_at_ms=now_ms,
                detail="the process that made this attempt stopped before it knew the outcome",
            ),
            lost,
        )


async def start(
    connection: AsyncConnection, started: Sequence[StartedAttempt], now_ms: int, lease_until_ms: int
) -> None:
    """Write attempts as started, and lease their messages."""
    if not started:
        return
    await connection.execute(
        UPDATE_DUE.values(rank=None, due_at_ms=lease_until_ms, claimed=True, token=bindparam("to_token")),
        [{**at(attempt.message.id), "to_token": attempt.token} for attempt in started],
    )
    await connection.execute(
        UPDATE_MESSAGE.values(
            status=Status.SENDING.value,
            attempts=bindparam("to_attempts"),
            carrier=bindparam("to_carrier"),
            sender=bindparam("to_sender"),
            updated_at_ms=now_ms,
        ),
        [
            {**at(a.message.id), "to_attempts": a.number, "to_carrier": a.carrier, "to_sender": a.sender}
            for a in started
        ],
    )
    await connection.execute(insert(ATTEMPTS), [rows.new_attempt(attempt, now_ms) for attempt in started])
    doubled = [{**at(a.message.id), "at_number": a.number - 1} for a in started if a.possible_duplicate]
    if doubled:
        await connection.execute(UPDATE_ATTEMPT.values(possible_duplicate=True), doubled)


async def settle_without_attempt(
    connection: AsyncConnection, plan: Sequence[tuple[DueMessage, Decision]], now_ms: int
) -> int:
    """Finish or postpone the messages for which no attempt is to begin; return how many."""
    put_off = [
        {**at(entry.message.id), "to_due_at_ms": to_milliseconds(decision.until)}
        for entry, decision in plan
        if isinstance(decision, Postpone)
    ]
    finished = [(entry.message.id, decision) for entry, decision in plan if isinstance(decision, Finish)]
    if put_off:
        await connection.execute(
            UPDATE_DUE.values(rank=None, due_at_ms=bindparam("to_due_at_ms"), claimed=False, token=DUE.c.token + 1),
            put_off,
        )
    if finished:
        await connection.execute(
            _SETTLE_MESSAGE,
            [
                {
                    **at(message_id),
                    "to_status": finish.status.value,
                    "to_reason": finish.failure.reason.code if finish.failure else "",
                    "to_code": finish.failure.carrier_code if finish.failure else "",
                    "to_updated_at_ms": now_ms,
                }
                for message_id, finish in finished
            ],
        )
        await connection.execute(DELETE_DUE, [at(message_id) for message_id, _ in finished])
    return len(put_off) + len(finished)


async def open_tokens(connection: AsyncConnection, ids: Sequence[str]) -> dict[tuple[str, int], int]:
    """Lock open attempts; return their tokens by message id and number."""
    found = await connection.execute(
        select(ATTEMPTS.c.message_id, ATTEMPTS.c.number, ATTEMPTS.c.token)
        .where(
            ATTEMPTS.c.shard.in_(shards_of(ids)),
            ATTEMPTS.c.message_id.in_(ids),
            ATTEMPTS.c.outcome == Outcome.STARTED.value,
        )
        .order_by(ATTEMPTS.c.message_id)
        .with_for_update()
    )
    return {(row.message_id, row.number): row.token for row in found}


async def close(connection: AsyncConnection, attempts: Sequence[FinishedAttempt]) -> None:
    """Write outcomes into the ledger and into the messages."""
    await connection.execute(
        UPDATE_ATTEMPT.values(
            outcome=bindparam("to_outcome"),
            finished_at_ms=bindparam("to_finished_at_ms"),
            detail=bindparam("to_detail"),
            failure_reason=bindparam("to_reason"),
            failure_code=bindparam("to_code"),
            carrier_message_id=bindparam("to_carrier_message_id"),
        ),
        [rows.finished_attempt(attempt) for attempt in attempts],
    )
    await connection.execute(_FINISH_MESSAGE, [rows.finished_message(attempt) for attempt in attempts])
    parts = [part for attempt in attempts for part in rows.parts(attempt)]
    if parts:
        await connection.execute(insert(PARTS), parts)


async def keep_carrier_ids(connection: AsyncConnection, late: Sequence[FinishedAttempt]) -> None:
    """Keep the carrier's id of attempts whose outcome came too late to count: its receipts name the message by it."""
    told = [
        {**at(attempt.message_id), "at_number": attempt.number, "to_carrier_message_id": attempt.carrier_message_id}
        for attempt in late
        if attempt.carrier_message_id
    ]
    if told:
        await connection.execute(
            UPDATE_ATTEMPT.where(ATTEMPTS.c.carrier_message_id == "").values(
                carrier_message_id=bindparam("to_carrier_message_id")
            ),
            told,
        )


async def leave_or_requeue(connection: AsyncConnection, attempts: Sequence[FinishedAttempt]) -> None:
    """Take messages out of the due-queue, or let them wait for their retry time."""
    done = [at(attempt.message_id) for attempt in attempts if attempt.retry_at is None]
    again = [
        {**at(attempt.message_id), "to_due_at_ms": to_milliseconds(attempt.retry_at)}
        for attempt in attempts
        if attempt.retry_at is not None
    ]
    if done:
        await connection.execute(DELETE_DUE, done)
    if again:
        await connection.execute(UPDATE_DUE.values(due_at_ms=bindparam("to_due_at_ms"), claimed=False), again)
