"""Sees on PostgreSQL who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sqlalchemy import text

from servicekit.database import Database
from servicekit.errors import UnavailableError

Result = TypeVar("Result")

WITHIN_SECONDS: Final = 30
_WAITING: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND wait_event_type = 'Lock' AND query ILIKE :running"
)


async def until_somebody_waits(database: Database, running: str = "") -> None:
    """Return when a statement, which has `running` in it, waits for a lock that another transaction holds."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            async with database.read() as connection:
                if (await connection.execute(_WAITING, {"running": f"%{running}%"})).scalar_one():
                    return
            await asyncio.sleep(0.01)


async def until_available(call: Callable[..., Awaitable[Result]], *given: object, **named: object) -> Result:
    """Call until the database has the time: a slow machine makes locks last, and only a circle of them is wrong."""
    while True:
        with contextlib.suppress(UnavailableError):
            return await call(*given, **named)


async def circles(database: Database) -> int:
    """How many the server broke. It looks for one only after a lock was waited for longer than `deadlock_timeout`."""
    # A connection tells what it has counted when it ends.
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(WITHIN_SECONDS):
        while await _number(database, others):
            await asyncio.sleep(0.05)
    return await _number(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


async def _number(database: Database, statement: str) -> int:
    async with database.read() as connection:
        return int((await connection.execute(text(statement))).scalar_one())
