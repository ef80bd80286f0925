"""The due-queue of webhooks in SQL: entering it, taking turns in it, and going back into it.

Each endpoint has a line of deliveries, and the endpoints whose line is not empty take turns. Whoever moves an
endpoint's line holds the lock of its row, and all lock in one order: endpoints by name, then deliveries by id. A claim
waits for nobody: it passes over what is locked. Entering takes no lock at all, so that the transaction of a message
never waits for a webhook.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Select,
    Text,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import HotStatement
from services.delivery import webhook_rows
from services.delivery.sql_statements import insert_ignoring
from services.delivery.webhook_store import Limits
from services.delivery.webhook_tables import WEBHOOK_DUE as DUE
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS
from services.delivery.webhook_tables import WEBHOOKS
from services.delivery.webhooks import WebhookDelivery

PROMOTED_AT_ONCE: Final = 500
_LINES_AT_ONCE: Final = 10
# The first half of the advisory locks that say whose tenant's webhooks are being claimed.
_TENANT_LOCKS: Final = 0x7765_6268

_READY: Final = DUE.c.ready_at_ms.is_not(None)
_WAITING: Final = DUE.c.ready_at_ms.is_(None)
_WITHOUT_SORTING: Final = select(func.set_config("enable_bitmapscan", "off", true()))


def _line(place: int) -> Select[tuple[str, str, int]]:
    head = (
        select(DUE.c.endpoint, DUE.c.delivery_id, DUE.c.token)
        .where(DUE.c.endpoint == bindparam(f"line_{place}"), _READY)
        .order_by(DUE.c.endpoint, DUE.c.delivery_id)
        .limit(bindparam("heads"))
        .subquery(f"head_{place}")
    )
    return select(head.c.endpoint, head.c.delivery_id, head.c.token)


# Several lines in one query, and of each no more rows than are asked for: a join would read the lines whole.
_HEADS: Final = union_all(*(_line(place) for place in range(_LINES_AT_ONCE)))

_FIRST_IN_TURN: Final = (
    select(ENDPOINTS.c.turn_at_ms).where(ENDPOINTS.c.turn_at_ms.is_not(None)).order_by(ENDPOINTS.c.turn_at_ms).limit(1)
)
_FIRST_WAITING: Final = tuple(
    select(func.min(DUE.c.due_at_ms)).where(_WAITING, DUE.c.tried.is_(was_tried)) for was_tried in (False, True)
)
_FIRST: Final = HotStatement(select(*(each.scalar_subquery() for each in (_FIRST_IN_TURN, *_FIRST_WAITING))), ())


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """An endpoint whose turn it is."""

    tenant_id: str
    is_failing: bool  # its last call has failed

    def at_most(self, limits: Limits) -> int:
        return limits.per_failing_endpoint if self.is_failing else limits.per_endpoint


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A delivery at the head of its endpoint's line."""

    delivery_id: str
    token: int


async def enter(connection: Connection, deliveries: Sequence[WebhookDelivery]) -> int:
    """Store deliveries in the caller's transaction, due at their `next_at`; return how many were new.

    A delivery whose id is known changes nothing, so that an event which is told twice is delivered once.
    """
    if not deliveries:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    stored = await connection.scalars(
        dialect.insert(WEBHOOKS).on_conflict_do_nothing().returning(WEBHOOKS.c.id),
        [webhook_rows.new_delivery(each) for each in deliveries],
    )
    new = set(stored)
    entries = {each.id: webhook_rows.new_due(each) for each in deliveries if each.id in new}
    if entries:
        await connection.execute(insert(DUE), list(entries.values()))
    return len(entries)


async def enter_again(connection: Connection, deliveries: Sequence[tuple[str, str, str]], now_ms: int) -> None:
    """Put finished or waiting deliveries into their lines: each an id, its endpoint and its tenant.

    They are ready at once, and so do not stand in the way of what only becomes due. The caller holds their endpoints.
    """
    rows = [
        {
            "delivery_id": delivery_id,
            "endpoint": endpoint,
            "tenant_id": tenant_id,
            "due_at_ms": now_ms,
            "tried": True,
            "ready_at_ms": now_ms,
            "leased_at_ms": None,
            # Higher than any of before, so that a lease from before the replay is not taken for one of after it.
            "token": now_ms,
        }
        for delivery_id, endpoint, tenant_id in deliveries
    ]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    again = dialect.insert(DUE)
    await connection.execute(
        again.on_conflict_do_update(
            index_elements=[DUE.c.delivery_id],
            set_={"due_at_ms": again.excluded.due_at_ms, "ready_at_ms": again.excluded.ready_at_ms},
        ),
        rows,
    )
    await give_turns(connection, {endpoint for _, endpoint, _ in deliveries}, now_ms)


async def promote(connection: Connection, now_ms: int) -> bool:
    """Put deliveries into the lines of their endpoints whose time has come; tell whether there are more of them.

    First those that were never tried, so that no number of retries delays an event that has just happened.
    """
    if connection.dialect.name == "postgresql":
        # With the statistics of an empty queue it sorts all that is due, for the first few of it.
        await connection.execute(_WITHOUT_SORTING)
    new, tried = [
        await connection.execute(
            select(DUE.c.delivery_id, DUE.c.endpoint, DUE.c.tenant_id)
            .where(_WAITING, DUE.c.tried.is_(was_tried), DUE.c.due_at_ms <= now_ms)
            # Both, or PostgreSQL does not see that the index has them in this order.
            .order_by(DUE.c.tried, DUE.c.due_at_ms)
            .limit(PROMOTED_AT_ONCE)
        )
        for was_tried in (False, True)
    ]
    waiting = [*new, *tried][:PROMOTED_AT_ONCE]
    if not waiting:
        return False
    held = await lock_endpoints(connection, {row.endpoint: row.tenant_id for row in waiting}, skip_locked=True)
    # Looked at again, because they were read without a lock: somebody else may have promoted or renewed them.
    locked = await connection.execute(
        select(DUE.c.delivery_id, DUE.c.due_at_ms, DUE.c.ready_at_ms)
        .where(DUE.c.delivery_id.in_([row.delivery_id for row in waiting if row.endpoint in held]))
        .order_by(DUE.c.delivery_id)
        .with_for_update(skip_locked=True)
    )
    ids = [row.delivery_id for row in locked if row.ready_at_ms is None and row.due_at_ms <= now_ms]
    if ids:
        await connection.execute(
            update(DUE).where(DUE.c.delivery_id.in_(ids)).values(ready_at_ms=now_ms, leased_at_ms=None)
        )
        promoted = set(ids)
        await give_turns(connection, {row.endpoint for row in waiting if row.delivery_id in promoted}, now_ms)
    return len(ids) == PROMOTED_AT_ONCE


async def take(connection: Connection, limits: Limits, now_ms: int) -> dict[str, int]:
    """Lock the endpoints whose turn it is and choose from their lines; return the tokens of the chosen by id."""
    turns = await _turns(connection, limits, now_ms)
    if not turns:
        return {}
    leased = await _leased(connection, now_ms)
    by_tenant: Counter[str] = Counter()
    for (tenant_id, _), count in leased.items():
        by_tenant[tenant_id] += count
    heads = await _heads(connection, list(turns), limits.per_endpoint)
    chosen: dict[str, int] = {}
    served: list[str] = []
    without_turn: list[str] = []
    for endpoint, turn in turns.items():
        line = heads.get(endpoint, [])
        room_there = turn.at_most(limits) - leased.get((turn.tenant_id, endpoint), 0)
        room = min(room_there, limits.per_tenant - by_tenant[turn.tenant_id], limits.in_all - len(chosen))
        taken = line[: max(0, room)]
        chosen.update((head.delivery_id, head.token) for head in taken)
        by_tenant[turn.tenant_id] += len(taken)
        if len(taken) == len(line) or len(taken) == max(0, room_there):
            # Nothing is left, or no room: its next turn comes with its next delivery, or with the next that ends.
            without_turn.append(endpoint)
        elif taken:
            served.append(endpoint)
    await _set_turns(connection, without_turn, None)
    await _set_turns(connection, served, now_ms)
    return chosen


async def lease(connection: Connection, ids: Sequence[str], now_ms: int, lease_until_ms: int) -> None:
    """Lease chosen deliveries under a new token each."""
    await connection.execute(
        update(DUE)
        .where(DUE.c.delivery_id.in_(ids))
        .values(ready_at_ms=None, leased_at_ms=now_ms, due_at_ms=lease_until_ms, tried=True, token=DUE.c.token + 1)
    )


async def lock(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Lock the leased among these deliveries; return their tokens by id."""
    found = await connection.execute(
        select(DUE.c.delivery_id, DUE.c.token)
        .where(DUE.c.delivery_id.in_(list(ids)), DUE.c.leased_at_ms.is_not(None))
        .order_by(DUE.c.delivery_id)
        .with_for_update()
    )
    return {row.delivery_id: row.token for row in found}


async def lock_endpoints(connection: Connection, tenants: Mapping[str, str], *, skip_locked: bool = False) -> set[str]:
    """Lock endpoints, each given with its tenant, and make rows for new ones; return those that are locked."""
    names = sorted(tenants)
    await connection.execute(
        insert_ignoring(connection, ENDPOINTS), [{"endpoint": name, "tenant_id": tenants[name]} for name in names]
    )
    found = await connection.scalars(
        select(ENDPOINTS.c.endpoint)
        .where(ENDPOINTS.c.endpoint.in_(names))
        .order_by(ENDPOINTS.c.endpoint)
        .with_for_update(skip_locked=skip_locked)
    )
    return set(found)


async def give_turns(connection: Connection, endpoints: Iterable[str], now_ms: int) -> None:
    """Let endpoints take turns whose line is not empty; one that has its turn already keeps it."""
    await connection.execute(
        update(ENDPOINTS)
        .where(
            ENDPOINTS.c.endpoint.in_(sorted(endpoints)),
            ENDPOINTS.c.turn_at_ms.is_(None),
            exists().where(DUE.c.endpoint == ENDPOINTS.c.endpoint, _READY),
        )
        .values(turn_at_ms=now_ms)
    )


async def leave(connection: Connection, ids: Sequence[str]) -> None:
    """Take deliveries out of the queue."""
    await connection.execute(delete(DUE).where(DUE.c.delivery_id.in_(ids)))


async def wait_again(connection: Connection, due_at_ms: Mapping[str, int]) -> None:
    """Let deliveries wait for their next attempt; their leases end."""
    await connection.execute(
        update(DUE)
        .where(DUE.c.delivery_id == bindparam("at_id"))
        .values(due_at_ms=bindparam("to_due_at_ms"), leased_at_ms=None),
        [{"at_id": delivery_id, "to_due_at_ms": moment} for delivery_id, moment in due_at_ms.items()],
    )


async def take_out(connection: Connection, endpoint: str, limit: int) -> list[str]:
    """Take at most `limit` deliveries of an endpoint out of the queue that are not leased; return their ids."""
    ids: list[str] = []
    for state in (_READY, _WAITING):
        found = await connection.scalars(
            select(DUE.c.delivery_id)
            .where(DUE.c.endpoint == endpoint, state, DUE.c.leased_at_ms.is_(None))
            .order_by(DUE.c.delivery_id)
            .limit(limit - len(ids))
            .with_for_update()
        )
        ids += found
    if ids:
        await leave(connection, ids)
    return ids


async def next_due_ms(database: Database) -> int | None:
    """Return when there is something to do: 0 for now, None for never."""
    ((in_turn, *heads),) = await database.look(_FIRST)
    return 0 if in_turn is not None else min((head for head in heads if head is not None), default=None)


async def remove_idle_endpoints(connection: Connection, before_ms: int, limit: int) -> None:
    """Delete endpoints that nothing waits for and that have not failed since a time."""
    idle = (
        select(ENDPOINTS.c.endpoint)
        .where(
            ENDPOINTS.c.turn_at_ms.is_(None),
            or_(ENDPOINTS.c.failed_at_ms.is_(None), ENDPOINTS.c.failed_at_ms < before_ms),
            ~exists().where(DUE.c.endpoint == ENDPOINTS.c.endpoint, _READY),
            ~exists().where(DUE.c.endpoint == ENDPOINTS.c.endpoint, _WAITING),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    names = (await connection.scalars(idle)).all()
    if names:
        await connection.execute(delete(ENDPOINTS).where(ENDPOINTS.c.endpoint.in_(names)))


async def _turns(connection: Connection, limits: Limits, now_ms: int) -> dict[str, _Turn]:
    """Return the endpoints whose turn it is, in turn, locked."""
    full = (
        select(DUE.c.tenant_id)
        .where(DUE.c.leased_at_ms.is_not(None), DUE.c.due_at_ms > now_ms)
        .group_by(DUE.c.tenant_id)
        .having(func.count() >= limits.per_tenant)
    )
    found = await connection.execute(
        select(ENDPOINTS.c.endpoint, ENDPOINTS.c.tenant_id, ENDPOINTS.c.failing_since_ms)
        .where(ENDPOINTS.c.turn_at_ms.is_not(None), ENDPOINTS.c.tenant_id.not_in(full))
        .order_by(ENDPOINTS.c.turn_at_ms, ENDPOINTS.c.endpoint)
        .limit(limits.in_all)
        .with_for_update(skip_locked=True)
    )
    turns = {row.endpoint: _Turn(tenant_id=row.tenant_id, is_failing=row.failing_since_ms is not None) for row in found}
    if turns and connection.dialect.name == "postgresql":
        # Two claims at once would each find the other's room. A tenant that is being claimed for is passed over.
        ours = await _lock_tenants(connection, {turn.tenant_id for turn in turns.values()})
        return {endpoint: turn for endpoint, turn in turns.items() if turn.tenant_id in ours}
    return turns


async def _lock_tenants(connection: Connection, tenant_ids: set[str]) -> set[str]:
    given: Any = func.unnest(bindparam("tenants", sorted(tenant_ids), type_=ARRAY(Text))).column_valued("tenant_id")
    locked = func.pg_try_advisory_xact_lock(_TENANT_LOCKS, func.hashtext(given))
    found = await connection.execute(select(given.label("tenant_id"), locked.label("ours")))
    return {row.tenant_id for row in found if row.ours}


async def _leased(connection: Connection, now_ms: int) -> dict[tuple[str, str], int]:
    found = await connection.execute(
        select(DUE.c.tenant_id, DUE.c.endpoint, func.count().label("leased"))
        .where(DUE.c.leased_at_ms.is_not(None), DUE.c.due_at_ms > now_ms)
        .group_by(DUE.c.tenant_id, DUE.c.endpoint)
    )
    return {(row.tenant_id, row.endpoint): row.leased for row in found}


async def _heads(connection: Connection, endpoints: Sequence[str], count: int) -> dict[str, list[_Head]]:
    """Return the first of each line and one more, which tells whether the line goes on."""
    heads: defaultdict[str, list[_Head]] = defaultdict(list)
    for first in range(0, len(endpoints), _LINES_AT_ONCE):
        names = endpoints[first : first + _LINES_AT_ONCE]
        parameters: dict[str, object] = {f"line_{place}": name for place, name in enumerate(names)}
        unused = {f"line_{place}": "" for place in range(len(names), _LINES_AT_ONCE)}
        found = await connection.execute(_HEADS, {**parameters, **unused, "heads": count + 1})
        for row in found:
            heads[row.endpoint].append(_Head(delivery_id=row.delivery_id, token=row.token))
    return heads


async def _set_turns(connection: Connection, endpoints: Sequence[str], turn_at_ms: int | None) -> None:
    if endpoints:
        await connection.execute(
            update(ENDPOINTS).where(ENDPOINTS.c.endpoint.in_(endpoints)).values(turn_at_ms=turn_at_ms)
        )
