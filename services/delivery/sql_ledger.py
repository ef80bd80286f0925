"""The ledger in SQL: attempts that start, attempts that end, and what that does to messages and to the due-queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import bindparam, case, func, select

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, inserting, one_of
from services.delivery import rows
from services.delivery.domain import Attempt, Outcome, Status, shard_of
from services.delivery.sql_statements import (
    LEAVE_QUEUE,
    UPDATE_ATTEMPT,
    UPDATE_DUE,
    UPDATE_MESSAGE,
    at,
    insert_ignoring,
    shards_of,
)
from services.delivery.store import Decision, DueMessage, Finish, FinishedAttempt, Postpone, StartedAttempt
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES, PARTS

# A message with an open attempt is `sending`, unless a receipt came before the outcome: what it said stands.
_STILL_SENDING: Final = MESSAGES.c.status == Status.SENDING.value
_FINISH_MESSAGE: Final = HotStatement(
    UPDATE_MESSAGE.values(
        status=case((_STILL_SENDING, bindparam("to_status")), else_=MESSAGES.c.status),
        failure_reason=case((_STILL_SENDING, bindparam("to_reason")), else_=MESSAGES.c.failure_reason),
        failure_code=case((_STILL_SENDING, bindparam("to_code")), else_=MESSAGES.c.failure_code),
        carrier_message_id=bindparam("to_carrier_message_id"),
        sent_at_ms=func.coalesce(MESSAGES.c.sent_at_ms, bindparam("to_sent_at_ms")),
        updated_at_ms=bindparam("to_updated_at_ms"),
    ),
    (
        "at_shard", "at_id", "to_status", "to_reason", "to_code", "to_carrier_message_id", "to_sent_at_ms",
        "to_updated_at_ms",
    ),
)  # fmt: skip  # one line per name hides that this is one row
_SETTLE_MESSAGE: Final = UPDATE_MESSAGE.values(
    status=bindparam("to_status"),
    failure_reason=bindparam("to_reason"),
    failure_code=bindparam("to_code"),
    updated_at_ms=bindparam("to_updated_at_ms"),
)
_DUE_MESSAGES: Final = HotStatement(
    select(MESSAGES).where(MESSAGES.c.shard == bindparam("at_shard"), one_of(MESSAGES.c.id, "ids")),
    ("at_shard", "ids"),
)
_ATTEMPTS_OF: Final = HotStatement(
    select(ATTEMPTS)
    .where(ATTEMPTS.c.shard == bindparam("at_shard"), one_of(ATTEMPTS.c.message_id, "ids"))
    .order_by(ATTEMPTS.c.number),
    ("at_shard", "ids"),
)
_LEASE: Final = HotStatement(
    UPDATE_DUE.values(rank=None, due_at_ms=bindparam("to_due_at_ms"), claimed=True, token=bindparam("to_token")),
    ("at_shard", "at_id", "to_due_at_ms", "to_token"),
)
_BEGIN_SENDING: Final = HotStatement(
    UPDATE_MESSAGE.values(
        status=Status.SENDING.value,
        attempts=bindparam("to_attempts"),
        carrier=bindparam("to_carrier"),
        sender=bindparam("to_sender"),
        updated_at_ms=bindparam("to_updated_at_ms"),
    ),
    ("at_shard", "at_id", "to_attempts", "to_carrier", "to_sender", "to_updated_at_ms"),
)
_START: Final = inserting(ATTEMPTS)
_OPEN_TOKENS: Final = HotStatement(
    select(ATTEMPTS.c.message_id, ATTEMPTS.c.number, ATTEMPTS.c.token)
    .where(
        one_of(ATTEMPTS.c.shard, "shards"),
        one_of(ATTEMPTS.c.message_id, "ids"),
        ATTEMPTS.c.outcome == Outcome.STARTED.value,
    )
    .order_by(ATTEMPTS.c.message_id)
    .with_for_update(),
    ("shards", "ids"),
)
_CLOSE: Final = HotStatement(
    UPDATE_ATTEMPT.values(
        outcome=bindparam("to_outcome"),
        finished_at_ms=bindparam("to_finished_at_ms"),
        detail=bindparam("to_detail"),
        failure_reason=bindparam("to_reason"),
        failure_code=bindparam("to_code"),
        carrier_message_id=bindparam("to_carrier_message_id"),
    ),
    (
        "at_shard", "at_id", "at_number", "to_outcome", "to_finished_at_ms", "to_detail", "to_reason", "to_code",
        "to_carrier_message_id",
    ),
)  # fmt: skip  # one line per name hides that this is one row
_REQUEUE: Final = HotStatement(
    UPDATE_DUE.values(due_at_ms=bindparam("to_due_at_ms"), claimed=False), ("at_shard", "at_id", "to_due_at_ms")
)


async def due_messages(connection: Connection, shard: int, ids: list[str]) -> list[DueMessage]:
    """Return due messages with the attempts of each, in the order of the ids."""
    found = await _DUE_MESSAGES.rows(connection, shard, ids)
    messages = {message.id: message for message in map(rows.message, found)}
    tried = [message.id for message in messages.values() if message.attempts]
    attempts: dict[str, list[Attempt]] = {}
    if tried:
        for row in await _ATTEMPTS_OF.rows(connection, shard, tried):
            _, message_id, *_ = row
            attempts.setdefault(message_id, []).append(rows.attempt(row))
    return [
        DueMessage(message=messages[message_id], attempts=tuple(attempts.get(message_id, ()))) for message_id in ids
    ]


async def close_lost(connection: Connection, due: Sequence[DueMessage], now_ms: int) -> None:
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


async def start(connection: Connection, started: Sequence[StartedAttempt], now_ms: int, lease_until_ms: int) -> None:
    """Write attempts as started, and lease their messages."""
    if not started:
        return
    each = [(shard_of(attempt.message.id), attempt.message.id, attempt) for attempt in started]
    await _LEASE.each(connection, [(shard, id_, lease_until_ms, attempt.token) for shard, id_, attempt in each])
    await _BEGIN_SENDING.each(
        connection, [(shard, id_, a.number, a.carrier, a.sender, now_ms) for shard, id_, a in each]
    )
    await open_attempts(connection, started, now_ms)
    doubled = [{**at(a.message.id), "at_number": a.doubles} for a in started if a.doubles]
    if doubled:
        await connection.execute(UPDATE_ATTEMPT.values(possible_duplicate=True), doubled)


async def open_attempts(connection: Connection, started: Sequence[StartedAttempt], now_ms: int) -> None:
    """Write attempts as started; their messages and due rows say so already."""
    await _START.each(connection, [rows.new_attempt(attempt, now_ms) for attempt in started])


async def settle_without_attempt(
    connection: Connection, plan: Sequence[tuple[DueMessage, Decision]], now_ms: int
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
        await LEAVE_QUEUE.each(connection, [(shard_of(message_id), message_id) for message_id, _ in finished])
    return len(put_off) + len(finished)


async def open_tokens(connection: Connection, ids: Sequence[str]) -> dict[tuple[str, int], int]:
    """Lock open attempts; return their tokens by message id and number."""
    found = await _OPEN_TOKENS.rows(connection, shards_of(ids), list(ids))
    return {(message_id, number): token for message_id, number, token in found}


async def close(connection: Connection, attempts: Sequence[FinishedAttempt]) -> None:
    """Write outcomes into the ledger and into the messages."""
    await _CLOSE.each(connection, [rows.finished_attempt(attempt) for attempt in attempts])
    await _FINISH_MESSAGE.each(connection, [rows.finished_message(attempt) for attempt in attempts])
    await keep_parts(
        connection,
        [part for each in attempts for part in rows.parts(each.message_id, each.number, each.carrier, each.part_ids)],
    )


async def keep_parts(connection: Connection, parts: Sequence[Mapping[str, object]]) -> None:
    """Write the parts in which attempts were taken; a carrier that answers late may have told of them before."""
    if parts:
        await connection.execute(insert_ignoring(connection, PARTS), parts)


async def keep_carrier_ids(connection: Connection, late: Sequence[FinishedAttempt]) -> None:
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


async def leave_or_requeue(connection: Connection, attempts: Sequence[FinishedAttempt]) -> None:
    """Take messages out of the due-queue, or let them wait for their retry time."""
    each = [(shard_of(attempt.message_id), attempt.message_id, attempt.retry_at) for attempt in attempts]
    await LEAVE_QUEUE.each(connection, [(shard, id_) for shard, id_, retry_at in each if retry_at is None])
    await _REQUEUE.each(
        connection, [(shard, id_, to_milliseconds(retry_at)) for shard, id_, retry_at in each if retry_at is not None]
    )
