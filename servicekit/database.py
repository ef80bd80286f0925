"""A service's own database: SQLite in one file or in memory, with one writer, and everything committed on disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError

READERS: Final = 4
BUSY_TIMEOUT_SECONDS: Final = 2.0

# FULL is what makes a commit outlive a power cut: with NORMAL, write-ahead logging syncs only at checkpoints.
_WRITER_PRAGMAS: Final[Mapping[str, str | int]] = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": 2000,
}
_READER_PRAGMAS: Final[Mapping[str, str | int]] = {"busy_timeout": 2000, "query_only": 1}
_MEMORY_PRAGMAS: Final[Mapping[str, str | int]] = {"foreign_keys": 1}

log = structlog.get_logger(__name__)


class Database:
    """Connections to one database.

    `write` gives a transaction that commits when the block ends and rolls back when it raises; on SQLite there is one
    at a time, and it holds the write lock from its first statement. `read` gives a snapshot that sees everything
    committed before it began. Both raise UnavailableError when the database can not be had.
    """

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, lock_file: int | None) -> None:
        self._writer = writer
        self._reader = reader
        self._lock_file = lock_file
        self._one_at_a_time = asyncio.Lock() if writer is reader else None

    @classmethod
    def open(cls, url: str) -> Database:
        """Open a database by its URL (`sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` for memory).

        Raises SettingsError when the URL can not be used or another process has the file open.
        """
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise SettingsError(f"database URL: only SQLite is supported, not {parsed.get_backend_name()}")
        parsed = parsed.set(drivername="sqlite+aiosqlite")
        if not parsed.database or parsed.database == ":memory:":
            engine = create_async_engine(parsed, poolclass=StaticPool, hide_parameters=True)
            _prepare_sqlite(engine, _MEMORY_PRAGMAS, begin="BEGIN")
            return cls(engine, engine, None)
        return cls(*_open_file(parsed, Path(parsed.database)))

    @property
    def is_exclusive(self) -> bool:
        """Whether no other process can have this database open."""
        return self._writer.dialect.name == "sqlite"

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that may change rows."""
        async with self._transaction(self._writer) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that only reads."""
        async with self._transaction(self._reader) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with self._one_at_a_time or contextlib.nullcontext():
            try:
                async with engine.begin() as connection:
                    yield connection
            except (PoolTimeoutError, DBAPIError) as error:
                if isinstance(error, DBAPIError) and not _is_outage(error):
                    raise
                log.warning("database unavailable", error=str(error.__cause__ or error))
                raise UnavailableError("The database can not be written just now. Send the request again.") from error

    async def close(self) -> None:
        """Close every connection and let go of the file."""
        await self._reader.dispose()
        await self._writer.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)


def _open_file(url: URL, path: Path) -> tuple[AsyncEngine, AsyncEngine, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_file = _lock(path.with_name(f"{path.name}.lock"))
    path.touch(mode=0o600)
    writer = create_async_engine(
        url, pool_size=1, max_overflow=0, pool_timeout=BUSY_TIMEOUT_SECONDS, hide_parameters=True
    )
    _prepare_sqlite(writer, _WRITER_PRAGMAS, begin="BEGIN IMMEDIATE")
    reader = create_async_engine(
        url, pool_size=READERS, max_overflow=0, pool_timeout=BUSY_TIMEOUT_SECONDS, hide_parameters=True
    )
    _prepare_sqlite(reader, _READER_PRAGMAS, begin="BEGIN")
    return writer, reader, lock_file


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


def _prepare_sqlite(engine: AsyncEngine, pragmas: Mapping[str, str | int], *, begin: str) -> None:
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


def _is_outage(error: DBAPIError) -> bool:
    # The driver reports locks, full disks and I/O errors as operational errors; a wrong statement is one too, but that
    # is found by the first test that runs it.
    return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
