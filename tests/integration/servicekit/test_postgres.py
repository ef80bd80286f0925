"""A service's database on PostgreSQL: what the server must promise, how outages are told, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from servicekit import migrations, postgres, schema
from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError
from services.delivery import maintenance
from tests.fakes.postgres import execute, new_database, running_server

TOLD_WITHIN_SECONDS = 2.0


@pytest.fixture
async def database(postgres_database) -> AsyncIterator[Database]:
    execute(postgres_database, "CREATE TABLE notes (id BIGINT GENERATED ALWAYS AS IDENTITY, body TEXT UNIQUE)")
    database = Database.open(postgres_database, name="textway-probe")
    yield database
    await database.close()


@pytest.fixture
async def stoppable():
    """A server of this test's own, and a database on it whose pool is warm."""
    with running_server() as server:
        execute(server.url, "CREATE TABLE notes (id BIGINT GENERATED ALWAYS AS IDENTITY, body TEXT UNIQUE)")
        database = Database.open(server.url)
        await asyncio.gather(*(note(database, f"warm {number}") for number in range(postgres.CONNECTIONS)))
        yield server, database
        await database.close()


async def note(database: Database, body: str) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": body})


async def notes(database: Database) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(text("SELECT body FROM notes ORDER BY id")))


async def is_told_in_time(database: Database, at_once: int = 1) -> None:
    started = time.monotonic()
    results = await asyncio.gather(*(note(database, f"no {n}") for n in range(at_once)), return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * at_once
    assert time.monotonic() - started < TOLD_WITHIN_SECONDS


async def test_a_session_is_set_up_as_promised(database):
    wanted = {
        "application_name": "textway-probe",
        "synchronous_commit": "on",
        "lock_timeout": "1250ms",
        "statement_timeout": "1500ms",
        "idle_in_transaction_session_timeout": "10s",
        "transaction_isolation": "read committed",
    }
    async with database.write() as connection:
        found = {name: await connection.scalar(text(f"SHOW {name}")) for name in wanted}

    assert found == wanted
    assert not database.is_exclusive


async def test_a_read_is_one_snapshot_and_can_not_write(database):
    await note(database, "before")

    async with database.read() as connection:
        first = await connection.scalar(text("SELECT count(*) FROM notes"))
        await note(database, "after")
        second = await connection.scalar(text("SELECT count(*) FROM notes"))

    assert (first, second) == (1, 1)
    assert await notes(database) == ["before", "after"]
    with pytest.raises(UnavailableError):
        async with database.read() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('no')"))


async def test_a_write_after_a_read_on_the_same_connection_is_read_committed_again(database):
    for _ in range(3):
        await notes(database)
        async with database.write() as connection:
            assert await connection.scalar(text("SHOW transaction_isolation")) == "read committed"
            assert await connection.scalar(text("SHOW transaction_read_only")) == "off"


async def test_what_breaks_a_rule_of_the_schema_is_no_outage(database):
    await note(database, "once")

    with pytest.raises(IntegrityError, match="unique"):
        await note(database, "once")

    with pytest.raises(ProgrammingError):
        async with database.read() as connection:
            await connection.execute(text("SELECT * FROM nowhere"))


async def test_an_errors_traceback_holds_no_stored_values(database):
    body = "+65" + "81230000"  # a traceback shows the test's own lines too
    await note(database, body)

    with pytest.raises(IntegrityError) as refused:
        await note(database, body)

    assert body not in "".join(traceback.format_exception(refused.value))


async def test_nothing_of_a_transaction_stays_when_it_fails_or_its_caller_is_cancelled(database):
    wrote = asyncio.Event()

    async def linger() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('half')"))
            wrote.set()
            await connection.execute(text("SELECT pg_sleep(1.2)"))

    task = asyncio.create_task(linger())
    await wrote.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def test_whatever_the_driver_says_of_a_connection_that_was_cut_is_an_outage(database):
    async def cut_off() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('cut')"))
            connection.driver.terminate()
            raise AttributeError("'NoneType' object has no attribute 'bind_execute'")

    with pytest.raises(UnavailableError):
        await cut_off()

    assert await notes(database) == []


@pytest.mark.parametrize("is_cut", [False, True])
async def test_what_breaks_while_a_connection_is_made_is_no_defect_of_ours(database, monkeypatch, is_cut):
    engine, examine = database._engine, postgres._examine_server

    async def examine_amid_breaks(driver) -> None:
        await examine(driver)
        engine._breaks += 1
        if is_cut:
            driver.terminate()

    await note(database, "before")
    engine._breaks += 1
    monkeypatch.setattr(postgres, "_examine_server", examine_amid_breaks)

    if is_cut:
        with pytest.raises(UnavailableError):
            await note(database, "cut")
    else:
        await note(database, "after")


async def test_a_connection_to_what_has_become_a_standby_is_used_once_and_never_again(database):
    # As after a fail-over behind one name: the connections that are there lead to a server which takes no writes.
    async with database.write() as connection:
        await connection.execute(text("SET SESSION default_transaction_read_only = on"))
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    (first,) = await asyncio.gather(note(database, "no"), return_exceptions=True)

    for number in range(3):
        await note(database, f"yes {number}")

    assert isinstance(first, UnavailableError)
    assert await notes(database) == ["yes 0", "yes 1", "yes 2"]


async def test_a_row_that_another_holds_is_waited_for_and_not_for_long(database):
    await note(database, "mine")
    async with database.write() as holder:
        await holder.execute(text("SELECT * FROM notes FOR UPDATE"))
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            async with database.write() as connection:
                await connection.execute(text("UPDATE notes SET body = 'theirs'"))
        assert time.monotonic() - started < TOLD_WITHIN_SECONDS

    assert await notes(database) == ["mine"]


async def test_a_transaction_that_is_said_to_take_long_may_take_long(database):
    async with database.write(patience_seconds=10) as connection:
        await connection.execute(text("SELECT pg_sleep(1.7)"))

    with pytest.raises(UnavailableError):
        async with database.write() as connection:
            await connection.execute(text("SELECT pg_sleep(1.7)"))


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_stopped_server_is_told_at_once_and_is_used_at_once_when_it_is_back(stoppable, mode):
    server, database = stoppable

    server.stop(mode)
    await is_told_in_time(database, at_once=20)
    server.start()

    await asyncio.gather(*(note(database, f"back {number}") for number in range(20)))
    assert len(await notes(database)) == postgres.CONNECTIONS + 20


@pytest.mark.faults
async def test_a_server_that_restarted_between_two_calls_costs_nobody_anything(stoppable):
    server, database = stoppable

    server.stop("fast")
    server.start()
    await asyncio.sleep(0.05)  # the server's goodbyes are read

    await asyncio.gather(*(note(database, f"back {number}") for number in range(20)))


@pytest.mark.faults
async def test_a_server_that_stands_still_is_told_in_time_and_is_used_at_once_when_it_goes_on(stoppable):
    server, database = stoppable

    with server.paused():
        await is_told_in_time(database, at_once=30)
        await is_told_in_time(database)

    await note(database, "back")
    assert "back" in await notes(database)


@pytest.mark.faults
async def test_a_network_that_swallows_everything_is_told_in_time_and_left_behind_when_it_heals(postgres_database):
    execute(postgres_database, "CREATE TABLE notes (id BIGINT GENERATED ALWAYS AS IDENTITY, body TEXT UNIQUE)")
    async with swallowing_proxy(postgres_database) as (url, swallow):
        database = Database.open(url)
        await asyncio.gather(*(note(database, f"warm {number}") for number in range(5)))

        swallow.set()
        await is_told_in_time(database, at_once=5)
        await is_told_in_time(database)
        swallow.clear()

        # The connections from before are dead for ever; none of these calls may meet one.
        started = time.monotonic()
        await asyncio.gather(*(note(database, f"back {number}") for number in range(10)))
        assert time.monotonic() - started < TOLD_WITHIN_SECONDS
        await database.close()


@contextlib.asynccontextmanager
async def swallowing_proxy(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """While the event is set, bytes vanish; a connection that lost any never gets another through."""
    target = make_url(url)
    swallow = asyncio.Event()
    pumps: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, dead: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if swallow.is_set():
                    dead.set()
                if not dead.is_set():
                    sink.write(data)
                    await sink.drain()
        sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(target.host, target.port)
        dead = asyncio.Event()
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pumps.add(asyncio.create_task(pump(source, sink, dead)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False), swallow
    finally:
        server.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_a_server_that_does_not_exist_is_unavailable():
    database = Database.open("postgresql://textway@127.0.0.1:9/textway")

    await is_told_in_time(database)

    await database.close()


async def test_refuses_a_server_that_would_lose_commits():
    with running_server(fsync="off") as server:
        database = Database.open(server.url)
        with pytest.raises(SettingsError, match="runs with fsync=off"):
            await note(database, "no")
        await database.close()


async def test_commits_on_disk_also_where_the_server_would_not(postgres_scratch):
    user = make_url(postgres_scratch).username
    execute(postgres_scratch, f'ALTER ROLE "{user}" SET synchronous_commit = off')
    database = Database.open(postgres_scratch)
    try:
        async with database.write() as connection:
            assert await connection.scalar(text("SHOW synchronous_commit")) == "on"
    finally:
        execute(postgres_scratch, f'ALTER ROLE "{user}" RESET synchronous_commit')
        await database.close()


async def test_refuses_an_encoding_that_can_not_hold_every_text(postgres_url):
    with new_database(postgres_url, "ENCODING 'LATIN1' LOCALE 'C'") as url:
        database = Database.open(url)
        with pytest.raises(SettingsError, match="encoding is LATIN1"):
            await note(database, "no")
        await database.close()


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://localhost/textway", "postgresql://localhost", "postgres://localhost/textway"]
)
def test_refuses_a_url_that_it_can_not_use(url):
    with pytest.raises(SettingsError):
        Database.open(url)


async def test_migrating_from_two_processes_at_once_is_done_once(postgres_database):
    databases = [Database.open(postgres_database) for _ in range(4)]

    await asyncio.gather(
        *(migrations.migrate(each, maintenance.MIGRATIONS, maintenance.VERSION_TABLE) for each in databases)
    )

    for each in databases:
        await schema.require_usable(each, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
        await each.close()


async def test_refuses_to_start_while_steps_are_pending(postgres_database):
    database = Database.open(postgres_database)

    with pytest.raises(SettingsError, match="run `textway migrate`"):
        await schema.require_usable(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)

    await database.close()


@pytest.mark.faults
async def test_a_service_that_starts_during_an_outage_waits_for_its_end(stoppable):
    server, database = stoppable
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    server.stop()

    starting = asyncio.create_task(schema.require_usable(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE))
    await asyncio.sleep(0.3)
    assert not starting.done()
    server.start()

    await starting
