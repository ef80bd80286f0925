"""One connection to a SQLite file and the thread that it lives on.

SQLite is a library that blocks, so each connection has a thread. The way there and back costs more than most
statements: a transaction that is given as a whole (`Line.run`) makes it once, whatever it consists of.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

import sqlalchemy
from sqlalchemy import CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.pool import StaticPool

from servicekit.connection import Connection, DriverParameters, Parameters

Result = TypeVar("Result")
Given = ParamSpec("Given")
Here = Callable[..., Awaitable[Any]]

# A smaller difference is not worth another statement.
NOTICEABLE_MS: Final = 50
STATEMENTS_KEPT: Final = 256


class Line:
    """A connection that is made on its thread when it is first used, and used for one transaction at a time."""

    engine_options: Final = {
        "poolclass": StaticPool,
        "connect_args": {
            "check_same_thread": False,
            "cached_statements": STATEMENTS_KEPT,
            "factory": lambda *arguments, **named: _WholeResults(*arguments, **named),  # noqa: PLW0108  # defined below
        },
    }

    def __init__(self, engine: sqlalchemy.Engine, *, busy_timeout_ms: int) -> None:
        self._engine = engine
        self._busy_timeout_ms = busy_timeout_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: sqlalchemy.Connection | None = None

    def run(self, work: Callable[[Connection], Awaitable[Result]], patience_seconds: float) -> asyncio.Future[Result]:
        """Run a whole transaction: commit when the work ends, roll back when it raises.

        The work runs on this line's thread, and must wait for nothing but its connection.
        """
        return self._there(self._run, work, patience_seconds)

    def begin(self, patience_seconds: float) -> asyncio.Future[Connection]:
        """Begin a transaction, each of whose statements goes to the thread on its own."""
        return self._there(self._begin, patience_seconds, self._there)

    def commit(self) -> asyncio.Future[None]:
        """Commit, or roll back when that fails."""
        return self._there(self._end, sqlalchemy.Connection.commit)

    def roll_back(self) -> asyncio.Future[None]:
        """Undo what was begun, if anything was."""
        return self._there(self._end, sqlalchemy.Connection.rollback)

    async def close(self) -> None:
        """Close the connection and let the thread end."""
        await self._there(self._engine.dispose)
        self._thread.shutdown(wait=False)

    def _there(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _run(self, work: Callable[[Connection], Coroutine[Any, Any, Result]], patience_seconds: float) -> Result:
        try:
            result = _to_the_end(work(self._begin(patience_seconds, _here)))
        except BaseException:
            self._end(sqlalchemy.Connection.rollback)
            raise
        self._end(sqlalchemy.Connection.commit)
        return result

    def _begin(self, patience_seconds: float, call: Here) -> Connection:
        self._connection = self._engine.connect()
        self._wait_at_most(self._connection, patience_seconds)
        self._connection.begin()
        return _SqliteConnection(self._connection, call)

    def _end(self, how: Callable[[sqlalchemy.Connection], None]) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with connection:  # which rolls back what could not be committed
                how(connection)

    def _wait_at_most(self, connection: sqlalchemy.Connection, seconds: float) -> None:
        """Let the file's lock be waited for until the caller's patience ends: part of it may be used up already."""
        milliseconds = max(0, round(seconds * 1000))
        if abs(self._busy_timeout_ms - milliseconds) >= NOTICEABLE_MS:
            driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            driver.execute(f"PRAGMA busy_timeout={milliseconds}")
            self._busy_timeout_ms = milliseconds


class _SqliteConnection:
    """A transaction's way to its line: there with each statement, or already there."""

    def __init__(self, connection: sqlalchemy.Connection, call: Here) -> None:
        self._connection = connection
        self._call = call

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Executable, parameters: Parameters = None, /) -> CursorResult[*tuple[Any, ...]]:
        return cast("CursorResult[*tuple[Any, ...]]", await self._call(self._connection.execute, statement, parameters))

    async def scalar(self, statement: Executable, parameters: Parameters = None, /) -> Any:
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: Executable, parameters: Parameters = None, /) -> ScalarResult[Any]:
        return (await self.execute(statement, parameters)).scalars()

    async def exec_driver_sql(
        self, statement: str, parameters: DriverParameters = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        return cast(
            "CursorResult[*tuple[Any, ...]]", await self._call(self._connection.exec_driver_sql, statement, parameters)
        )

    async def run_sync(
        self,
        work: Callable[Concatenate[sqlalchemy.Connection, Given], Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        return cast("Result", await self._call(partial(work, self._connection, *given, **named)))


async def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        work.send(None)
    except StopIteration as done:
        return cast("Result", done.value)
    work.close()
    raise RuntimeError("a transaction that is given as a whole waits for nothing but its connection")


class _WholeResults(sqlite3.Connection):
    """Fetches every result as a whole on the connection's own thread, since it is read on another one."""

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _WholeResult)


class _WholeResult(sqlite3.Cursor):
    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._rows: deque[Any] = deque()

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        super().execute(sql, parameters)
        self._rows = deque(super().fetchall()) if self.description else deque()
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Self:
        self._rows = deque()
        super().executemany(sql, parameters)
        return self

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or 1, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows
