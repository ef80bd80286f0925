"""What PostgreSQL reads to give new messages their turns: a few rows, however long the queue and whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from servicekit import migrations
from servicekit.database import Database
from services.delivery import service, sql_queue

WAITING = 20_000
ROWS_AT_MOST = 4  # one for each lane that is asked for, and for each priority


def read_rows(plan: dict[str, Any]) -> Iterator[float]:
    """Yield how many rows each scan of a table looked at, whether it kept them or not."""
    if plan.get("Relation Name"):
        yield plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    for below in plan.get("Plans", ()):
        yield from read_rows(below)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("asked_for", ["wkh_0/normal", "wkh_new/high"])
async def test_looks_at_the_ends_of_a_long_queue_and_at_nothing_between(postgres_database, lanes, asked_for):
    database = Database.open(postgres_database)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)
    await database.close()
    statement, ordered = sql_queue._ENDS._compile(dialect())
    shard, route, *rest = ordered((0, "default", [asked_for]))
    values = [str(shard), f"'{route}'", *(f"'{{{each[0]}}}'" if isinstance(each, list) else str(each) for each in rest)]
    connection = await asyncpg.connect(postgres_database)
    try:
        await connection.execute(
            "INSERT INTO delivery_due (shard, message_id, due_at_ms, claimed, token, route, lane, priority, rank)"
            " SELECT 0, 'msg_' || n, n, false, 0, 'default', 'wkh_' || n % $1::int || '/normal', 1, n * 8"
            f" FROM generate_series(1, {WAITING}) n",
            lanes,
        )
        await connection.execute("ANALYZE delivery_due")
        # As it plans once it knows the statement, for whatever values may come.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE ends AS {statement}")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE ends ({', '.join(values)})")
    finally:
        await connection.close()

    assert sum(read_rows(json.loads(explained)[0]["Plan"])) <= ROWS_AT_MOST
