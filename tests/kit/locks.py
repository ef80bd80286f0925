"""Sees on PostgreSQL who waits for whom."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text

from servicekit.database import Database

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
