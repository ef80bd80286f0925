"""The due-queue in SQL: entering it, becoming ready in it, and being taken from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import ColumnElement, Select, SmallInteger, Text, and_, bindparam, func, select

from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import HotStatement, inserting, listed, one_of
from services.delivery import fair_order
from services.delivery.domain import SHARDS, shard_of
from services.delivery.fair_order import Lane, Queue
from services.delivery.sql_statements import UPDATE_DUE, shards_of
from services.delivery.tables import DUE

PROMOTED_AT_ONCE: Final = 500

_READY: Final = DUE.c.rank.is_not(None)
_WAITING: Final = DUE.c.rank.is_(None)
_QUEUE: Final = and_(DUE.c.shard == bindparam("at_shard"), DUE.c.route == bindparam("at_route"), _READY)

_ENTER: Final = inserting(DUE)
_READY_ROWS: Final = (
    select(DUE.c.message_id, DUE.c.token)
    .where(_QUEUE)
    .order_by(DUE.c.rank)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_TAKE: Final = HotStatement(_READY_ROWS, ("at_shard", "at_route", "most"))
_DUE_WAITING: Final = (
    select(DUE.c.message_id, DUE.c.route, DUE.c.lane, DUE.c.priority, DUE.c.due_at_ms)
    .where(DUE.c.shard == bindparam("at_shard"), _WAITING, DUE.c.due_at_ms <= bindparam("now_ms"))
    .order_by(DUE.c.due_at_ms)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_PROMOTED: Final = HotStatement(_DUE_WAITING, ("at_shard", "now_ms", "most"))
_SET_RANK: Final = HotStatement(
    UPDATE_DUE.values(rank=bindparam("to_rank"), claimed=False), ("at_shard", "at_id", "to_rank")
)
_LOCK: Final = HotStatement(
    select(DUE.c.message_id, DUE.c.token, DUE.c.claimed)
    .where(one_of(DUE.c.shard, "shards"), one_of(DUE.c.message_id, "ids"))
    .order_by(DUE.c.message_id)
    .with_for_update(),
    ("shards", "ids"),
)


def _ends(engine: str) -> Select[Any]:
    # A look at the end of each lane: a maximum of groups would read every row of lanes that may be very long. All are
    # written so that only the index of lanes, or of priorities, has their order. With an equality PostgreSQL takes any
    # index of ranks, if the table has one lane and one priority, and reads all of it for one that is not there.
    lanes = listed(engine, "lanes", Text())
    last = (
        select(DUE.c.rank)
        .where(_QUEUE, DUE.c.lane.between(lanes.c.value, lanes.c.value))
        .order_by(DUE.c.lane.desc(), DUE.c.rank.desc())
        .limit(1)
    )
    # They are the same beside each lane, and read once.
    lowest = [
        select(DUE.c.rank)
        .where(_QUEUE, DUE.c.priority.between(level, level))
        .order_by(DUE.c.priority, DUE.c.rank)
        .limit(1)
        for level in sorted(fair_order.LEVEL.values())
    ]
    return select(lanes.c.value, last.scalar_subquery(), *(each.scalar_subquery() for each in lowest))


_ENDS: Final = HotStatement(_ends, ("at_shard", "at_route", "lanes"))


def _heads(engine: str) -> Select[Any]:
    # Of each queue its first row and no other, as above.
    routes, in_shard = listed(engine, "routes", Text()), DUE.c.shard == bindparam("at_shard")
    first = select(DUE.c.rank).where(in_shard, DUE.c.route == routes.c.value, _READY).order_by(DUE.c.rank).limit(1)
    firsts = select(first.scalar_subquery().label("rank")).select_from(routes).subquery()
    waiting = select(func.min(DUE.c.due_at_ms)).where(in_shard, _WAITING)
    return select(select(func.count(firsts.c.rank)).scalar_subquery(), waiting.scalar_subquery())


_HEADS: Final = HotStatement(_heads, ("at_shard", "routes"))


def _queues(engine: str) -> Select[Any]:
    # From each queue of a shard to the next one, and of each its first row and no other.
    shards = listed(engine, "shards", SmallInteger())
    first = select(shards.c.value.label("shard"), _first_route(DUE.c.shard == shards.c.value).label("route"))
    walk = first.cte("walk", recursive=True)
    next_route = _first_route(DUE.c.shard == walk.c.shard, DUE.c.route > walk.c.route)
    walk = walk.union_all(select(walk.c.shard, next_route).where(walk.c.route.is_not(None)))
    return select(walk.c.shard, walk.c.route).where(walk.c.route.is_not(None))


def _first_route(*among: ColumnElement[bool]) -> ColumnElement[str]:
    return select(DUE.c.route).where(*among, _READY).order_by(DUE.c.route).limit(1).scalar_subquery()


_QUEUES: Final = HotStatement(_queues, ("shards",))
_MOVE: Final = HotStatement(
    UPDATE_DUE.values(route=bindparam("to_route"), rank=None, due_at_ms=bindparam("to_due_at_ms")),
    ("at_shard", "at_id", "to_route", "to_due_at_ms"),
)


QueueKey = tuple[int, str]  # a shard, and the name of a route


class Entry(NamedTuple):
    """A message on its way into the queue."""

    message_id: str
    route: str
    lane: Lane
    due_at_ms: int

    @property
    def queue(self) -> QueueKey:
        """Where it is to wait."""
        return shard_of(self.message_id), self.route


class Lease(NamedTuple):
    """That a message is somebody's from the start."""

    token: int
    until_ms: int


_NO_LEASES: Final[Mapping[str, Lease]] = {}


async def look(connection: Connection, entries: Sequence[Entry]) -> dict[QueueKey, Queue]:
    """Return the queues of these entries as they are without them."""
    return {
        key: await _queue(connection, key, [entry.lane for entry in members])
        for key, members in _by_queue(entries).items()
    }


async def enter(
    connection: Connection,
    entries: Sequence[Entry],
    queues: Mapping[QueueKey, Queue],
    leases: Mapping[str, Lease] = _NO_LEASES,
) -> None:
    """Put messages into their queues: leased where they have a lease by their id, and all others ready."""
    rows: list[tuple[Any, ...]] = [
        (shard_of(id_), id_, lease.until_ms, True, lease.token, route, lane.name, lane.level, None)
        for id_, route, lane, _ in entries
        if (lease := leases.get(id_))
    ]
    waiting = [entry for entry in entries if entry.message_id not in leases]
    for key, members in _by_queue(waiting).items():
        ranks = fair_order.ranks([entry.lane for entry in members], queues[key])
        rows += [
            (key[0], entry.message_id, entry.due_at_ms, False, 0, entry.route, entry.lane.name, entry.lane.level, rank)
            for entry, rank in zip(members, ranks, strict=True)
        ]
    await _ENTER.each(connection, rows)


async def promote(connection: Connection, shard: int, now_ms: int) -> None:
    """Make waiting messages ready whose time has come."""
    found = await _PROMOTED.rows(connection, shard, now_ms, PROMOTED_AT_ONCE)
    waiting = [
        Entry(message_id, route, Lane(name=lane, level=priority), due_at_ms)
        for message_id, route, lane, priority, due_at_ms in found
    ]
    for key, members in _by_queue(waiting).items():
        lanes = [entry.lane for entry in members]
        ranked = zip(members, fair_order.ranks(lanes, await _queue(connection, key, lanes)), strict=True)
        await _SET_RANK.each(connection, [(shard, entry.message_id, rank) for entry, rank in ranked])


async def take(connection: Connection, shard: int, route: str, limit: int) -> dict[str, int]:
    """Lock a route's ready messages whose turn it is, and that nobody else has locked; return their tokens by id."""
    return {row[0]: row[1] for row in await _TAKE.rows(connection, shard, route, limit)}


async def lock(connection: Connection, message_ids: Sequence[str]) -> dict[str, int]:
    """Lock the due rows of messages, as far as there are any; return their tokens by id.

    Whoever changes a message that may be in the queue locks here first, and all lock in the same order: due rows, then
    messages, each by id. So no two transactions wait for each other. A claim passes over what is locked.
    """
    found = await _LOCK.rows(connection, shards_of(message_ids), list(message_ids))
    return {row[0]: row[1] for row in found}


async def lock_leased(connection: Connection, message_ids: Sequence[str]) -> dict[str, int]:
    """Lock likewise, and return the tokens of those that are leased: not of one that waits for its next attempt."""
    found = await _LOCK.rows(connection, shards_of(message_ids), list(message_ids))
    return {id_: token for id_, token, is_leased in found if is_leased}


async def next_due_ms(database: Database, shard: int, routes: Sequence[str]) -> int | None:
    """Return when there is something to do for a shard: 0 for now, None for never."""
    ((ready, waiting),) = await database.look(_HEADS, shard, list(routes))
    return 0 if ready else cast("int | None", waiting)


async def adopt(connection: Connection, routes: Sequence[str], into: str, now_ms: int, limit: int) -> int:
    """Move at most `limit` ready rows of routes that are not among these, to be made ready in the queue of one."""
    moved: list[tuple[Any, ...]] = []
    for shard, route in await _QUEUES.rows(connection, list(range(SHARDS))):
        if route not in routes and len(moved) < limit:
            taken = await take(connection, shard, route, limit - len(moved))
            moved += [(shard, message_id, into, now_ms) for message_id in taken]
    await _MOVE.each(connection, moved)
    return len(moved)


def _by_queue(entries: Sequence[Entry]) -> dict[QueueKey, list[Entry]]:
    queues: dict[QueueKey, list[Entry]] = {}
    for entry in entries:
        queues.setdefault(entry.queue, []).append(entry)
    return queues


async def _queue(connection: Connection, key: QueueKey, lanes: Sequence[Lane]) -> Queue:
    ends = await _ENDS.rows(connection, *key, sorted({lane.name for lane in lanes}))
    _, _, *lowest = ends[0]
    return Queue(
        front=fair_order.front(tuple(lowest)),
        last={lane: rank for lane, rank, *_ in ends if rank is not None},
        is_empty=all(rank is None for rank in lowest),
    )
