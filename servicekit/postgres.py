"""PostgreSQL through asyncpg: a pool, a deadline on every transaction, and no server that would lose a commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, cast

import asyncpg
import structlog
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from servicekit.connection import Connection
from servicekit.metrics import Pool
from servicekit.postgres_connection import Driver, PostgresConnection
from servicekit.settings import SettingsError

Result = TypeVar("Result")

# Eight replicas of a service and the others beside them stay below PostgreSQL's default of 100 connections.
CONNECTIONS: Final = 10
CONNECT_SECONDS: Final = 1.5
STATEMENT_MS: Final = 1500
# Longer than PostgreSQL's own deadlock_timeout of 1 s, so that it breaks a circle by ending one of those within it.
LOCK_MS: Final = 1250
# A process that is paused inside a transaction must not hold its rows for longer than a lease.
IDLE_IN_TRANSACTION_MS: Final = 10_000
# How often a connection that only listens is asked for a sign of life.
LISTENING_CHECK_SECONDS: Final = 5.0

_SESSION: Final[Mapping[str, str]] = {
    "statement_timeout": str(STATEMENT_MS),
    "lock_timeout": str(LOCK_MS),
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    # A queue is empty when its statistics are taken. The plan made then, to read the whole table, is kept, and made
    # claims of 100 beside a million rows take 33 ms in place of 16.
    "enable_seqscan": "off",
    "jit": "off",  # it takes longer to compile statements as short as ours than to run them
}
_SERVER_SETTINGS: Final = """
    SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit, current_setting('server_encoding') AS encoding
"""
_COMMITS_ON_DISK: Final = ("on", "remote_apply")
# SQLSTATE classes and codes that say "not now", where the statement itself is right.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_READ_ONLY: Final = "25006"  # read-only transaction: the primary became a standby
_OUTAGES: Final = (
    "08",  # connection
    _READ_ONLY,
    "25P03",  # idle in transaction for too long
    "28",  # authorization
    "3D000",  # no such database
    "40",  # deadlock, serialization failure
    "53",  # out of disk, memory or connections
    "55P03",  # lock not available
    "57",  # shutdown, start-up, cancelled by statement_timeout
    "58",  # input/output error
)

_WORDS_OF: Final[Mapping[str, str]] = {
    "28": "it refuses the user or the password",
    "3D000": "it has no database of that name",
    "53300": "it has no connection left",
    "57P03": "it is starting or stopping",
}
_ERRNO: Final = re.compile(r"\[Errno ([0-9]+)\]")  # of the first address, where a name has several

log = structlog.get_logger(__name__)


def open_engine(url: URL, name: str) -> PostgresEngine:
    """Return an engine that connects when it is first used; `name` is shown in pg_stat_activity."""
    if url.drivername not in ("postgresql", "postgresql+asyncpg"):
        raise SettingsError(f"database URL: write postgresql:// in place of {url.drivername}://")
    if not url.database:
        raise SettingsError("database URL: name the database, as in postgresql://host/name")
    url = _with_drivers_words(url.set(drivername="postgresql+asyncpg"))
    return PostgresEngine(
        create_async_engine(
            url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",  # transactions are begun and ended by PostgresConnection
            connect_args={"timeout": CONNECT_SECONDS, "server_settings": {**_SESSION, "application_name": name}},
        )
    )


async def problem(url: URL) -> str:
    """Return why the database can not be had just now, in words without a user or a password; empty when it can.

    Nothing is logged: it is for whoever waits. Raises SettingsError when the server would not keep what it commits.
    """
    engine = open_engine(url, "textway")
    try:
        async with engine.transaction(writes=False, patience_seconds=CONNECT_SECONDS):
            return ""
    except Exception as error:
        if not engine.is_outage(error):
            raise
        return _reason(error)
    finally:
        await engine.close()


def _reason(error: Exception) -> str:
    error = getattr(error, "orig", error)
    state = getattr(error, "sqlstate", None)
    if state:
        # The server's own words name the user.
        return next((words for start, words in _WORDS_OF.items() if state.startswith(start)), type(error).__name__)
    if isinstance(error, TimeoutError):
        return "no answer"
    if number := _ERRNO.search(str(error)):
        return os.strerror(int(number[1]))
    return getattr(error, "strerror", None) or str(error)


def _with_drivers_words(url: URL) -> URL:
    # libpq's name for it, which every hosted PostgreSQL shows in the URL that it hands out.
    mode = url.query.get("sslmode")
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode}) if mode else url


class PostgresEngine:
    """One pool for reads and writes."""

    is_exclusive = False

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Connections from before a break may be dead without knowing it.
        self._breaks = 0
        event.listen(engine.sync_engine, "connect", self._examine_server)
        event.listen(engine.sync_engine, "checkout", self._replace_dead)
        event.listen(engine.sync_engine, "handle_error", self._examine_error)

    @contextlib.asynccontextmanager
    async def transaction(self, *, writes: bool, patience_seconds: float) -> AsyncIterator[Connection]:
        """See Engine."""
        async with self._lent(patience_seconds) as connection:
            await connection.begin(writes=writes)
            if patience_seconds * 1000 > STATEMENT_MS:
                await _set_waits(connection.driver, "SET LOCAL", patience_seconds)
            yield connection
            await connection.commit()

    @contextlib.asynccontextmanager
    async def _lent(self, patience_seconds: float) -> AsyncIterator[PostgresConnection]:
        """Lend a connection for so long; what was begun on it and is not committed is undone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_seconds
        async with asyncio.timeout_at(deadline):
            connection = await self._take()
        # Cutting the connection ends whatever it waits for, at once and without a word from the server; a cancelled
        # statement would wait for the server to agree.
        watchdog = loop.call_at(deadline, connection.driver.terminate)
        try:
            yield connection
        except Exception as error:
            _forget_values(error)
            if _state_of(error) == _READ_ONLY:
                # It leads to a server that was a standby when it was made, and goes on being so in its own eyes.
                connection.driver.terminate()
            else:
                await _undo(connection)
            if connection.driver.is_closed():
                self._breaks += 1
                # The driver meets its own deadline with whatever error its state then leads to.
                if not self.is_outage(error):
                    raise ConnectionError(f"a connection is lost: {type(error).__name__}") from error
            raise
        except BaseException:
            # A caller that is cancelled must not leave the connection behind, nor wait for it.
            connection.driver.terminate()
            raise
        finally:
            watchdog.cancel()
            connection.give_back()

    async def _take(self) -> PostgresConnection:
        try:
            return PostgresConnection(self._engine, await self._engine.raw_connection())
        except InvalidRequestError as error:
            raise ConnectionError("each connection that was made broke before it could be used") from error

    @contextlib.asynccontextmanager
    async def outside_transaction(self, *, patience_seconds: float) -> AsyncIterator[Connection]:
        """See Engine."""
        async with asyncio.timeout(patience_seconds):
            connection = await self._take()
            try:
                await _set_waits(connection.driver, "SET", patience_seconds)
                yield connection
            finally:
                # Its settings and its locks end with it.
                connection.driver.terminate()
                connection.give_back()

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """See Engine."""
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await self._take()
        try:
            await _listen(connection.driver, channel, heard)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConnectionError(f"a connection that listened is lost: {type(error).__name__}") from error
        finally:
            # It would go on listening in the pool.
            connection.driver.terminate()
            connection.give_back()

    async def run(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        *,
        writes: bool,
        patience_seconds: float,
        rows: int = 1,  # noqa: ARG002  # however many, they are the server's work
    ) -> Result:
        """See Engine."""
        async with self.transaction(writes=writes, patience_seconds=patience_seconds) as connection:
            return await work(connection)

    async def run_alone(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        *,
        writes: bool,  # noqa: ARG002  # a connection is for both
        patience_seconds: float,
    ) -> Result:
        """See Engine."""
        async with self._lent(patience_seconds) as connection:
            return await work(connection)

    def is_outage(self, error: Exception) -> bool:
        """See Engine."""
        if isinstance(error, (OSError, PoolTimeoutError, asyncpg.InvalidCachedStatementError)):
            return True  # of the last, the driver has forgotten what it had prepared before a step of the schema
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        return _state_of(error).startswith(_OUTAGES)

    def problem(self) -> str:
        """See Engine."""
        return ""

    def pools(self) -> Mapping[str, Pool]:
        """See Engine."""
        return {"all": cast("Pool", self._engine.pool)}

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    def _examine_server(self, connection: Any, record: Any) -> None:
        connection.run_async(_examine_server)
        record.info["breaks"] = self._breaks  # it has answered, whatever broke while it was made

    def _replace_dead(self, connection: Any, record: Any, _proxy: object) -> None:
        # Cheaper than a ping: a server that closed the connection was heard, and one that fell silent was noticed.
        driver = connection.driver_connection
        if driver.is_closed() or record.info["breaks"] != self._breaks:
            driver.terminate()
            raise DisconnectionError

    def _examine_error(self, context: ExceptionContext) -> None:
        _forget_values(context.original_exception.__cause__)
        if context.is_disconnect:
            self._breaks += 1
            # The pool would say goodbye on each of its connections, and wait for the answer of a server that is away.
            context.invalidate_pool_on_disconnect = False


async def _listen(driver: Driver, channel: str, heard: Callable[[str], None]) -> None:
    async with asyncio.timeout(CONNECT_SECONDS):
        await driver.add_listener(channel, lambda _connection, _process, _channel, payload: heard(payload))
    while True:
        await asyncio.sleep(LISTENING_CHECK_SECONDS)
        async with asyncio.timeout(CONNECT_SECONDS):
            await driver.execute("SELECT 1")


def _state_of(error: Exception) -> str:
    # SQLAlchemy's error around the driver's, the driver's own, or that of a connection that could not be made.
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def _forget_values(error: BaseException | None) -> None:
    # PostgreSQL quotes the row that broke a rule in the detail, and a traceback shows it.
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None


async def _undo(connection: PostgresConnection) -> None:
    try:
        await connection.roll_back()
    except BaseException as error:
        connection.driver.terminate()
        if not isinstance(error, Exception):
            raise


async def _set_waits(driver: Driver, how: str, seconds: float) -> None:
    """Let statements and locks take so long, by SET or SET LOCAL."""
    milliseconds = round(seconds * 1000)
    await driver.execute(f"{how} statement_timeout = {milliseconds}; {how} lock_timeout = {milliseconds}")


async def _examine_server(driver: Driver) -> None:
    found = await driver.fetchrow(_SERVER_SETTINGS)
    if found["encoding"] != "UTF8":
        raise SettingsError(
            f"PostgreSQL: the database's encoding is {found['encoding']}, which can not hold every text."
            " Create it with ENCODING 'UTF8'."
        )
    if found["fsync"] != "on":
        raise SettingsError(
            "PostgreSQL: the server runs with fsync=off, so that a power cut would lose accepted messages."
            " Set fsync=on in postgresql.conf and restart it."
        )
    if found["full_page_writes"] != "on":
        log.warning("PostgreSQL runs with full_page_writes=off: a power cut may damage the database")
    if found["synchronous_commit"] not in _COMMITS_ON_DISK:
        await driver.execute("SET synchronous_commit = on")
        actual = (await driver.fetchrow(_SERVER_SETTINGS))["synchronous_commit"]
        if actual not in _COMMITS_ON_DISK:
            raise SettingsError(f"PostgreSQL: synchronous_commit stays {actual}, so that accepted messages may be lost")
        log.warning("PostgreSQL has a weaker synchronous_commit; Textway's own sessions use on")
