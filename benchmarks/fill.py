"""Fills a database with what a long life would leave in it, by copying what a load has just left there.

Only while no product runs on it: a SQLite file has one writer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, column, func, insert, select, text
from sqlalchemy import table as sql_table

from servicekit.connection import Connection
from servicekit.database import Database
from services.delivery.domain import Status
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES

# What is changed in a copy: four of an id's random characters (the last one is the shard), three digits of a number.
_ID_HEAD: Final = 19
_ID_CHANGED: Final = 4
_NUMBER_HEAD: Final = 5
_NUMBER_CHANGED: Final = 3
_FIRST_NUMBER: Final = 300
_PATIENCE_SECONDS: Final = 120.0
_ROWS_IN_TRANSACTION: Final = 20_000
_MOST_COPIES: Final = 10**_ID_CHANGED - 1
# A table of our own that names what is to be copied, so that copies are not copied.
_ORIGINALS: Final = sql_table("bench_originals", column("shard"), column("id"))


def finished(url: str, wanted: int) -> int:
    """Copy messages that the carrier took, with their attempts, until there are so many; return how many there are."""
    return asyncio.run(_multiply(url, wanted, Status.SENT, [MESSAGES, ATTEMPTS]))


def queued(url: str, wanted: int) -> int:
    """Copy messages that wait for their first attempt until there are so many; return how many there are."""
    return asyncio.run(_multiply(url, wanted, Status.QUEUED, [MESSAGES, DUE]))


async def _multiply(url: str, wanted: int, status: Status, tables: Sequence[Table]) -> int:
    async with Database.open(url) as database:
        async with database.write(patience_seconds=_PATIENCE_SECONDS) as connection:
            originals = await _mark_originals(connection, status)
        copies = min(math.ceil(wanted / max(originals, 1)) - 1, _MOST_COPIES)
        together = max(1, _ROWS_IN_TRANSACTION // max(originals, 1))
        for first in range(1, copies + 1, together):
            async with database.write(patience_seconds=_PATIENCE_SECONDS) as connection:
                for copy in range(first, min(first + together, copies + 1)):
                    for table in tables:
                        await _copy(connection, table, copy)
        async with database.write(patience_seconds=_PATIENCE_SECONDS) as connection:
            await connection.execute(text("DROP TABLE bench_originals"))
            await connection.execute(text("ANALYZE"))
        return originals * (copies + 1)


async def _mark_originals(connection: Connection, status: Status) -> int:
    """Note what is to be copied; return how much it is."""
    await connection.execute(text("DROP TABLE IF EXISTS bench_originals"))
    ready = "AND id IN (SELECT message_id FROM delivery_due WHERE rank IS NOT NULL)" if status is Status.QUEUED else ""
    chosen = f"SELECT shard, id FROM delivery_messages WHERE status = '{status.value}' {ready}"
    await connection.execute(text(f"CREATE TABLE bench_originals AS {chosen}"))
    return int(await connection.scalar(text("SELECT count(*) FROM bench_originals")) or 0)


async def _copy(connection: Connection, table: Table, copy: int) -> None:
    id_column = table.c["id"] if "id" in table.c else table.c["message_id"]
    changed: dict[str, ColumnElement[Any]] = {
        id_column.name: _replaced(id_column, _ID_HEAD, _ID_CHANGED, f"{copy:0{_ID_CHANGED}d}")
    }
    if "recipient" in table.c:
        digits = str(_FIRST_NUMBER + copy % (1000 - _FIRST_NUMBER))
        changed["recipient"] = _replaced(table.c["recipient"], _NUMBER_HEAD, _NUMBER_CHANGED, digits)
    if "carrier_message_id" in table.c:
        given = table.c["carrier_message_id"]
        changed["carrier_message_id"] = func.coalesce(func.nullif(given, "") + f"-{copy}", "")
    if "rank" in table.c:
        # Behind all that is there.
        span = select(func.max(DUE.c.rank) - func.min(DUE.c.rank) + 1).scalar_subquery()
        changed["rank"] = table.c["rank"] + span
    values = [changed.get(column.name, column) for column in table.c]
    # By the whole key, or each copy would read all copies before it.
    is_original = and_(table.c["shard"] == _ORIGINALS.c.shard, id_column == _ORIGINALS.c.id)
    # One in a million has these very characters, and would be copied onto itself.
    is_another = id_column != changed[id_column.name]
    chosen = select(*values).select_from(_ORIGINALS).join(table, and_(is_original, is_another))
    await connection.execute(insert(table).from_select([*table.c], chosen))


def _replaced(column: ColumnElement[Any], head: int, length: int, by: str) -> ColumnElement[Any]:
    return func.substr(column, 1, head) + by + func.substr(column, head + length + 1)
