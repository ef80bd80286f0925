"""Statements of the hot path: values by place, constants where they belong, and lists as one value."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, select, update

from servicekit.database import Database
from servicekit.hot_statements import HotStatement, inserting, listed, one_of

NOTES = Table("notes", MetaData(), Column("id", Integer, primary_key=True), Column("body", Text), Column("state", Text))
ADD = inserting(NOTES)
MARK = HotStatement(
    update(NOTES).where(NOTES.c.id == bindparam("at_id")).values(state="marked", body=bindparam("to_body")),
    ("at_id", "to_body"),
)
SOME = HotStatement(select(NOTES).where(one_of(NOTES.c.id, "ids")).order_by(NOTES.c.id), ("ids",))


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    database = Database.open("sqlite://")
    async with database.write() as connection:
        await connection.run_sync(NOTES.metadata.create_all)
        await ADD.each(connection, [(1, "a", "new"), (2, "b", "new"), (3, "c", "new")])
    yield database
    await database.close()


async def test_inserts_whole_rows_in_the_order_of_the_columns(database):
    async with database.read() as connection:
        assert [tuple(row) for row in await SOME.rows(connection, [3, 1, 9])] == [(1, "a", "new"), (3, "c", "new")]


async def test_runs_once_for_each_row_and_fills_its_constants_in(database):
    async with database.write() as connection:
        await MARK.each(connection, [(1, "x"), (3, "y")])
        await MARK.each(connection, [])
        found = await SOME.rows(connection, [1, 2, 3])

    assert [tuple(row) for row in found] == [(1, "x", "marked"), (2, "b", "new"), (3, "y", "marked")]


async def test_reads_a_list_as_a_table(database):
    looked_up = HotStatement(
        lambda engine: select(listed(engine, "words", Text()).c.value),
        ("words",),
    )
    async with database.read() as connection:
        assert [value for (value,) in await looked_up.rows(connection, ["b", "a"])] == ["b", "a"]
