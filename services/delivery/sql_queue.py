"""The due-queue in SQL: entering it, becoming ready in it, and being taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, case, func, insert, select, update
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
        .where(
            DUE.c.shard == bindparam("at_shard"), DUE.c.route == bindparam("at_route"), DUE.c.priority == level, _READY
        )
        .scalar_subquery()
        for level in sorted(fair_order.LEVEL.values())
    )
)


class Entry(NamedTuple):
    """A message on its way into the queue."""

    message_id: str
    route: str
    lane: Lane
    due_at_ms: int


async def enter(connection: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Put messages into the queue, ready."""
    rows: list[dict[str, object]] = []
    for (shard, route), members in _by_queue(entries).items():
        ranks = await _ranks(connection, shard, route, [entry.lane for entry in members])
        rows += [
            {
                "shard": shard,
                "message_id": entry.message_id,
                "due_at_ms": entry.due_at_ms,
                "claimed": False,
                "token": 0,
                "route": route,
                "lane": entry.lane.name,
                "priority": entry.lane.level,
                "rank": rank,
            }
            for entry, rank in zip(members, ranks, strict=True)
        ]
    await connection.execute(insert(DUE), rows)


async def promote(connection: AsyncConnection, shard: int, now_ms: int) -> None:
    """Make waiting messages ready whose time has come."""
    found = await connection.execute(
        select(DUE.c.message_id, DUE.c.route, DUE.c.lane, DUE.c.priority, DUE.c.due_at_ms)
        .where(DUE.c.shard == shard, _WAITING, DUE.c.due_at_ms <= now_ms)
        .order_by(DUE.c.due_at_ms)
        .limit(PROMOTED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    waiting = [
        Entry(row.message_id, row.route, Lane(name=row.lane, level=row.priority), row.due_at_ms) for row in found
    ]
    for (_, route), members in _by_queue(waiting).items():
        ranks = await _ranks(connection, shard, route, [entry.lane for entry in members])
        await connection.execute(
            _SET_RANK,
            [{**at(entry.message_id), "to_rank": rank} for entry, rank in zip(members, ranks, strict=True)],
        )


async def take(connection: AsyncConnection, shard: int, route: str, limit: int) -> dict[str, int]:
    """Lock a route's ready messages whose turn it is, and that nobody else has locked; return their tokens by id."""
    found = await connection.execute(
        select(DUE.c.message_id, DUE.c.token)
        .where(DUE.c.shard == shard, DUE.c.route == route, _READY)
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


async def next_due_ms(connection: AsyncConnection, shard: int, routes: Sequence[str]) -> int | None:
    """Return when there is something to do for a shard: 0 for now, None for never."""
    for route in routes:
        ready = select(DUE.c.rank).where(DUE.c.shard == shard, DUE.c.route == route, _READY)
        if await connection.scalar(ready.order_by(DUE.c.rank).limit(1)) is not None:
            return 0
    head: int | None = await connection.scalar(select(func.min(DUE.c.due_at_ms)).where(DUE.c.shard == shard, _WAITING))
    return head


async def adopt(connection: AsyncConnection, routes: Sequence[str], into: str, now_ms: int) -> int:
    """Move what waits for routes that are not among these, to be made ready in the queue of one."""
    moved = await connection.execute(
        update(DUE)
        .where(DUE.c.route.not_in(routes))
        .values(route=into, rank=None, due_at_ms=case((_READY, now_ms), else_=DUE.c.due_at_ms))
    )
    return moved.rowcount


def _by_queue(entries: Sequence[Entry]) -> dict[tuple[int, str], list[Entry]]:
    queues: dict[tuple[int, str], list[Entry]] = {}
    for entry in entries:
        queues.setdefault((shard_of(entry.message_id), entry.route), []).append(entry)
    return queues


async def _ranks(connection: AsyncConnection, shard: int, route: str, lanes: Sequence[Lane]) -> list[int]:
    lowest = (await connection.execute(_LOWEST_RANKS, {"at_shard": shard, "at_route": route})).one()
    last = await connection.execute(
        select(DUE.c.lane, func.max(DUE.c.rank).label("rank"))
        .where(DUE.c.shard == shard, DUE.c.route == route, DUE.c.lane.in_({lane.name for lane in lanes}), _READY)
        .group_by(DUE.c.lane)
    )
    queue = Queue(front=fair_order.front(tuple(lowest)), last={row.lane: row.rank for row in last})
    return fair_order.ranks(lanes, queue)
