"""Messages that their carrier still owes a word, in SQL: page by page, so that every one of them has its turn."""

from __future__ import annotations

from sqlalchemy import and_, literal, select, tuple_

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from services.delivery import rows
from services.delivery.domain import Message, Status
from services.delivery.tables import DUE, MESSAGES


async def in_doubt(
    connection: Connection, carrier: str, before_ms: int, after: Message | None, limit: int
) -> list[Message]:
    """Return unchanged messages from the waiting part of the due-queue whose last outcome is unknown."""
    waiting = (
        select(MESSAGES)
        .join(DUE, and_(DUE.c.shard == MESSAGES.c.shard, DUE.c.message_id == MESSAGES.c.id))
        .where(
            DUE.c.rank.is_(None),
            DUE.c.claimed.is_(False),
            MESSAGES.c.status == Status.SENDING.value,
            MESSAGES.c.carrier == carrier,
            MESSAGES.c.updated_at_ms < before_ms,
        )
        .order_by(MESSAGES.c.updated_at_ms, MESSAGES.c.id)
        .limit(limit)
    )
    if after is not None:
        key = (to_milliseconds(after.updated_at), after.id)
        waiting = waiting.where(tuple_(MESSAGES.c.updated_at_ms, MESSAGES.c.id) > key)
    return [rows.message(row) for row in await connection.execute(waiting)]


async def awaiting_receipt(
    connection: Connection, carrier: str, between_ms: tuple[int, int], after: Message | None, limit: int
) -> list[Message]:
    """Return messages from the partial index over sent ones."""
    after_ms, before_ms = between_ms
    sent = (
        select(MESSAGES)
        .where(
            MESSAGES.c.status == literal(Status.SENT.value, literal_execute=True),  # as the index has it
            MESSAGES.c.carrier == carrier,
            MESSAGES.c.sent_at_ms > after_ms,
            MESSAGES.c.sent_at_ms < before_ms,
        )
        .order_by(MESSAGES.c.sent_at_ms, MESSAGES.c.id)
        .limit(limit)
    )
    if after is not None and after.sent_at is not None:
        key = (to_milliseconds(after.sent_at), after.id)
        sent = sent.where(tuple_(MESSAGES.c.sent_at_ms, MESSAGES.c.id) > key)
    return [rows.message(row) for row in await connection.execute(sent)]
