"""Schema steps on PostgreSQL while others go on working: nobody waits for a step, and a step waits for anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from servicekit import migrations
from servicekit.database import Database
from tests.kit import locks

VERSION_TABLE = "notes_schema_version"
ENVIRONMENT = "from servicekit.migrations import run_environment\n\nrun_environment()\n"
STEP = """
from alembic import op
from servicekit.index_building import LaterIndex

revision = {revision!r}
down_revision = {before!r}
later_indexes = {indexes}


def upgrade():
    op.execute({statement!r})
"""
BY_BODY = "(LaterIndex(name='notes_by_body', table='notes', columns=['body']),)"
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('notes_by_body')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    add_step(tmp_path, "0001", None, "CREATE TABLE notes (id BIGINT PRIMARY KEY, body TEXT)")
    return tmp_path


def add_step(folder: Path, revision: str, before: str | None, statement: str, indexes: str = "()") -> None:
    step = STEP.format(revision=revision, before=before, statement=statement, indexes=indexes)
    (folder / "versions" / f"{revision}.py").write_text(step)


@pytest.fixture
async def database(postgres_database, folder):
    database = Database.open(postgres_database)
    await migrations.migrate(database, folder, VERSION_TABLE)
    yield database
    await database.close()


async def add_note(database: Database, number: int) -> None:
    async with database.write() as connection:
        await connection.execute(text(f"INSERT INTO notes (id) VALUES ({number})"))


async def scalar(database: Database, query: str) -> object:
    async with database.read() as connection:
        return await connection.scalar(text(query))


async def test_writers_go_on_while_a_step_waits_for_a_long_query(database, folder):
    add_step(folder, "0002", "0001", "ALTER TABLE notes ADD COLUMN author TEXT")
    async with database.read(patience_seconds=60) as long_query:
        await long_query.execute(text("SELECT * FROM notes"))
        migrating = asyncio.create_task(migrations.migrate(database, folder, VERSION_TABLE))
        await locks.until_somebody_waits(database, "ALTER TABLE notes")

        for number in range(10):
            await add_note(database, number)

        assert not migrating.done()
    await migrating
    assert await scalar(database, "SELECT count(author) FROM notes") == 0


async def test_writers_go_on_while_an_index_is_built_later(database, folder):
    add_step(folder, "0002", "0001", "SELECT 1", BY_BODY)
    async with database.write(patience_seconds=60) as unfinished:
        await unfinished.execute(text("INSERT INTO notes (id) VALUES (1)"))
        migrating = asyncio.create_task(migrations.migrate(database, folder, VERSION_TABLE))
        await locks.until_somebody_waits(database, "CREATE INDEX CONCURRENTLY")

        await add_note(database, 2)

        assert not migrating.done()
    await migrating
    assert await scalar(database, IS_VALID) is True


async def test_builds_an_index_anew_whose_building_was_cut_off(database, folder):
    await add_note(database, 1)
    await add_note(database, 2)
    with pytest.raises(Exception, match="could not create unique index"):
        async with database.outside_transaction(patience_seconds=10) as connection:
            await connection.execute(text("CREATE UNIQUE INDEX CONCURRENTLY notes_by_body ON notes ((body IS NULL))"))
    assert await scalar(database, IS_VALID) is False
    add_step(folder, "0002", "0001", "SELECT 1", BY_BODY)

    await asyncio.gather(*(migrations.migrate(database, folder, VERSION_TABLE) for _ in range(3)))

    assert await scalar(database, IS_VALID) is True
