"""SQLite in one file or in memory: one process, one writer, every commit on disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from servicekit.connection import Connection
from servicekit.metrics import Pool
from servicekit.settings import SettingsError
from servicekit.sqlite_lines import BEGIN, LOCK_AT_ONCE, Line

Result = TypeVar("Result")

READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 1500
# A transaction with more is not done while everything else waits: a row takes some 0.1 ms.
ROWS_AT_ONCE: Final = 100
# A database, what was committed to it last, and what its connections share.
_FILES: Final = ("", "-wal", "-shm")
_BEYOND_USE: Final = {sqlite3.SQLITE_NOTADB: "no SQLite database", sqlite3.SQLITE_CORRUPT: "damaged"}
_PRIMARY_CODE: Final = 0xFF  # what is beyond it tells the kind of the same error
_TRIED: Final = bytes(64 * 1024)  # more than a commit needs

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
_MEMORY_PRAGMAS: Final[Mapping[str, str | int]] = {"foreign_keys": 1, "busy_timeout": BUSY_TIMEOUT_MS}


def open_engine(url: URL) -> SqliteEngine:
    """Open the file of a URL, or a database in memory; raise SettingsError when another process has the file open."""
    url = url.set(drivername="sqlite")
    if url.database and url.database != ":memory:":
        return _open_file(url, Path(url.database))
    only = _Lines([_line(url, _MEMORY_PRAGMAS, begin=BEGIN)])
    return SqliteEngine(only, only, None)


class SqliteEngine:
    """One writer connection and a few readers; one connection for all in memory."""

    is_exclusive = True

    def __init__(self, writers: _Lines, readers: _Lines, lock_file: int | None) -> None:
        self._writers = writers
        self._readers = readers
        self._lock_file = lock_file

    @contextlib.asynccontextmanager
    async def transaction(self, *, writes: bool, patience_seconds: float) -> AsyncIterator[Connection]:
        """See Engine."""
        lines = self._writers if writes else self._readers
        line, seconds_left = await lines.take(patience_seconds)
        # A caller that is cancelled must not leave the one writer behind: whatever the thread is at ends first.
        try:
            yield await asyncio.shield(line.begin(seconds_left))
        except BaseException:
            await lines.give_back_after(line, line.roll_back())
            raise
        await lines.give_back_after(line, line.commit())

    async def run(
        self, work: Callable[[Connection], Awaitable[Result]], *, writes: bool, patience_seconds: float, rows: int = 1
    ) -> Result:
        """See Engine."""
        lines = self._writers if writes else self._readers
        line, seconds_left = await lines.take(patience_seconds)
        return await lines.give_back_after(line, line.run(work, seconds_left, is_long=rows > ROWS_AT_ONCE))

    async def run_alone(
        self, work: Callable[[Connection], Awaitable[Result]], *, writes: bool, patience_seconds: float
    ) -> Result:
        """See Engine."""
        return await self.run(work, writes=writes, patience_seconds=patience_seconds)

    def outside_transaction(self, *, patience_seconds: float) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Open a transaction: on SQLite every statement that we have can be in one."""
        return self.transaction(writes=True, patience_seconds=patience_seconds)

    def is_outage(self, error: Exception) -> bool:
        """See Engine."""
        # The driver reports locks, full disks and I/O errors as operational errors; a wrong statement is one too, but
        # that is found by the first test that runs it.
        if isinstance(error, DBAPIError):
            return error.connection_invalidated or isinstance(error.orig, sqlite3.OperationalError)
        return isinstance(error, (sqlite3.OperationalError, TimeoutError))

    def problem(self) -> str:
        """See Engine."""
        if self._lock_file is None:
            return ""
        # It is this process's alone, empty, and beside the database: what it has room for, that has room for too.
        try:
            written = os.pwrite(self._lock_file, _TRIED, 0)
            os.ftruncate(self._lock_file, 0)
        except OSError as error:
            return f"its disk can not be written: {error.strerror}"
        return "" if written == len(_TRIED) else "its disk can not be written: nearly no space left"

    def pools(self) -> Mapping[str, Pool]:
        """See Engine."""
        return {} if self._writers is self._readers else {"writer": self._writers, "readers": self._readers}

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:  # noqa: ARG002  # there is no news
        """See Engine."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close every connection and let go of the file."""
        for lines in {self._readers, self._writers}:
            await lines.close()
        if self._lock_file is not None:
            os.close(self._lock_file)


class _Lines:
    """Connections, of which each is used by one transaction at a time."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._all = lines
        self._free = list(lines)
        self._some_free = asyncio.Semaphore(len(lines))

    def size(self) -> int:
        """See Pool."""
        return len(self._all)

    def checkedout(self) -> int:
        """See Pool."""
        return len(self._all) - len(self._free)

    async def take(self, patience_seconds: float) -> tuple[Line, float]:
        """Return a free one, and how much of the patience is left. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        if self._some_free.locked():
            async with asyncio.timeout(patience_seconds):
                await self._some_free.acquire()
        else:
            await self._some_free.acquire()
        return self._free.pop(), patience_seconds - (loop.time() - started)

    async def give_back_after(self, line: Line, last: asyncio.Future[Result]) -> Result:
        """Return the result of the last that is done with a connection, which is free then, whoever is cancelled."""
        last.add_done_callback(lambda done: self._give_back(line, done))
        return await asyncio.shield(last)

    def _give_back(self, line: Line, done: asyncio.Future[Any]) -> None:
        self._free.append(line)
        self._some_free.release()
        if not done.cancelled():
            done.exception()  # is told to the caller, if there still is one

    async def close(self) -> None:
        for line in self._all:
            await line.close()


def _open_file(url: URL, path: Path) -> SqliteEngine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = _lock(path.with_name(f"{path.name}.lock"))
        path.touch(mode=0o600)
        _require_writable(path)
    except OSError as error:
        raise SettingsError(f"database URL: {error.filename or path} can not be opened: {error.strerror}") from error
    writer = _line(url, _WRITER_PRAGMAS, begin=LOCK_AT_ONCE)
    readers = [_line(url, _READER_PRAGMAS, begin=BEGIN) for _ in range(READERS)]
    return SqliteEngine(_Lines([writer]), _Lines(readers), lock_file)


def _require_writable(path: Path) -> None:
    # What SQLite may not write it opens for reading, and each write fails as if the database were away.
    for ending in _FILES:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path.with_name(f"{path.name}{ending}"), os.O_RDWR | os.O_CLOEXEC))


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


def _line(url: URL, pragmas: Mapping[str, str | int], *, begin: str) -> Line:
    engine = create_engine(url, hide_parameters=True, **Line.engine_options)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions lazily, and deferred
        cursor = connection.cursor()
        try:
            _set(cursor, pragmas)
            cursor.execute("PRAGMA schema_version")  # looks into the file, which not every pragma does
        except sqlite3.DatabaseError as error:
            problem = _BEYOND_USE.get(error.sqlite_errorcode & _PRIMARY_CODE)
            if problem is None:
                raise
            raise SettingsError(f"{url.database} is {problem}: put a backup in its place") from None
        cursor.close()

    return Line(engine, begin=begin, busy_timeout_ms=BUSY_TIMEOUT_MS)


def _set(cursor: sqlite3.Cursor, pragmas: Mapping[str, str | int]) -> None:
    for name, value in pragmas.items():
        cursor.execute(f"PRAGMA {name}={value}")
        cursor.execute(f"PRAGMA {name}")
        (actual,) = cursor.fetchone()
        if actual != value:
            raise SettingsError(f"SQLite refuses PRAGMA {name}={value}: it stays {actual}")
