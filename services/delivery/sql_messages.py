"""Messages and what hangs on them, in SQL: read by their keys and page by page, and removed when they are old."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, delete, func, select

from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, one_of
from servicekit.ids import new_id
from servicekit.paging import PageRequest
from services.delivery import rows
from services.delivery.domain import TERMINAL, History, Message, MessageFilter, Status, shard_of
from services.delivery.sql_statements import newest_first, shards_of, wanted_of, within
from services.delivery.tables import ATTEMPTS, MESSAGES, PARTS, RECEIPTS, REPLIES, RESOLUTIONS

_SEVERAL: Final = HotStatement(
    select(MESSAGES).where(one_of(MESSAGES.c.shard, "shards"), one_of(MESSAGES.c.id, "ids")), ("shards", "ids")
)


async def one(connection: Connection, tenant_id: str, message_id: str, *, for_update: bool = False) -> Message | None:
    """Return the tenant's message by its whole key; None when there is none, or it is another tenant's."""
    query = select(MESSAGES).where(
        MESSAGES.c.shard == shard_of(message_id), MESSAGES.c.id == message_id, MESSAGES.c.tenant_id == tenant_id
    )
    row = (await connection.execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else rows.message(row)


async def several(connection: Connection, message_ids: Sequence[str]) -> list[Message]:
    """Return the messages that there are of these, in any order."""
    if not message_ids:
        return []
    return [rows.message(row) for row in await _SEVERAL.rows(connection, shards_of(message_ids), list(message_ids))]


async def page_of(connection: Connection, tenant_id: str, wanted: MessageFilter, page: PageRequest) -> list[Message]:
    """Return the tenant's messages that match, newest first, by the key and never by an offset."""
    query = select(MESSAGES).where(MESSAGES.c.tenant_id == tenant_id, *_conditions(wanted))
    query = newest_first(query, MESSAGES.c.created_at_ms, MESSAGES.c.id, page)
    return [rows.message(row) for row in await connection.execute(query)]


async def history(connection: Connection, tenant_id: str, message_id: str) -> History | None:
    """Return the tenant's message and all that hangs on it; None as in `one`."""
    message = await one(connection, tenant_id, message_id)
    if message is None:
        return None
    shard = shard_of(message_id)
    attempts = await connection.execute(
        select(ATTEMPTS)
        .where(ATTEMPTS.c.shard == shard, ATTEMPTS.c.message_id == message_id)
        .order_by(ATTEMPTS.c.number)
    )
    receipts = await connection.execute(
        select(RECEIPTS)
        .where(RECEIPTS.c.shard == shard, RECEIPTS.c.message_id == message_id)
        .order_by(RECEIPTS.c.received_at_ms, RECEIPTS.c.attempt, RECEIPTS.c.part)
    )
    counted = await connection.execute(
        select(PARTS.c.attempt, func.count().label("parts"))
        .where(PARTS.c.shard == shard, PARTS.c.message_id == message_id)
        .group_by(PARTS.c.attempt)
    )
    parts = {row.attempt: row.parts for row in counted}
    replies = await connection.execute(select(REPLIES).where(REPLIES.c.message_id == message_id))
    resolved = await connection.execute(
        select(RESOLUTIONS).where(RESOLUTIONS.c.shard == shard, RESOLUTIONS.c.message_id == message_id)
    )
    return History(
        message=message,
        attempts=tuple(rows.attempt(row) for row in attempts),
        receipts=tuple(rows.receipt(row, parts.get(row.attempt, 0)) for row in receipts),
        replies=tuple(rows.reply(row) for row in replies),
        resolved=tuple(rows.resolved(row) for row in resolved),
    )


async def remove_finished(connection: Connection, shard: int, before: datetime, limit: int) -> int:
    """Delete messages that have ended and were created before a time, and first what hangs on them; return how many.

    It walks the primary key, whose ids sort by time.
    """
    ended = [status.value for status in (*TERMINAL, Status.SENT, Status.UNKNOWN)]
    found = await connection.scalars(
        select(MESSAGES.c.id)
        .where(MESSAGES.c.shard == shard, MESSAGES.c.id < new_id("msg", before), MESSAGES.c.status.in_(ended))
        .order_by(MESSAGES.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = found.all()
    if ids:
        for table in (ATTEMPTS, PARTS, RECEIPTS, RESOLUTIONS):
            await connection.execute(delete(table).where(table.c.shard == shard, table.c.message_id.in_(ids)))
        await connection.execute(delete(REPLIES).where(REPLIES.c.message_id.in_(ids)))
        await connection.execute(delete(MESSAGES).where(MESSAGES.c.shard == shard, MESSAGES.c.id.in_(ids)))
    return len(ids)


def _conditions(wanted: MessageFilter) -> list[ColumnElement[bool]]:
    columns = {
        MESSAGES.c.status: wanted.status and wanted.status.value,
        MESSAGES.c.ref: wanted.ref,
        MESSAGES.c.recipient: wanted.to,
        MESSAGES.c.integration_id: wanted.integration_id,
    }
    return [*wanted_of(columns), *within(MESSAGES.c.created_at_ms, wanted.created_after, wanted.created_before)]
