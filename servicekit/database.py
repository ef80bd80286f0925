"""A service's own database: SQLite or PostgreSQL behind one interface, and everything committed on disk."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, Self, TypeVar

import structlog
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from servicekit import sqlite
from servicekit.connection import Connection
from servicekit.errors import UnavailableError
from servicekit.hot_statements import HotStatement, Values
from servicekit.metrics import DatabaseMeter, Pool, watch_pools
from servicekit.settings import SettingsError

# A sender is told of an outage within 2 s; what is left goes to the calls on the way.
PATIENCE_SECONDS: Final = 1.5

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Engine(Protocol):
    """What an engine offers."""

    is_exclusive: bool

    def transaction(
        self, *, writes: bool, patience_seconds: float
    ) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Open a transaction that commits when the block ends and rolls back when it raises."""

    def outside_transaction(self, *, patience_seconds: float) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Give a connection on which each statement commits by itself, where the engine can do that."""

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call `heard` with the text of each notification; end with an outage."""

    async def run(
        self, work: Callable[[Connection], Awaitable[Result]], *, writes: bool, patience_seconds: float, rows: int = 1
    ) -> Result:
        """Run a transaction of about so many rows that is given as a whole, and return what it returns."""

    async def run_alone(
        self, work: Callable[[Connection], Awaitable[Result]], *, writes: bool, patience_seconds: float
    ) -> Result:
        """Run one statement, in as little as the engine needs for it to be a transaction of its own."""

    def is_outage(self, error: Exception) -> bool:
        """Tell an outage, after which the same may be tried again, from a defect."""

    def problem(self) -> str:
        """Return what keeps it from writing, though not from reading; empty when nothing is known to."""

    def pools(self) -> Mapping[str, Pool]:
        """Return the pools of connections by what they are for; none for a database in memory."""

    async def close(self) -> None:
        """Close every connection."""


def parse_url(url: str) -> URL:
    """Return a database's URL in its parts; raise SettingsError when it is none."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the one for its form, the other for its port
        raise SettingsError("database URL: it must look like sqlite:///file.db or postgresql://host/name") from None


class Database:
    """Connections to one database.

    `write` gives a transaction that commits when the block ends and rolls back when it raises. On SQLite there is one
    at a time, and it holds the write lock from its first statement; on PostgreSQL it is READ COMMITTED, so that rows
    that a decision rests on are locked (`with_for_update`) first. `read` gives one snapshot for all its statements,
    which sees everything committed before it began. Both raise UnavailableError when the database can not be had
    within `patience_seconds`. After that a commit may have been made or not: the caller can not know. On PostgreSQL
    the patience covers the whole block; on SQLite, whose statements can not be cut short, the wait for locks.

    `run_write` and `run_read` are the same for a transaction that is given as a whole, as a coroutine function that
    waits for nothing but its connection. SQLite then does all of it where it is called and only commits on the
    connection's thread, in place of going there for each statement; but what has many rows, or must wait for a lock,
    is done on that thread from its beginning. So it must not touch what belongs to the event loop.
    """

    def __init__(self, engine: Engine, name: str = "textway") -> None:
        self.name = name
        self._engine = engine
        self._meters = {writes: DatabaseMeter(name, "write" if writes else "read") for writes in (True, False)}
        watch_pools(self)

    @classmethod
    def open(cls, url: str, *, name: str = "textway") -> Database:
        """Open a database by its URL; `name` is what PostgreSQL shows for its connections, and the metrics too.

        `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` for memory, `postgresql://user@host:5432/name`.
        Raises SettingsError when the URL can not be used or another process has the file open. PostgreSQL is first
        called by the first transaction, which raises SettingsError when the server would not keep what it commits.
        """
        parsed = parse_url(url)
        match parsed.get_backend_name():
            case "sqlite":
                return cls(sqlite.open_engine(parsed), name)
            case "postgresql":
                # Its driver and SQLAlchemy's asyncio are of no use beside SQLite.
                from servicekit import postgres  # noqa: PLC0415

                return cls(postgres.open_engine(parsed, name), name)
            case other:
                raise SettingsError(f"database URL: only sqlite and postgresql are supported, not {other}")

    @property
    def is_exclusive(self) -> bool:
        """Whether no other process can have this database open."""
        return self._engine.is_exclusive

    def problem(self) -> str:
        """Return what keeps it from writing, though not from reading; empty when nothing is known to."""
        return self._engine.problem()

    def pools(self) -> Mapping[str, Pool]:
        """Return the pools of connections by what they are for."""
        return self._engine.pools()

    @contextlib.asynccontextmanager
    async def write(self, *, patience_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Connection]:
        """Open a transaction that may change rows."""
        opened = self._engine.transaction(writes=True, patience_seconds=patience_seconds)
        async with self._told(opened, writes=True) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def read(self, *, patience_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Connection]:
        """Open a transaction that only reads."""
        opened = self._engine.transaction(writes=False, patience_seconds=patience_seconds)
        async with self._told(opened, writes=False) as connection:
            yield connection

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call `heard` with the text of each notification that comes on a channel, until the connection is lost.

        Ends by UnavailableError. A notification may be lost, so that it can only save waiting. SQLite has none: there
        nobody else writes. It takes one connection of the pool for as long as it runs.
        """
        with self._outages_told(self._meters[False]):
            await self._engine.listen(channel, heard)

    @contextlib.asynccontextmanager
    async def outside_transaction(self, *, patience_seconds: float) -> AsyncIterator[Connection]:
        """Give a connection for statements that PostgreSQL runs in no transaction; on SQLite it is one of `write`."""
        opened = self._engine.outside_transaction(patience_seconds=patience_seconds)
        async with self._told(opened, writes=True) as connection:
            yield connection

    async def run_write(self, work: Callable[[Connection], Awaitable[Result]], *, rows: int = 1) -> Result:
        """Run a transaction that may change about so many rows, and return what it returns."""
        run = functools.partial(self._engine.run, writes=True, rows=rows)
        return await self._run(work, run, self._meters[True], PATIENCE_SECONDS)

    async def run_read(self, work: Callable[[Connection], Awaitable[Result]], *, rows: int = 1) -> Result:
        """Run a transaction that reads about so many rows, and return what it returns."""
        run = functools.partial(self._engine.run, writes=False, rows=rows)
        return await self._run(work, run, self._meters[False], PATIENCE_SECONDS)

    async def look(
        self, statement: HotStatement, *values: Any, patience_seconds: float = PATIENCE_SECONDS
    ) -> Sequence[Values]:
        """Run one statement that only reads, and return its rows.

        It is one snapshot by itself, so that PostgreSQL is not asked to begin and to end a transaction around it.
        """
        return await self._alone(statement, values, writes=False, patience_seconds=patience_seconds)

    async def step(
        self, statement: HotStatement, *values: Any, patience_seconds: float = PATIENCE_SECONDS
    ) -> Sequence[Values]:
        """Run one statement that may change rows, and return its rows; it is on disk then."""
        return await self._alone(statement, values, writes=True, patience_seconds=patience_seconds)

    async def _alone(
        self, statement: HotStatement, values: Values, *, writes: bool, patience_seconds: float
    ) -> Sequence[Values]:
        def work(connection: Connection) -> Awaitable[Sequence[Values]]:
            return statement.rows(connection, *values)

        run = functools.partial(self._engine.run_alone, writes=writes)
        return await self._run(work, run, self._meters[writes], patience_seconds)

    @contextlib.asynccontextmanager
    async def _told(
        self, opened: contextlib.AbstractAsyncContextManager[Connection], *, writes: bool
    ) -> AsyncIterator[Connection]:
        with self._watched(self._meters[writes]) as is_had:
            async with opened as connection:
                is_had()
                yield connection

    async def _run(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        run: Callable[..., Awaitable[Result]],
        meter: DatabaseMeter,
        patience_seconds: float,
    ) -> Result:
        with self._watched(meter) as is_had:

            async def watched(connection: Connection) -> Result:
                is_had()
                return await work(connection)

            return await run(watched, patience_seconds=patience_seconds)

    @contextlib.contextmanager
    def _watched(self, meter: DatabaseMeter) -> Iterator[Callable[[], None]]:
        """Measure a transaction and tell its outages; what is given is to be called once the connection is there."""
        wanted_at, had_at = time.perf_counter(), 0.0
        meter.waiting.inc()

        def is_had() -> None:
            nonlocal had_at
            had_at = time.perf_counter()
            meter.waiting.dec()
            meter.wait_seconds.observe(had_at - wanted_at)

        try:
            with self._outages_told(meter):
                yield is_had
        finally:
            if had_at:
                meter.transaction_seconds.observe(time.perf_counter() - had_at)
            else:
                meter.waiting.dec()

    @contextlib.contextmanager
    def _outages_told(self, meter: DatabaseMeter) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._engine.is_outage(error):
                raise
            meter.outages.inc()
            cause = error.__cause__ or error
            log.warning("database unavailable", error=f"{type(cause).__name__}: {cause}")
            raise UnavailableError("The database can not be used just now. Send the request again.") from error

    async def __aenter__(self) -> Self:
        """Return this; it is closed when the block ends."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close every connection and let go of the file."""
        await self._engine.close()
