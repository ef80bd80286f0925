"""SQLite in one file or in memory: one process, one writer, every commit on disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import aiosqlite
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from servicekit.metrics import Pool
from servicekit.settings import SettingsError

READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 1500
# A smaller difference is not worth another round trip to the driver's thread.
NOTICEABLE_MS: Final = 50

# Checkpoints stay as SQLite makes them, after 1000 pages, and on the writer's own connection: a second one would meet
# the bug that `_lock` tells of. With 100 commits a second beside 200,000 rows the slowest commit took 0.20 s; with 200
# pages 0.48, with 4000 0.26, with 10,000 0.35. The slowest hundredth took 63 to 75 ms with each.

# FULL is what makes a commit outlive a power cut: with NORMAL, write-ahead logging syncs only at checkpoints.
_WRITER_PRAGMAS: Final[Mapping[str, str | int]] = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
}
_READER_PRAGMAS: Final[Mapping[str, str | int]] = {"busy_timeout": BUSY_TIMEOUT_MS, "query_only": 1}
_MEMORY_PRAGMAS: Final[Mapping[str, str | int]] = {"foreign_keys": 1}


def open_engine(url: URL) -> SqliteEngine:
    """Open the file of a URL, or a database in memory; raise SettingsError when another process has the file open."""
    url = url.set(drivername="sqlite+aiosqlite")
    if url.database and url.database != ":memory:":
        return _open_file(url, Path(url.database))
    engine = create_async_engine(url, poolclass=StaticPool, hide_parameters=True)
    _prepare(engine, _MEMORY_PRAGMAS, begin="BEGIN")
    return SqliteEngine(engine, engine, None)


class SqliteEngine:
    """One writer connection and a few readers; one connection for all in memory."""

    is_exclusive = True

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, lock_file: int | None) -> None:
        self._writer = writer
        self._reader = reader
        self._lock_file = lock_file
        self._one_at_a_time = asyncio.Lock() if writer is reader else None

    @contextlib.asynccontextmanager
    async def transaction(self, *, writes: bool, patience_seconds: float) -> AsyncIterator[AsyncConnection]:
        """See Engine."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with self._one_at_a_time or contextlib.nullcontext():
            async with asyncio.timeout(patience_seconds):
                connection = await (self._writer if writes else self._reader).connect()
            try:
                await _wait_at_most(connection, patience_seconds - (loop.time() - started))
                async with connection.begin():
                    yield connection
            finally:
                # A caller that is cancelled must not leave the one writer behind.
                await asyncio.shield(connection.close())

    def outside_transaction(
        self, *, patience_seconds: float
    ) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction: on SQLite every statement that we have can be in one."""
        return self.transaction(writes=True, patience_seconds=patience_seconds)

    def is_outage(self, error: Exception) -> bool:
        """See Engine."""
        if isinstance(error, DBAPIError):
            # The driver reports locks, full disks and I/O errors as operational errors; a wrong statement is one too,
            # but that is found by the first test that runs it.
            return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
        return isinstance(error, (TimeoutError, PoolTimeoutError))

    def pools(self) -> Mapping[str, Pool]:
        """See Engine."""
        if self._writer is self._reader:
            return {}
        return {"writer": cast("Pool", self._writer.pool), "readers": cast("Pool", self._reader.pool)}

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:  # noqa: ARG002  # there is no news
        """See Engine."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close every connection and let go of the file."""
        await self._reader.dispose()
        await self._writer.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)


async def _wait_at_most(connection: AsyncConnection, seconds: float) -> None:
    """Let the file's lock be waited for until the caller's patience ends: part of it may have gone into the pool."""
    pooled = await connection.get_raw_connection()
    milliseconds = max(0, round(seconds * 1000))
    if abs(pooled.info.get("busy_timeout", BUSY_TIMEOUT_MS) - milliseconds) >= NOTICEABLE_MS:
        driver = cast("aiosqlite.Connection", pooled.driver_connection)
        async with driver.execute(f"PRAGMA busy_timeout={milliseconds}"):
            pooled.info["busy_timeout"] = milliseconds


def _open_file(url: URL, path: Path) -> SqliteEngine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = _lock(path.with_name(f"{path.name}.lock"))
        path.touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"database URL: {path} can not be opened: {error.strerror}") from error
    writer = create_async_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
    _prepare(writer, _WRITER_PRAGMAS, begin="BEGIN IMMEDIATE")
    reader = create_async_engine(url, pool_size=READERS, max_overflow=0, hide_parameters=True)
    _prepare(reader, _READER_PRAGMAS, begin="BEGIN")
    return SqliteEngine(writer, reader, lock_file)


def _lock(path: Path) -> int:
    # SQLite before 3.51.3 can corrupt a write-ahead log that several processes write (sqlite.org/wal.html#walresetbug),
    # and leases on SQLite are released at start on the assumption that their holder is dead.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(f"{path.with_suffix('')} is open in another process: stop that one first") from None
    return descriptor


def _prepare(engine: AsyncEngine, pragmas: Mapping[str, str | int], *, begin: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions lazily, and deferred
        cursor = connection.cursor()
        for name, value in pragmas.items():
            cursor.execute(f"PRAGMA {name}={value}")
            cursor.execute(f"PRAGMA {name}")
            (actual,) = cursor.fetchone()
            if actual != value:
                raise SettingsError(f"SQLite refuses PRAGMA {name}={value}: it stays {actual}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)
