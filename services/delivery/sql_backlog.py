"""What waits, counted in SQL: from the queues' own indexes, and never beyond a limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Label, ScalarSelect, Select, bindparam, func, literal, select

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from services.delivery.backlog import COUNTED_AT_MOST, MessageBacklog, WebhookBacklog
from services.delivery.tables import DUE
from services.delivery.webhook_tables import WEBHOOK_DUE, WEBHOOK_ENDPOINTS

# How many of a queue's first messages are looked at for the oldest.
FRONT: Final = 100

_READY: Final = DUE.c.rank.is_not(None)
_WAITING: Final = DUE.c.rank.is_(None)


class SqlBacklog:
    """Keeps the guarantees of `backlog.BacklogStore` on a `Database`."""

    def __init__(self, database: Database, *, shards: Sequence[int], routes: Sequence[str]) -> None:
        self._database = database
        self._shards = shards
        self._routes = routes

    async def messages(self, now: datetime) -> MessageBacklog:
        """Count the two kinds of due rows, and look at the heads of their indexes."""
        async with self._database.read() as connection:
            counted = (await connection.execute(_COUNT_MESSAGES)).one()
            oldest = await self._oldest_due_ms(connection, to_milliseconds(now))
        return MessageBacklog(
            ready=counted.ready,
            waiting=counted.not_ready - counted.in_hand,
            in_hand=counted.in_hand,
            oldest_due_at=None if oldest is None else from_milliseconds(oldest),
        )

    async def _oldest_due_ms(self, connection: Connection, now_ms: int) -> int | None:
        overdue = [_first_overdue(shard, now_ms) for shard in self._shards]
        found = list((await connection.execute(select(*overdue))).one())
        heads = select(*(_oldest_at_front(shard) for shard in self._shards))
        for route in self._routes:
            found += (await connection.execute(heads, {"at_route": route})).one()
        return min((moment for moment in found if moment is not None), default=None)

    async def webhooks(self) -> WebhookBacklog:
        """Count the rows of the queue and the endpoints that fail."""
        async with self._database.read() as connection:
            counted = (await connection.execute(_COUNT_WEBHOOKS)).one()
        return WebhookBacklog(pending=counted.pending, failing_endpoints=counted.failing)


def _first_overdue(shard: int, now_ms: int) -> Label[Any]:
    # Put off until a time that has come, and not made ready yet; or of a process that has lost its lease.
    query = select(func.min(DUE.c.due_at_ms)).where(DUE.c.shard == shard, _WAITING, DUE.c.due_at_ms <= now_ms)
    return _column(query, shard)


def _oldest_at_front(shard: int) -> Label[Any]:
    front = (
        select(DUE.c.due_at_ms)
        .where(DUE.c.shard == shard, DUE.c.route == bindparam("at_route"), _READY)
        .order_by(DUE.c.rank)
        .limit(FRONT)
        .subquery()
    )
    return _column(select(func.min(front.c.due_at_ms)), shard)


def _column(query: Select[Any], shard: int) -> Label[Any]:
    return query.scalar_subquery().label(f"shard_{shard}")


def _some(table: FromClause, where: ColumnElement[bool] | None = None, *columns: ColumnElement[Any]) -> FromClause:
    query = select(*(columns or (literal(1).label("one"),))).select_from(table).limit(COUNTED_AT_MOST)
    return (query if where is None else query.where(where)).subquery()


def _count(rows: FromClause) -> ScalarSelect[int]:
    return select(func.count()).select_from(rows).scalar_subquery()


def _count_messages() -> Select[int, int, int]:
    waiting = _some(DUE, _WAITING, DUE.c.claimed)
    return select(
        func.count().label("not_ready"),
        func.count().filter(waiting.c.claimed).label("in_hand"),
        _count(_some(DUE, _READY)).label("ready"),
    ).select_from(waiting)


_COUNT_MESSAGES: Final = _count_messages()
_COUNT_WEBHOOKS: Final = select(
    _count(_some(WEBHOOK_DUE)).label("pending"),
    _count(_some(WEBHOOK_ENDPOINTS, WEBHOOK_ENDPOINTS.c.failing_since_ms.is_not(None))).label("failing"),
)
