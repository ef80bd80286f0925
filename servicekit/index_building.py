"""Indexes on large tables, built while others go on writing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import func, select, text

from servicekit.connection import Connection
from servicekit.database import Database

POLL_SECONDS: Final = 0.5

_LOCK: Final = func.hashtext("textway index building")
_IS_VALID: Final = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class LaterIndex:
    """An index that a schema step wants, and that code may miss for a while: it is never unique.

    Whoever drops it takes it out of the step that asked for it, because every `migrate` looks whether it is there.
    """

    name: str
    table: str
    columns: Sequence[str]
    where: str = ""

    def ddl(self, *, concurrently: bool) -> str:
        """Return the statement that builds it."""
        where = f" WHERE {self.where}" if self.where else ""
        how = "CONCURRENTLY " if concurrently else ""
        return f"CREATE INDEX {how}IF NOT EXISTS {self.name} ON {self.table} ({', '.join(self.columns)}){where}"


async def build(database: Database, indexes: Sequence[LaterIndex], patience_seconds: float) -> None:
    """Build those that are missing. On PostgreSQL nobody has to wait for it; on SQLite nobody else is there."""
    if not indexes:
        return
    async with database.outside_transaction(patience_seconds=patience_seconds) as connection:
        if connection.dialect.name != "postgresql":
            for index in indexes:
                await connection.execute(text(index.ddl(concurrently=False)))
            return
        # Asked for again and again: who waits inside a statement is waited for by the one that builds.
        while not await connection.scalar(select(func.pg_try_advisory_lock(_LOCK))):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(POLL_SECONDS)
        for index in indexes:
            await _build_beside_writers(connection, index)


async def _build_beside_writers(connection: Connection, index: LaterIndex) -> None:
    is_valid = await connection.scalar(_IS_VALID, {"name": index.name})
    if is_valid:
        return
    if is_valid is False:
        # What is left of a build that was cut off: it is kept up to date and never used.
        await connection.execute(text(f"DROP INDEX CONCURRENTLY {index.name}"))
    log.info("building an index", index=index.name, table=index.table)
    await connection.execute(text(index.ddl(concurrently=True)))
