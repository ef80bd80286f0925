"""What PostgreSQL reads to give new messages their turns: a few rows, however long the queue and whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from servicekit.hot_statements import HotStatement
from services.delivery import sql_queue

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
    read = await rows_read_by(postgres_database, sql_queue._ENDS, (0, "default", [asked_for]), lanes=lanes)

    assert read <= ROWS_AT_MOST


async def test_finds_the_queues_that_there_are_by_their_first_rows(postgres_database):
    read = await rows_read_by(postgres_database, sql_queue._QUEUES, ([0, 1],))

    assert read == 1


async def rows_read_by(url: str, hot: HotStatement, given: tuple[Any, ...], *, lanes: int = 1) -> float:
    """Return how many rows a statement looks at beside a long queue of one route, with so many lanes."""
    statement, ordered = hot._compile(dialect())
    connection = await asyncpg.connect(url)
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
        await connection.execute(f"PREPARE looked_at AS {statement}")
        values = ", ".join(literal(value) for value in ordered(given))
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked_at ({values})")
    finally:
        await connection.close()
    return sum(read_rows(json.loads(explained)[0]["Plan"]))


def literal(value: Any) -> str:
    """Return a parameter's value as SQL."""
    if isinstance(value, list):
        return f"'{{{', '.join(map(str, value))}}}'"
    return f"'{value}'" if isinstance(value, str) else str(value)
