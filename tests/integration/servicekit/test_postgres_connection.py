"""Hot statements on asyncpg's own connection: in one transaction with all others, and with the same promises."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator
from unittest import mock

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, func, insert, select

from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.hot_statements import HotStatement, inserting, one_of
from servicekit.postgres_connection import PostgresConnection
from tests.fakes.postgres import execute

TOLD_WITHIN_SECONDS = 2.0
NOTES = Table("notes", MetaData(), Column("id", Integer, primary_key=True), Column("body", Text))
ADD = inserting(NOTES)
BODIES = HotStatement(select(NOTES.c.body).where(one_of(NOTES.c.id, "ids")).order_by(NOTES.c.id), ("ids",))
LOCK = HotStatement(select(NOTES.c.id).where(NOTES.c.id == bindparam("at_id")).with_for_update(), ("at_id",))
SLEEP = HotStatement(select(func.pg_sleep(bindparam("seconds"))), ("seconds",))
WRONG = HotStatement(select(1 / func.length(bindparam("text"))), ("text",))


@pytest.fixture
async def database(postgres_database) -> AsyncIterator[Database]:
    execute(postgres_database, "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    database = Database.open(postgres_database)
    yield database
    await database.close()


async def add(database: Database, *rows: tuple[int, str]) -> None:
    await database.run_write(lambda connection: ADD.each(connection, rows))


async def bodies(database: Database) -> list[str]:
    rows = await database.run_read(lambda connection: BODIES.rows(connection, list(range(10))))
    return [body for (body,) in rows]


async def test_what_consists_of_hot_statements_passes_sqlalchemy_by(database):
    await add(database, (1, "a"))

    with mock.patch.object(sqlalchemy.Connection, "__init__", side_effect=AssertionError("not needed")):
        await add(database, (2, "b"), (3, "c"))
        assert await bodies(database) == ["a", "b", "c"]


async def test_other_statements_are_in_the_same_transaction(database):
    async def both(connection):
        await ADD.each(connection, [(1, "hot")])
        await connection.execute(insert(NOTES), [{"id": 2, "body": "other"}])
        found = await connection.scalars(select(NOTES.c.body).order_by(NOTES.c.id))
        return found.all(), [body for (body,) in await BODIES.rows(connection, [1, 2])]

    async def both_in_vain(connection):
        await connection.execute(insert(NOTES), [{"id": 3, "body": "other"}])
        await ADD.each(connection, [(4, "hot")])
        raise KeyError

    assert await database.run_write(both) == (["hot", "other"], ["hot", "other"])
    with pytest.raises(KeyError):
        await database.run_write(both_in_vain)
    assert await bodies(database) == ["hot", "other"]


async def test_a_read_is_one_snapshot_for_hot_statements_and_others(database):
    await add(database, (1, "before"))

    async with database.read() as connection:
        first = await BODIES.rows(connection, [1, 2])
        await add(database, (2, "after"))
        second = await BODIES.rows(connection, [1, 2])
        third = await connection.scalar(select(func.count()).select_from(NOTES))

    assert (len(first), len(second), third) == (1, 1, 1)
    with pytest.raises(UnavailableError):
        await database.run_read(lambda connection: ADD.each(connection, [(3, "no")]))


async def test_what_breaks_a_rule_of_the_schema_is_no_outage_and_tells_no_values(database, postgres_database):
    body = "+65" + "81230000"  # a traceback shows the test's own lines too
    execute(postgres_database, "CREATE UNIQUE INDEX one_of_each ON notes (body)")
    await add(database, (1, body))

    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await add(database, (2, body))

    assert body not in "".join(traceback.format_exception(refused.value))
    assert await bodies(database) == [body]


async def test_a_transaction_that_goes_on_after_an_error_is_not_taken_for_committed(database):
    async def overlook(connection):
        await ADD.each(connection, [(1, "lost")])
        with contextlib.suppress(asyncpg.DataError):
            await WRONG.rows(connection, "")

    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await database.run_write(overlook)

    assert await bodies(database) == []
    await add(database, (1, "kept"))


async def test_a_row_that_another_holds_is_waited_for_and_not_for_long(database):
    await add(database, (1, "mine"))
    async with database.write() as holder:
        await LOCK.rows(holder, 1)
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await database.run_write(lambda connection: LOCK.rows(connection, 1))
        assert time.monotonic() - started < TOLD_WITHIN_SECONDS


async def test_a_statement_that_takes_too_long_is_an_outage(database):
    with pytest.raises(UnavailableError):
        await database.run_write(lambda connection: SLEEP.rows(connection, 1.9))

    async with database.write(patience_seconds=10) as connection:
        await SLEEP.rows(connection, 1.6)


async def test_a_connection_that_is_cut_is_an_outage_and_is_not_met_again(database):
    async def cut_off(connection):
        await ADD.each(connection, [(1, "cut")])
        connection.driver.terminate()
        await ADD.each(connection, [(2, "cut")])

    with pytest.raises(UnavailableError):
        await database.run_write(cut_off)

    assert await bodies(database) == []
    assert database.pools()["all"].checkedout() == 0


async def test_a_caller_that_is_cancelled_leaves_no_connection_and_no_row_behind(database):
    wrote = asyncio.Event()

    async def linger(connection):
        await ADD.each(connection, [(1, "half")])
        wrote.set()
        await SLEEP.rows(connection, 1.2)

    task = asyncio.create_task(database.run_write(linger))
    await wrote.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert database.pools()["all"].checkedout() == 0
    await add(database, (1, "whole"))
    assert await bodies(database) == ["whole"]


async def test_a_step_of_the_schema_that_changes_what_is_read_costs_one_transaction(database, postgres_database):
    await add(database, (1, "a"))
    await bodies(database)
    execute(postgres_database, "ALTER TABLE notes ALTER body TYPE VARCHAR(80)")

    with pytest.raises(UnavailableError):
        await bodies(database)

    assert await bodies(database) == ["a"]


async def test_a_look_is_one_statement_without_a_transaction_around_it(database):
    await add(database, (1, "a"), (2, "b"))

    with mock.patch.object(PostgresConnection, "begin", side_effect=AssertionError("not needed")):
        assert [body for (body,) in await database.look(BODIES, [2, 1])] == ["a", "b"]

    assert database.pools()["all"].checkedout() == 0


async def test_a_look_ends_in_time_and_leaves_a_connection_that_works(database):
    with pytest.raises(UnavailableError):
        await database.look(SLEEP, 1.9)
    with pytest.raises(UnavailableError):
        await database.look(SLEEP, 0.9, patience_seconds=0.1)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.look(WRONG, "")

    assert database.pools()["all"].checkedout() == 0
    await add(database, (1, "a"))
    assert await bodies(database) == ["a"]
