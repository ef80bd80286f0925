"""Receipts in SQL: stored once, and their messages moved forward."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.delivery import rows
from services.delivery.domain import Receipt, Status, status_after_receipt
from services.delivery.sql_statements import DELETE_DUE, UPDATE_MESSAGE, at, shards_of
from services.delivery.tables import MESSAGES


async def statuses(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Status]:
    """Lock messages; return the statuses of those that exist."""
    found = await connection.execute(
        select(MESSAGES.c.id, MESSAGES.c.status)
        .where(MESSAGES.c.shard.in_(shards_of(ids)), MESSAGES.c.id.in_(ids))
        .order_by(MESSAGES.c.id)
        .with_for_update()
    )
    return {row.id: Status(row.status) for row in found}


async def move(connection: AsyncConnection, receipts: Sequence[Receipt], current: dict[str, Status]) -> None:
    """Move messages forward as receipts say, in the order in which they came."""
    moved: list[dict[str, object]] = []
    ended: list[dict[str, object]] = []
    for receipt in receipts:
        before = current[receipt.message_id]
        after = status_after_receipt(before, receipt.status)
        if after is before:
            continue
        current[receipt.message_id] = after
        moved.append(rows.message_after_receipt(receipt, after))
        # Also `sent`: the carrier has it, so whatever was still to be done must not send it again.
        ended.append(at(receipt.message_id))
    if moved:
        await connection.execute(
            UPDATE_MESSAGE.values(
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
        await connection.execute(DELETE_DUE, ended)
