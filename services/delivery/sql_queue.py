"""The due-queue in SQL: entering it, becoming ready in it, and being taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.delivery import fair_order
from services.delivery.domain import shard_of
from services.delivery.fair_order import Lane, Queue
from services.delivery.sql_statements import UPDATE_DUE, at, shards_of
from services.delivery.tables import DUE

PROMOTED_AT_ONCE: Final = 500

_READY: Final = DUE.c.rank.is_not(None)
_WAITING: Final = DUE.c.rank.is_(None)
_SET_RANK: Final = UPDATE_DUE.values(rank=bindparam("to_rank"), claimed=False)
_LOWEST_RANKS: Final = select(
    *(
        select(func.min(DUE.c.rank))
        .where(DUE.c.shard == bindparam("at_shard"), DUE.c.priority == level, _READY)
        .scalar_subquery()
        for level in sorted(fair_order.LEVEL.values())
    )
)


async def enter(connection: AsyncConnection, entries: Sequence[tuple[str, Lane, int]]) -> None:
    """Put messages into the queue, ready: each an id, its lane, and the time since which it is due."""
    by_shard: dict[int, list[tuple[str, Lane, int]]] = {}
    for entry in entries:
        by_shard.setdefault(shard_of(entry[0]), []).append(entry)
    rows: list[dict[str, object]] = []
    for shard, members in by_shard.items():
        ranks = await _ranks(connection, shard, [lane for _, lane, _ in members])
        rows += [
            {
                "shard": shard,
                "message_id": message_id,
                "due_at_ms": due_at_ms,
                "claimed": False,
                "token": 0,
                "lane": lane.name,
                "priority": lane.level,
                "rank": rank,
            }
            for (message_id, lane, due_at_ms), rank in zip(members, ranks, strict=True)
        ]
    await connection.execute(insert(DUE), rows)


async def promote(connection: AsyncConnection, shard: int, now_ms: int) -> None:
    """Make waiting messages ready whose time has come."""
    found = await connection.execute(
        select(DUE.c.message_id, DUE.c.lane, DUE.c.priority)
        .where(DUE.c.shard == shard, _WAITING, DUE.c.due_at_ms <= now_ms)
        .order_by(DUE.c.due_at_ms)
        .limit(PROMOTED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    waiting = found.all()
    if waiting:
        ranks = await _ranks(connection, shard, [Lane(name=row.lane, level=row.priority) for row in waiting])
        await connection.execute(
            _SET_RANK,
            [{**at(row.message_id), "to_rank": rank} for row, rank in zip(waiting, ranks, strict=True)],
        )


async def take(connection: AsyncConnection, shard: int, limit: int) -> dict[str, int]:
    """Lock the ready messages whose turn it is, and that nobody else has locked; return their tokens by id, in turn."""
    found = await connection.execute(
        select(DUE.c.message_id, DUE.c.token)
        .where(DUE.c.shard == shard, _READY)
        .order_by(DUE.c.rank)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return {row.message_id: row.token for row in found}


async def lock(connection: AsyncConnection, message_ids: Sequence[str]) -> dict[str, int]:
    """Lock the due rows of messages, as far as there are any; return their tokens by id.

    Whoever changes a message that may be in the queue locks here first, and all lock in the same order: due rows, then
    messages, each by id. So no two transactions wait for each other. A claim passes over what is locked.
    """
    found = await connection.execute(
        select(DUE.c.message_id, DUE.c.token)
        .where(DUE.c.shard.in_(shards_of(message_ids)), DUE.c.message_id.in_(message_ids))
        .order_by(DUE.c.message_id)
        .with_for_update()
    )
    return {row.message_id: row.token for row in found}


async def next_due_ms(connection: AsyncConnection, shard: int) -> int | None:
    """Return when there is something to do for a shard: 0 for now, None for never."""
    ready = select(DUE.c.rank).where(DUE.c.shard == shard, _READY).order_by(DUE.c.rank).limit(1)
    if await connection.scalar(ready) is not None:
        return 0
    head: int | None = await connection.scalar(select(func.min(DUE.c.due_at_ms)).where(DUE.c.shard == shard, _WAITING))
    return head


async def _ranks(connection: AsyncConnection, shard: int, lanes: Sequence[Lane]) -> list[int]:
    lowest = (await connection.execute(_LOWEST_RANKS, {"at_shard": shard})).one()
    last = await connection.execute(
        select(DUE.c.lane, func.max(DUE.c.rank).label("rank"))
        .where(DUE.c.shard == shard, DUE.c.lane.in_({lane.name for lane in lanes}), _READY)
        .group_by(DUE.c.lane)
    )
    queue = Queue(front=fair_order.front(tuple(lowest)), last={row.lane: row.rank for row in last})
    return fair_order.ranks(lanes, queue)
