"""A transaction's way to PostgreSQL: asyncpg's own connection, and SQLAlchemy over the same one where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

import asyncpg
import sqlalchemy
from sqlalchemy import CursorResult, Dialect, Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from servicekit.connection import Connection, DriverParameters, Parameters

Result = TypeVar("Result")
Given = ParamSpec("Given")

_BEGIN_WRITE: Final = "BEGIN"
_BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_COMMIT: Final = "COMMIT"


class Driver(Protocol):
    """The part of an asyncpg connection that is used here; asyncpg has no types."""

    def is_closed(self) -> bool:
        """Tell whether either side has closed it."""

    def is_in_transaction(self) -> bool:
        """Tell whether the server said so in its last answer."""

    def terminate(self) -> None:
        """Close it at once."""

    async def add_listener(self, channel: str, callback: Callable[[object, int, str, str], None]) -> None:
        """Call back for each notification."""

    async def fetch(self, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """Run a statement and return its rows, which are read by place as tuples are."""

    async def fetchrow(self, query: str) -> dict[str, str]:
        """Return the first row."""

    async def execute(self, query: str) -> str:
        """Run a statement, and return the server's word for what it did."""

    async def executemany(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run a statement for each of the rows, without waiting for one before the next is sent."""


class PostgresConnection(Connection):
    """A connection of the pool for as long as it is taken.

    SQLAlchemy's connection is made when a statement needs it: that, its greenlets and its adapter take longer than
    asyncpg does for a statement. Its pool's connections commit each statement by themselves as far as it knows, so
    that it takes no part in the transaction, which is begun and ended here.
    """

    def __init__(self, engine: AsyncEngine, taken: PoolProxiedConnection) -> None:
        """Take what the pool has given; `give_back` must be called in the end."""
        self._engine = engine
        self._taken = taken
        self.driver = cast("Driver", taken.driver_connection)
        self._dialect: Dialect = engine.dialect
        self._wrapped: AsyncConnection | None = None

    @property
    def dialect(self) -> Dialect:
        """See Connection."""
        return self._dialect

    async def begin(self, *, writes: bool) -> None:
        """Begin a transaction: READ COMMITTED to write, one snapshot to read."""
        await self.driver.execute(_BEGIN_WRITE if writes else _BEGIN_READ)

    async def commit(self) -> None:
        """Commit. Raises when a statement had failed: the server then rolls back, and does not call that an error."""
        if await self.driver.execute(_COMMIT) != _COMMIT:  # its answer is its own name
            raise asyncpg.InFailedSQLTransactionError("a transaction went on after an error, and is rolled back")

    async def roll_back(self) -> None:
        """Undo what was begun, if anything was."""
        if not self.driver.is_closed() and self.driver.is_in_transaction():
            await self.driver.execute("ROLLBACK")

    def give_back(self) -> None:
        """Let the pool have it again. One that is still in a transaction must have been closed before."""
        if self._wrapped is not None and self._wrapped.sync_connection is not None:
            self._wrapped.sync_connection.close()
        else:
            self._taken.close()

    async def rows(self, statement: str, values: tuple[Any, ...], /) -> Sequence[tuple[Any, ...]]:
        """See Connection."""
        return await self.driver.fetch(statement, *values)

    async def each(self, statement: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        """See Connection."""
        if len(rows) == 1:
            await self.driver.fetch(statement, *rows[0])  # the driver's way for many takes a third longer for one
        else:
            await self.driver.executemany(statement, rows)

    async def execute(self, statement: Executable, parameters: Parameters = None, /) -> CursorResult[*tuple[Any, ...]]:
        """See Connection."""
        return await self._whole().execute(statement, parameters)

    async def exec_driver_sql(
        self, statement: str, parameters: DriverParameters = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        """See Connection."""
        return await self._whole().exec_driver_sql(statement, parameters)

    async def run_sync(
        self,
        work: Callable[Concatenate[sqlalchemy.Connection, Given], Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """See Connection."""
        return await self._whole().run_sync(work, *given, **named)

    def _whole(self) -> AsyncConnection:
        if self._wrapped is None:
            connection = sqlalchemy.Connection(self._engine.sync_engine, self._taken)
            connection.begin()
            self._wrapped = AsyncConnection(self._engine, connection)
        return self._wrapped
