"""A release as it was: the rows that it left, and the statements that it ran on them, in the words of each engine."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Connection, MetaData, insert, select
from sqlalchemy.engine import make_url

from servicekit import migrations
from servicekit.database import Database
from tests.kit.statements import watched

FOLDER = Path(__file__).parent / "recorded"
Statement = tuple[str, list[list[Any]]]
# What belongs to the connection or to the schema and not to what code does with its rows.
_NOT_THEIRS = re.compile(
    r"\s*(PRAGMA|BEGIN|SET|SHOW|SELECT (pg_|current_)|.*(pg_catalog|sqlite_master|_schema_version))"
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One service of one release."""

    service: str
    revision: str
    key_ring: str  # made for this recording alone; empty for a service without secrets
    rows: dict[str, list[dict[str, Any]]]
    statements: dict[str, list[Statement]]  # by engine
    touched: dict[str, list[int]]  # how many rows each statement returned or changed

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.service}-{self.revision}.json"

    def save(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.__dict__, default=_encoded, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, file: Path) -> Release:
        return cls(**json.loads(file.read_text(), object_hook=_decoded))


def _encoded(value: object) -> object:
    if isinstance(value, (bytes, memoryview)):
        return {"bytes": value.hex()}
    raise TypeError(type(value).__name__)


def _decoded(found: dict[str, Any]) -> Any:
    return bytes.fromhex(found["bytes"]) if found.keys() == {"bytes"} else found


def engine_of(url: str) -> str:
    return make_url(url).get_backend_name()


async def rows_in(database: Database, version_table: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of a database, tables in an order in which they can be filled."""
    own = migrations.own_tables(version_table)

    def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        found = MetaData()
        found.reflect(connection)
        return {
            table.name: [dict(row._mapping) for row in connection.execute(select(table))]
            for table in found.sorted_tables
            if table.name not in own
        }

    async with database.read() as connection:
        return await connection.run_sync(read)


async def fill(database: Database, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Put rows into tables that are as they were, in place of what is there."""

    def write(connection: Connection) -> None:
        found = MetaData()
        found.reflect(connection)
        for name in reversed(rows):
            connection.execute(found.tables[name].delete())
        for name, known in rows.items():
            if known:
                connection.execute(insert(found.tables[name]), known)

    async with database.write(patience_seconds=60) as connection:
        await connection.run_sync(write)


@contextlib.contextmanager
def recorded() -> Iterator[list[Statement]]:
    """Collect what is run on any engine meanwhile."""
    statements: list[Statement] = []

    def collect(_connection, statement, parameters, many) -> None:
        if not _NOT_THEIRS.match(statement):
            runs = parameters if many else [parameters]
            statements.append((statement, [list(each) for each in runs]))

    with watched(collect):
        yield statements


async def play(url: str, statements: list[Statement]) -> list[int]:
    """Run statements in their order by the bare driver; return how many rows each returned or changed."""
    return await (_play_on_postgres if engine_of(url) == "postgresql" else _play_on_sqlite)(url, statements)


async def _play_on_sqlite(url: str, statements: list[Statement]) -> list[int]:
    connection = sqlite3.connect(str(make_url(url).database), isolation_level=None)
    connection.execute("PRAGMA foreign_keys=1")
    try:
        return [
            sum(_touched_on_sqlite(connection.execute(statement, parameters)) for parameters in many)
            for statement, many in statements
        ]
    finally:
        connection.close()


def _touched_on_sqlite(cursor: sqlite3.Cursor) -> int:
    returned = len(cursor.fetchall())
    return returned if cursor.description else max(cursor.rowcount, 0)


async def _play_on_postgres(url: str, statements: list[Statement]) -> list[int]:
    connection = await asyncpg.connect(url, timeout=10)
    touched = []
    try:
        for statement, many in statements:
            prepared = await connection.prepare(statement)
            count = 0
            for parameters in many:
                async with connection.transaction():
                    rows = await prepared.fetch(*parameters)
                changed = prepared.get_statusmsg().split()
                count += int(changed[-1]) if changed[-1].isdigit() else len(rows)
            touched.append(count)
        return touched
    finally:
        await connection.close()
