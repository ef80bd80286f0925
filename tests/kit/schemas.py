"""The newest schema of every service, made once and copied for each test that is not about how it is made."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance as delivery
from services.integrations import maintenance as integrations


def bring_up(url: str) -> None:
    """Run the steps of both services in one database, where their tables bear different names."""

    async def run() -> None:
        async with Database.open(url) as database:
            for service in (integrations, delivery):
                await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)

    # A fixture may be set up within an event loop or without.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


async def copy(template: Path, database: Database) -> None:
    """Do in a database of SQLite what would make a closed file out of nothing."""
    async with database.write() as connection:
        for statement in _statements(template):
            await connection.exec_driver_sql(statement)


@functools.cache
def _statements(template: Path) -> Sequence[str]:
    with contextlib.closing(sqlite3.connect(template)) as connection:
        return [each for each in connection.iterdump() if each not in ("BEGIN TRANSACTION;", "COMMIT;")]
