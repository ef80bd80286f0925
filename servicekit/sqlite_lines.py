"""One connection to a SQLite file and the thread that it may wait on.

SQLite is a library that blocks, so each connection has a thread. The way there and back costs more than most
statements, and two threads of Python take turns: a transaction that is given as a whole (`Line.run`) goes there only
for what may take long, which is its commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

import sqlalchemy
from sqlalchemy import CursorResult, Dialect, Executable
from sqlalchemy.pool import StaticPool

from servicekit.connection import Connection, DriverParameters, Parameters

Result = TypeVar("Result")
Given = ParamSpec("Given")
Here = Callable[..., Awaitable[Any]]

# A smaller difference is not worth another statement.
NOTICEABLE_MS: Final = 50
STATEMENTS_KEPT: Final = 256
BEGIN: Final = "BEGIN"
LOCK_AT_ONCE: Final = "BEGIN IMMEDIATE"


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

    def __init__(self, engine: sqlalchemy.Engine, *, begin: str, busy_timeout_ms: int) -> None:
        """Take the statement that begins a transaction."""
        self._engine = engine
        self._begin_statement = begin
        self._locks_at_once = begin == LOCK_AT_ONCE
        self._busy_timeout_ms = busy_timeout_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._driver: sqlite3.Connection | None = None
        self._connection: _SqliteConnection | None = None

    def run(
        self, work: Callable[[Connection], Awaitable[Result]], patience_seconds: float, *, is_long: bool
    ) -> asyncio.Future[Result]:
        """Run a whole transaction: commit when the work ends, roll back when it raises.

        The work must wait for nothing but its connection. It is done when this returns, all but the commit, which
        waits for the disk on this line's thread. All of it is left to the thread when it is long, for the first time,
        when the file is opened, and while another program has it locked.
        """
        if is_long or self._driver is None:
            return self._there(self._run, work, patience_seconds)
        try:
            return self._run_here(self._driver, work, patience_seconds)
        except BaseException as error:  # noqa: BLE001  # the caller's, as from the thread
            return _failed(error)

    def begin(self, patience_seconds: float) -> asyncio.Future[Connection]:
        """Begin a transaction, each of whose statements goes to the thread on its own."""
        return self._there(self._begin, patience_seconds, self._there)

    def commit(self) -> asyncio.Future[None]:
        """Commit, or roll back when that fails."""
        return self._there(self._commit)

    def roll_back(self) -> asyncio.Future[None]:
        """Undo what was begun, if anything was."""
        return self._there(self._roll_back)

    async def close(self) -> None:
        """Close the connection and let the thread end."""
        await self._there(self._engine.dispose)
        self._thread.shutdown(wait=False)

    def _there(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _run(self, work: Callable[[Connection], Awaitable[Result]], patience_seconds: float) -> Result:
        return self._committed(self._uncommitted(work, self._begin(patience_seconds, _here)))

    def _uncommitted(self, work: Callable[[Connection], Awaitable[Result]], connection: Connection) -> Result:
        try:
            return _to_the_end(work(connection))
        except BaseException:
            self._roll_back()
            raise

    def _committed(self, result: Result) -> Result:
        self._commit()
        return result

    def _run_here(
        self,
        driver: sqlite3.Connection,
        work: Callable[[Connection], Awaitable[Result]],
        patience_seconds: float,
    ) -> asyncio.Future[Result]:
        changes_before = driver.total_changes
        try:
            connection = self._begin(0 if self._locks_at_once else patience_seconds, _here)
        except sqlite3.OperationalError:
            return self._there(self._run, work, patience_seconds)
        result = self._uncommitted(work, connection)
        if driver.total_changes == changes_before:
            return _done(self._committed(result))
        return self._there(self._committed, result)

    def _begin(self, patience_seconds: float, call: Here) -> Connection:
        driver = self._driver = self._driver or self._connected()
        self._wait_at_most(driver, patience_seconds)
        self._connection = _SqliteConnection(self._engine, driver, call)
        driver.execute(self._begin_statement)
        return self._connection

    def _connected(self) -> sqlite3.Connection:
        with self._engine.connect() as connection:  # it stays with the pool, which holds this one and no other
            return cast("sqlite3.Connection", connection.connection.driver_connection)

    def _commit(self) -> None:
        try:
            if self._driver is not None:
                self._driver.commit()
        except BaseException:
            self._roll_back()
            raise
        self._let_go()

    def _roll_back(self) -> None:
        try:
            if self._driver is not None:
                self._driver.rollback()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _wait_at_most(self, driver: sqlite3.Connection, seconds: float) -> None:
        """Let the file's lock be waited for until the caller's patience ends: part of it may be used up already."""
        milliseconds = max(0, round(seconds * 1000))
        if abs(self._busy_timeout_ms - milliseconds) >= NOTICEABLE_MS:
            driver.execute(f"PRAGMA busy_timeout={milliseconds}")
            self._busy_timeout_ms = milliseconds


class _SqliteConnection(Connection):
    """A transaction's way to its line: there with each statement, or already there.

    What needs SQLAlchemy gets a connection of it, over the same one of the driver. What does not is spared the making
    of that, which takes as long as a few statements.
    """

    def __init__(self, engine: sqlalchemy.Engine, driver: sqlite3.Connection, call: Here) -> None:
        self._engine = engine
        self._driver = driver
        self._call = call
        self._wrapped: sqlalchemy.Connection | None = None

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    def close(self) -> None:
        if self._wrapped is not None:
            self._wrapped.close()

    async def execute(self, statement: Executable, parameters: Parameters = None, /) -> CursorResult[*tuple[Any, ...]]:
        return cast("CursorResult[*tuple[Any, ...]]", await self._call(self._execute, statement, parameters))

    async def exec_driver_sql(
        self, statement: str, parameters: DriverParameters = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        return cast("CursorResult[*tuple[Any, ...]]", await self._call(self._exec_driver_sql, statement, parameters))

    async def rows(self, statement: str, values: tuple[Any, ...], /) -> Sequence[tuple[Any, ...]]:
        return cast("Sequence[tuple[Any, ...]]", await self._call(self._rows, statement, values))

    async def each(self, statement: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        await self._call(self._each, statement, rows)

    async def run_sync(
        self,
        work: Callable[Concatenate[sqlalchemy.Connection, Given], Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        return cast("Result", await self._call(lambda: work(self._whole(), *given, **named)))

    def _whole(self) -> sqlalchemy.Connection:
        if self._wrapped is None:
            self._wrapped = self._engine.connect()
            self._wrapped.begin()
        return self._wrapped

    def _execute(self, statement: Executable, parameters: Parameters) -> CursorResult[*tuple[Any, ...]]:
        return self._whole().execute(statement, parameters)

    def _exec_driver_sql(self, statement: str, parameters: DriverParameters) -> CursorResult[*tuple[Any, ...]]:
        return self._whole().exec_driver_sql(statement, parameters)

    # On plain cursors: all that is read is read here.

    def _rows(self, statement: str, values: tuple[Any, ...]) -> Sequence[tuple[Any, ...]]:
        return sqlite3.Cursor(self._driver).execute(statement, values).fetchall()

    def _each(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        sqlite3.Cursor(self._driver).executemany(statement, rows)


def _done(result: Result) -> asyncio.Future[Result]:
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _failed(error: BaseException) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


async def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _to_the_end(work: Awaitable[Result]) -> Result:
    steps = cast("Coroutine[Any, Any, Result]", work)
    try:
        steps.send(None)
    except StopIteration as done:
        return cast("Result", done.value)
    steps.close()
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
