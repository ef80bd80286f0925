"""Holding everything that waits, in SQL: for a queue that may name messages which have long been sent."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from typing import Final

from sqlalchemy import select

from servicekit.clock import to_milliseconds
from servicekit.database import Database
from services.delivery import sql_ledger
from services.delivery.domain import Status
from services.delivery.store import Finish
from services.delivery.tables import DUE

HELD_AT_ONCE: Final = 500
_OLDEST: Final = (
    select(DUE.c.shard, DUE.c.message_id).order_by(DUE.c.shard, DUE.c.message_id).limit(HELD_AT_ONCE).with_for_update()
)
_HELD: Final = Finish(status=Status.UNKNOWN, failure=None)


async def hold_queue(database: Database, now: datetime) -> int:
    """Make every message `unknown` that waits or is being sent, and take it out of the queue; return how many.

    Attempts that are open are closed as unknown. Each batch is a transaction: cut off, it goes on where it was.
    """
    held = 0
    while batch := await _hold_some(database, to_milliseconds(now)):
        held += batch
    return held


async def _hold_some(database: Database, now_ms: int) -> int:
    async with database.write() as connection:
        found = [(row.shard, row.message_id) for row in await connection.execute(_OLDEST)]
        for shard, rows in groupby(found, key=lambda row: row[0]):
            due = await sql_ledger.due_messages(connection, shard, [message_id for _, message_id in rows])
            await sql_ledger.close_lost(connection, due, now_ms)
            await sql_ledger.settle_without_attempt(connection, [(entry, _HELD) for entry in due], now_ms)
    return len(found)
