"""Whose turn it is to have webhooks called: endpoints in turn, and of each no more than there is room for, in SQL.

The caller's transaction holds what is chosen here; see `sql_webhook_queue` for the lines that it is taken from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Executable, Select, Text, bindparam, func, select, union_all, update

from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, listed, one_of
from services.delivery.webhook_store import Limits
from services.delivery.webhook_tables import WEBHOOK_DUE as DUE
from services.delivery.webhook_tables import WEBHOOK_ENDPOINTS as ENDPOINTS

_LINES_AT_ONCE: Final = 10
# The first half of the advisory locks that say whose tenant's webhooks are being claimed.
_TENANT_LOCKS: Final = 0x7765_6268

_UNDER_LEASE: Final = (DUE.c.leased_at_ms.is_not(None), DUE.c.due_at_ms > bindparam("now_ms"))


def _line(place: int) -> Select[tuple[str, str, int]]:
    head = (
        select(DUE.c.endpoint, DUE.c.delivery_id, DUE.c.token)
        .where(DUE.c.endpoint == bindparam(f"line_{place}"), DUE.c.ready_at_ms.is_not(None))
        .order_by(DUE.c.endpoint, DUE.c.delivery_id)
        .limit(bindparam("heads"))
        .subquery(f"head_{place}")
    )
    return select(head.c.endpoint, head.c.delivery_id, head.c.token)


# Several lines in one query, and of each no more rows than are asked for: a join would read the lines whole.
_HEADS: Final = HotStatement(
    union_all(*(_line(place) for place in range(_LINES_AT_ONCE))),
    (*(f"line_{place}" for place in range(_LINES_AT_ONCE)), "heads"),
)

_LEASED: Final = HotStatement(
    select(DUE.c.tenant_id, DUE.c.endpoint, func.count())
    .where(*_UNDER_LEASE)
    .group_by(DUE.c.tenant_id, DUE.c.endpoint),
    ("now_ms",),
)
_SET_TURNS: Final = HotStatement(
    update(ENDPOINTS).where(one_of(ENDPOINTS.c.endpoint, "endpoints")).values(turn_at_ms=bindparam("to_turn_at_ms")),
    ("endpoints", "to_turn_at_ms"),
)
_FULL_TENANTS: Final = (
    select(DUE.c.tenant_id)
    .where(*_UNDER_LEASE)
    .group_by(DUE.c.tenant_id)
    .having(func.count() >= bindparam("per_tenant"))
)
_IN_TURN: Final = HotStatement(
    select(ENDPOINTS.c.endpoint, ENDPOINTS.c.tenant_id, ENDPOINTS.c.failing_since_ms)
    .where(ENDPOINTS.c.turn_at_ms.is_not(None), ENDPOINTS.c.tenant_id.not_in(_FULL_TENANTS))
    .order_by(ENDPOINTS.c.turn_at_ms, ENDPOINTS.c.endpoint)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True),
    ("now_ms", "per_tenant", "most"),
)


def _tenants_locked(engine: str) -> Executable:
    tenants = listed(engine, "tenants", Text())
    return select(
        tenants.c.value, func.pg_try_advisory_xact_lock(_TENANT_LOCKS, func.hashtext(tenants.c.value))
    ).select_from(tenants)


_LOCK_TENANTS: Final = HotStatement(_tenants_locked, ("tenants",))


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


async def _turns(connection: Connection, limits: Limits, now_ms: int) -> dict[str, _Turn]:
    """Return the endpoints whose turn it is, in turn, locked."""
    found = await _IN_TURN.rows(connection, now_ms, limits.per_tenant, limits.in_all)
    turns = {
        endpoint: _Turn(tenant_id=tenant_id, is_failing=failing_since_ms is not None)
        for endpoint, tenant_id, failing_since_ms in found
    }
    if turns and connection.dialect.name == "postgresql":
        # Two claims at once would each find the other's room. A tenant that is being claimed for is passed over.
        tenants = sorted({turn.tenant_id for turn in turns.values()})
        ours = {tenant_id for tenant_id, is_ours in await _LOCK_TENANTS.rows(connection, tenants) if is_ours}
        return {endpoint: turn for endpoint, turn in turns.items() if turn.tenant_id in ours}
    return turns


async def _leased(connection: Connection, now_ms: int) -> dict[tuple[str, str], int]:
    found = await _LEASED.rows(connection, now_ms)
    return {(tenant_id, endpoint): leased for tenant_id, endpoint, leased in found}


async def _heads(connection: Connection, endpoints: Sequence[str], count: int) -> dict[str, list[_Head]]:
    """Return the first of each line and one more, which tells whether the line goes on."""
    heads: defaultdict[str, list[_Head]] = defaultdict(list)
    for first in range(0, len(endpoints), _LINES_AT_ONCE):
        names = endpoints[first : first + _LINES_AT_ONCE]
        unused = [""] * (_LINES_AT_ONCE - len(names))
        for endpoint, delivery_id, token in await _HEADS.rows(connection, *names, *unused, count + 1):
            heads[endpoint].append(_Head(delivery_id=delivery_id, token=token))
    return heads


async def _set_turns(connection: Connection, endpoints: Sequence[str], turn_at_ms: int | None) -> None:
    if endpoints:
        await _SET_TURNS.rows(connection, list(endpoints), turn_at_ms)
