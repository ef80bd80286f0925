"""The due-queue of webhooks in SQL: entering it, becoming ready in it, and going back into it.

Each endpoint has a line of deliveries, and the endpoints whose line is not empty take turns. Whoever moves an
endpoint's line holds the lock of its row, and all lock in one order: endpoints by name, then deliveries by id. A claim
waits for nobody: it passes over what is locked. Entering takes no lock at all, so that the transaction of a message
never waits for a webhook.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import (
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    update,
)

from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import HotStatement, insert_for, inserting_new, one_of
from services.delivery import webhook_rows
from services.delivery.webhook_tables import WEBHOOK_DUE as DUE
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS
from services.delivery.webhook_tables import WEBHOOKS
from services.delivery.webhooks import WebhookDelivery

PROMOTED_AT_ONCE: Final = 500

_READY: Final = DUE.c.ready_at_ms.is_not(None)
_WAITING: Final = DUE.c.ready_at_ms.is_(None)
_THESE: Final = one_of(DUE.c.delivery_id, "ids")

_FIRST_IN_TURN: Final = (
    select(ENDPOINTS.c.turn_at_ms).where(ENDPOINTS.c.turn_at_ms.is_not(None)).order_by(ENDPOINTS.c.turn_at_ms).limit(1)
)
_FIRST_WAITING: Final = tuple(
    select(func.min(DUE.c.due_at_ms)).where(_WAITING, DUE.c.tried.is_(was_tried)) for was_tried in (False, True)
)
_FIRST: Final = HotStatement(select(*(each.scalar_subquery() for each in (_FIRST_IN_TURN, *_FIRST_WAITING))), ())

_KNOWN: Final = HotStatement(select(WEBHOOKS.c.id).where(one_of(WEBHOOKS.c.id, "ids")), ("ids",))
_STORE: Final = inserting_new(WEBHOOKS)
_ENTER: Final = inserting_new(DUE)
_WITHOUT_SORTING: Final = HotStatement(select(func.set_config("enable_bitmapscan", "off", true())), ())
_COME: Final = tuple(
    HotStatement(
        select(DUE.c.delivery_id, DUE.c.endpoint, DUE.c.tenant_id)
        .where(_WAITING, DUE.c.tried.is_(was_tried), DUE.c.due_at_ms <= bindparam("now_ms"))
        # Both, or PostgreSQL does not see that the index has them in this order.
        .order_by(DUE.c.tried, DUE.c.due_at_ms)
        .limit(bindparam("most")),
        ("now_ms", "most"),
    )
    for was_tried in (False, True)
)
_LOCK_THESE: Final = HotStatement(
    select(DUE.c.delivery_id, DUE.c.due_at_ms, DUE.c.ready_at_ms)
    .where(_THESE)
    .order_by(DUE.c.delivery_id)
    .with_for_update(skip_locked=True),
    ("ids",),
)
_PROMOTE: Final = HotStatement(
    update(DUE).where(_THESE).values(ready_at_ms=bindparam("to_ready_at_ms"), leased_at_ms=None),
    ("ids", "to_ready_at_ms"),
)
_LEASE: Final = HotStatement(
    update(DUE)
    .where(_THESE)
    .values(
        ready_at_ms=None,
        leased_at_ms=bindparam("to_leased_at_ms"),
        due_at_ms=bindparam("to_due_at_ms"),
        tried=True,
        token=DUE.c.token + 1,
    ),
    ("ids", "to_leased_at_ms", "to_due_at_ms"),
)
_LOCK_LEASED: Final = HotStatement(
    select(DUE.c.delivery_id, DUE.c.token)
    .where(_THESE, DUE.c.leased_at_ms.is_not(None))
    .order_by(DUE.c.delivery_id)
    .with_for_update(),
    ("ids",),
)
_LEAVE: Final = HotStatement(delete(DUE).where(_THESE), ("ids",))
_GIVE_UP_PLACES: Final = HotStatement(delete(DUE).where(_THESE).returning(DUE.c.endpoint), ("ids",))
_WAIT_AGAIN: Final = HotStatement(
    update(DUE)
    .where(DUE.c.delivery_id == bindparam("at_id"))
    .values(due_at_ms=bindparam("to_due_at_ms"), leased_at_ms=None),
    ("at_id", "to_due_at_ms"),
)
_NEW_ENDPOINT: Final = inserting_new(ENDPOINTS)
_LOCK_ENDPOINTS: Final = tuple(
    HotStatement(
        select(ENDPOINTS.c.endpoint)
        .where(one_of(ENDPOINTS.c.endpoint, "endpoints"))
        .order_by(ENDPOINTS.c.endpoint)
        .with_for_update(skip_locked=skip_locked),
        ("endpoints",),
    )
    for skip_locked in (False, True)
)
_GIVE_TURNS: Final = HotStatement(
    update(ENDPOINTS)
    .where(
        one_of(ENDPOINTS.c.endpoint, "endpoints"),
        ENDPOINTS.c.turn_at_ms.is_(None),
        exists().where(DUE.c.endpoint == ENDPOINTS.c.endpoint, _READY),
    )
    .values(turn_at_ms=bindparam("to_turn_at_ms")),
    ("endpoints", "to_turn_at_ms"),
)


async def enter(connection: Connection, deliveries: Sequence[WebhookDelivery]) -> int:
    """Store deliveries in the caller's transaction, due at their `next_at`; return how many were new.

    A delivery whose id is known changes nothing, so that an event which is told twice is delivered once.
    """
    if not deliveries:
        return 0
    by_id = {each.id: each for each in deliveries}
    for (known,) in await _KNOWN.rows(connection, list(by_id)):
        del by_id[known]
    # Both leave alone what somebody else has stored since, whose event it is too.
    await _STORE.each(connection, [webhook_rows.new_delivery(each) for each in by_id.values()])
    await _ENTER.each(connection, [webhook_rows.new_due(each) for each in by_id.values()])
    return len(by_id)


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
    again = insert_for(connection.dialect.name, DUE)
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
        await _WITHOUT_SORTING.rows(connection)
    new, tried = [await come.rows(connection, now_ms, PROMOTED_AT_ONCE) for come in _COME]
    waiting = [*new, *tried][:PROMOTED_AT_ONCE]
    if not waiting:
        return False
    held = await lock_endpoints(connection, {endpoint: tenant for _, endpoint, tenant in waiting}, skip_locked=True)
    # Looked at again, because they were read without a lock: somebody else may have promoted or renewed them.
    locked = await _LOCK_THESE.rows(connection, [id_ for id_, endpoint, _ in waiting if endpoint in held])
    ids = [id_ for id_, due_at_ms, ready_at_ms in locked if ready_at_ms is None and due_at_ms <= now_ms]
    if ids:
        await _PROMOTE.rows(connection, ids, now_ms)
        promoted = set(ids)
        await give_turns(connection, {endpoint for id_, endpoint, _ in waiting if id_ in promoted}, now_ms)
    return len(ids) == PROMOTED_AT_ONCE


async def lease(connection: Connection, ids: Sequence[str], now_ms: int, lease_until_ms: int) -> None:
    """Lease chosen deliveries under a new token each."""
    await _LEASE.rows(connection, list(ids), now_ms, lease_until_ms)


async def lock(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Lock the leased among these deliveries; return their tokens by id."""
    return dict(await _LOCK_LEASED.rows(connection, list(ids)))


async def lock_endpoints(connection: Connection, tenants: Mapping[str, str], *, skip_locked: bool = False) -> set[str]:
    """Lock endpoints, each given with its tenant, and make rows for new ones; return those that are locked."""
    names = sorted(tenants)
    await _NEW_ENDPOINT.each(connection, [(name, tenants[name], None, None, None, None) for name in names])
    return {name for (name,) in await _LOCK_ENDPOINTS[skip_locked].rows(connection, names)}


async def give_turns(connection: Connection, endpoints: Iterable[str], now_ms: int) -> None:
    """Let endpoints take turns whose line is not empty; one that has its turn already keeps it."""
    await _GIVE_TURNS.rows(connection, sorted(endpoints), now_ms)


async def leave(connection: Connection, ids: Sequence[str]) -> None:
    """Take deliveries out of the queue."""
    await _LEAVE.rows(connection, list(ids))


async def give_up_places(connection: Connection, ids: Sequence[str], now_ms: int) -> None:
    """Take chosen deliveries out of the queue, and give their endpoints the turns back that these had taken."""
    endpoints = {endpoint for (endpoint,) in await _GIVE_UP_PLACES.rows(connection, list(ids))}
    await give_turns(connection, endpoints, now_ms)


async def wait_again(connection: Connection, due_at_ms: Mapping[str, int]) -> None:
    """Let deliveries wait for their next attempt; their leases end."""
    await _WAIT_AGAIN.each(connection, list(due_at_ms.items()))


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
