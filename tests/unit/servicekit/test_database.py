"""A service's database: what is promised of SQLite is read back, and what can not be had is said plainly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from servicekit import migrations, schema
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError
from servicekit.sqlite import BUSY_TIMEOUT_MS, READERS, ROWS_AT_ONCE
from servicekit.sqlite_lines import Line

VERSION_TABLE = "probe_schema_version"
OPEN_IN_ANOTHER_PROCESS = """
import sys
from servicekit.database import Database
from servicekit.settings import SettingsError
try:
    Database.open(sys.argv[1])
except SettingsError as error:
    print(error)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "probe.db"


@pytest.fixture
async def database(path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{path}")
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT UNIQUE)"))
    yield database
    await database.close()


@pytest.fixture
def commits(database, monkeypatch) -> list[threading.Thread]:
    """Give the thread of each commit from now on."""
    threads: list[threading.Thread] = []
    commit = Line._commit

    def watched(line: Line) -> None:
        threads.append(threading.current_thread())
        commit(line)

    monkeypatch.setattr(Line, "_commit", watched)
    return threads


@contextlib.contextmanager
def locked_by_another(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def note(database: Database, body: str) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": body})


async def notes(database: Database) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(text("SELECT body FROM notes ORDER BY id")))


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", BUSY_TIMEOUT_MS),
        ("query_only", 0),
    ],
)
async def test_the_writer_is_set_up_as_promised(database, pragma, expected):
    async with database.write() as connection:
        assert await connection.scalar(text(f"PRAGMA {pragma}")) == expected


@pytest.mark.parametrize(
    ("pragma", "expected"), [("journal_mode", "wal"), ("query_only", 1), ("busy_timeout", BUSY_TIMEOUT_MS)]
)
async def test_every_reader_is_set_up_as_promised(database, pragma, expected):
    async with contextlib.AsyncExitStack() as held:
        readers = [await held.enter_async_context(database.read()) for _ in range(READERS)]

        assert [await reader.scalar(text(f"PRAGMA {pragma}")) for reader in readers] == [expected] * READERS


async def test_a_reader_can_not_write(database):
    with pytest.raises(UnavailableError):
        async with database.read() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('no')"))

    assert await notes(database) == []


async def test_a_reader_sees_what_was_committed_before_it_began_and_nothing_later(database):
    await note(database, "before")

    async with database.read() as connection:
        first = await connection.scalar(text("SELECT count(*) FROM notes"))
        await note(database, "after")
        second = await connection.scalar(text("SELECT count(*) FROM notes"))

    assert (first, second) == (1, 1)
    assert await notes(database) == ["before", "after"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory_keeps_what_is_written(url):
    database = Database.open(url)
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"))

    await asyncio.gather(*(note(database, str(number)) for number in range(20)))

    assert len(await notes(database)) == 20
    await database.close()


async def test_writers_of_one_process_wait_for_each_other(database):
    await asyncio.gather(*(note(database, str(number)) for number in range(50)))

    assert sorted(await notes(database), key=int) == [str(number) for number in range(50)]


async def test_a_writer_holds_the_lock_before_it_has_written_anything(database, path):
    async with database.write() as connection:
        await connection.execute(text("SELECT count(*) FROM notes"))

        with (
            contextlib.closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("INSERT INTO notes (body) VALUES ('between')")

    assert await notes(database) == []


async def test_nothing_of_a_transaction_stays_when_it_fails(database):
    async def change_ones_mind() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('half')"))
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_ones_mind()

    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def test_nothing_of_a_transaction_stays_when_its_caller_is_cancelled(database):
    wrote = asyncio.Event()

    async def linger() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO notes (body) VALUES ('half')"))
            wrote.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(linger())
    await wrote.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def insert(connection: Connection, body: str) -> None:
    await connection.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": body})


async def test_commits_a_transaction_that_is_given_as_a_whole_and_returns_what_it_returns(database):
    async def work(connection: Connection) -> int:
        await insert(connection, "first")
        await insert(connection, "second")
        return 2

    assert await database.run_write(work) == 2
    assert await notes(database) == ["first", "second"]


async def test_nothing_of_a_whole_transaction_stays_when_it_fails(database):
    async def work(connection: Connection) -> None:
        await insert(connection, "half")
        raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await database.run_write(work)

    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def test_refuses_a_whole_transaction_that_waits_for_something_else(database):
    async def work(connection: Connection) -> None:
        await insert(connection, "half")
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="nothing but its connection"):
        await database.run_write(work)

    assert await notes(database) == []


async def test_a_whole_transaction_ends_before_the_next_one_when_its_caller_is_cancelled(database):
    begun, go_on = threading.Event(), threading.Event()

    async def work(connection: Connection) -> None:
        begun.set()
        go_on.wait(5)
        await insert(connection, "first")

    task = asyncio.create_task(database.run_write(work, rows=ROWS_AT_ONCE + 1))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    second = asyncio.create_task(note(database, "second"))
    go_on.set()
    await second

    assert task.cancelled()
    assert await notes(database) == ["first", "second"]


async def test_a_whole_transaction_is_committed_when_its_caller_is_cancelled_meanwhile(database):
    task = asyncio.create_task(database.run_write(lambda connection: insert(connection, "first")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await note(database, "second")

    assert task.cancelled()
    assert await notes(database) == ["first", "second"]


async def test_a_whole_transaction_is_done_where_it_is_called_and_committed_elsewhere(database, commits):
    async def work(connection: Connection) -> threading.Thread:
        await insert(connection, "here")
        return threading.current_thread()

    assert await database.run_write(work) is threading.current_thread()
    assert [thread is threading.current_thread() for thread in commits] == [False]


async def test_a_whole_transaction_that_has_changed_nothing_ends_where_it_is_called(database, commits):
    async def work(connection: Connection) -> int | None:
        return await connection.scalar(text("SELECT count(*) FROM notes"))

    await database.run_read(work)  # which opens the file
    commits.clear()

    assert [await database.run_read(work), await database.run_write(work)] == [0, 0]
    assert commits == [threading.current_thread()] * 2


async def test_a_long_whole_transaction_is_done_elsewhere(database):
    async def work(connection: Connection) -> threading.Thread:
        await insert(connection, "there")
        return threading.current_thread()

    assert await database.run_write(work, rows=ROWS_AT_ONCE + 1) is not threading.current_thread()


async def test_a_whole_transaction_that_waits_for_a_lock_holds_nothing_else_up(database, path, monkeypatch):
    waits: list[tuple[bool, bool]] = []  # whether on the event loop's thread, and whether for any time
    wait_at_most = Line._wait_at_most

    def watched(line: Line, driver: sqlite3.Connection, seconds: float) -> None:
        waits.append((threading.current_thread() is threading.main_thread(), seconds > 0))
        wait_at_most(line, driver, seconds)

    monkeypatch.setattr(Line, "_wait_at_most", watched)

    with locked_by_another(path):
        task = asyncio.create_task(database.run_write(lambda connection: insert(connection, "late")))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not task.done()

    await task
    assert waits == [(True, False), (False, True)]
    assert await notes(database) == ["late"]


async def test_nothing_of_a_whole_transaction_stays_when_its_commit_is_refused(database):
    async with database.write() as connection:
        await connection.execute(
            text("CREATE TABLE answers (note INTEGER REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)")
        )

    async def work(connection: Connection) -> None:
        await insert(connection, "half")
        await connection.execute(text("INSERT INTO answers (note) VALUES (99)"))

    with pytest.raises(sqlite3.IntegrityError):
        await database.run_write(work)

    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def test_says_so_in_time_when_a_whole_transaction_finds_the_file_locked(database, path):
    with locked_by_another(path), pytest.raises(UnavailableError):
        await database.run_write(lambda connection: insert(connection, "half"))

    assert await notes(database) == []


@pytest.mark.parametrize("statement", ["INSERT INTO notes (body) VALUES (:body)", "UPDATE notes SET body = :body"])
async def test_an_errors_text_holds_no_bound_values(database, statement):
    await note(database, "+6581230000")
    await note(database, "other")

    with pytest.raises(IntegrityError) as refused:
        async with database.write() as connection:
            await connection.execute(text(statement), {"body": "+6581230000"})

    assert "UNIQUE" in str(refused.value)
    assert "+6581230000" not in f"{refused.value} {refused.value!r}"


async def test_says_in_time_that_a_locked_database_is_unavailable_and_does_nothing(database, path):
    with locked_by_another(path):
        begun_at = time.monotonic()
        with pytest.raises(UnavailableError) as refused:
            await note(database, "half")
        waited = time.monotonic() - begun_at
        still_read = await notes(database)

    assert 1 < waited < 2.5
    assert refused.value.retry_after_seconds == 1
    assert str(path) not in refused.value.message
    assert still_read == []
    await note(database, "whole")
    assert await notes(database) == ["whole"]


async def test_says_so_in_time_to_every_writer_that_waits(database, path):
    with locked_by_another(path):
        begun_at = time.monotonic()
        answers = await asyncio.gather(*(note(database, str(number)) for number in range(5)), return_exceptions=True)
        waited = time.monotonic() - begun_at

    assert [type(answer) for answer in answers] == [UnavailableError] * 5
    assert waited < 2.5
    assert await notes(database) == []


async def test_waits_for_a_lock_that_is_soon_released(database, path):
    with locked_by_another(path):
        task = asyncio.create_task(note(database, "patient"))
        await asyncio.sleep(0.1)
        assert not task.done()
    await task

    assert await notes(database) == ["patient"]


async def test_says_that_a_full_disk_is_unavailable_and_keeps_nothing_of_the_transaction(database):
    async def fill_the_disk() -> None:
        async with database.write() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1"))
            await connection.execute(text("INSERT INTO notes (body) VALUES ('half')"))
            await connection.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": "x" * 1_000_000})

    with pytest.raises(UnavailableError):
        await fill_the_disk()

    assert await notes(database) == []


async def test_says_that_nothing_can_be_written_while_the_disk_is_full_though_reading_goes_on(path):
    path.parent.mkdir()
    path.with_name(f"{path.name}.lock").symlink_to("/dev/full")
    async with Database.open(f"sqlite:///{path}") as database:
        async with database.read() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1

        assert database.problem() == "its disk can not be written: No space left on device"


async def test_says_that_nothing_can_be_written_when_the_space_that_is_left_is_less_than_a_commit_may_take(
    database, monkeypatch
):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, octets, at: write(file, octets[:4096], at))

    assert database.problem() == "its disk can not be written: nearly no space left"


async def test_has_no_problem_and_leaves_nothing_behind_when_there_is_space(database, path):
    assert database.problem() == ""
    assert path.with_name(f"{path.name}.lock").stat().st_size == 0


@pytest.mark.parametrize("way", ["read", "write"])
async def test_refuses_a_file_that_is_damaged(path, way):
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as whole:
        whole.execute("CREATE TABLE probes AS SELECT zeroblob(100000) AS size")
        whole.commit()
    path.write_bytes(path.read_bytes()[:50_000])
    database = Database.open(f"sqlite:///{path}")

    with pytest.raises(SettingsError, match=f"^{path} is damaged: put a backup in its place$"):
        async with getattr(database, way)():
            pass

    await database.close()


@pytest.mark.parametrize("way", ["read", "write"])
async def test_refuses_a_file_that_is_no_database(path, way):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage" * 100)
    database = Database.open(f"sqlite:///{path}")

    with pytest.raises(SettingsError, match=f"^{path} is no SQLite database: put a backup in its place"):
        async with getattr(database, way)():
            pass

    await database.close()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_names_the_file_of_a_database_that_can_not_be_written(path, ending):
    in_the_way = path.with_name(f"{path.name}{ending}")
    in_the_way.mkdir(parents=True)  # modes do not count for root, who may run this

    with pytest.raises(SettingsError, match=f"^database URL: {in_the_way} can not be opened: Is a directory$"):
        Database.open(f"sqlite:///{path}")


async def test_refuses_a_file_that_is_open_already_and_takes_it_when_it_is_free(path):
    first = Database.open(f"sqlite:///{path}")
    with pytest.raises(SettingsError, match=f"{path} is open in another process"):
        Database.open(f"sqlite:///{path}")
    await first.close()

    second = Database.open(f"sqlite:///{path}")

    assert second.is_exclusive
    await second.close()


async def test_refuses_a_file_that_another_process_has_open(database, path):
    other = subprocess.run(  # noqa: ASYNC221  # nothing else runs meanwhile
        [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    assert other.stdout.startswith(f"{path} is open in another process")


async def test_keeps_its_files_from_other_users(database, path):
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


def test_refuses_an_engine_that_it_does_not_know():
    with pytest.raises(SettingsError, match="only sqlite"):
        Database.open("mysql://root:hunter2@localhost/textway")


@pytest.mark.parametrize(
    "url", ["nonsense", "", "postgresql://db:x/textway", "sqlite:////dev/null/probe.db", "sqlite:////proc/probe.db"]
)
def test_refuses_a_url_that_can_not_be_used(url):
    with pytest.raises(SettingsError):
        Database.open(url)


ENVIRONMENT = "from servicekit.migrations import run_environment\n\nrun_environment()\n"
STEP = """
from alembic import op

revision = {revision!r}
down_revision = {before!r}


def upgrade():
    op.execute({statement!r})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one step, at a place with a percent sign in its name."""
    folder = tmp_path / "100% migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    add_step(folder, "0001", None, "CREATE TABLE first (id INTEGER)")
    return folder


def add_step(folder: Path, revision: str, before: str | None, statement: str, usable_from: str | None = None) -> None:
    step = STEP.format(revision=revision, before=before, statement=statement)
    if usable_from:
        step += f"\nusable_from = {usable_from!r}\n"
    (folder / "versions" / f"{revision}.py").write_text(step)


async def tables(database: Database) -> set[str]:
    async with database.read() as connection:
        return set(await connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")))


async def indexes(database: Database) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    async with database.read() as connection:
        return set(await connection.scalars(text(query)))


async def test_refuses_to_start_before_the_schema_is_current_and_not_after(database, folder):
    with pytest.raises(SettingsError, match="is at None, not 0001: run `textway migrate`"):
        await schema.require_usable(database, folder, VERSION_TABLE)

    await migrations.migrate(database, folder, VERSION_TABLE)
    await migrations.migrate(database, folder, VERSION_TABLE)

    await schema.require_usable(database, folder, VERSION_TABLE)
    assert {"first", VERSION_TABLE} <= await tables(database)


async def test_refuses_to_start_while_a_step_of_its_release_is_pending(database, folder):
    await migrations.migrate(database, folder, VERSION_TABLE)
    add_step(folder, "0002", "0001", "CREATE TABLE second (id INTEGER)")

    with pytest.raises(SettingsError, match="is at 0001, not 0002"):
        await schema.require_usable(database, folder, VERSION_TABLE)


async def migrate_by_a_newer_release(database: Database, folder: Path, *, usable_from: str | None) -> None:
    add_step(folder, "0002", "0001", "CREATE TABLE second (id INTEGER)", usable_from)
    add_step(folder, "0003", "0002", "CREATE TABLE third (id INTEGER)")
    await migrations.migrate(database, folder, VERSION_TABLE)
    for unknown in ("0002", "0003"):
        (folder / "versions" / f"{unknown}.py").unlink()


async def test_starts_on_the_schema_of_a_newer_release_that_only_added(database, folder):
    await migrate_by_a_newer_release(database, folder, usable_from=None)

    await schema.require_usable(database, folder, VERSION_TABLE)
    await migrations.migrate(database, folder, VERSION_TABLE)

    assert "third" in await tables(database)


async def test_starts_on_the_schema_of_a_newer_release_that_took_away_what_it_no_longer_uses(database, folder):
    await migrate_by_a_newer_release(database, folder, usable_from="0001")

    await schema.require_usable(database, folder, VERSION_TABLE)


async def test_refuses_the_schema_of_a_newer_release_that_took_something_away(database, folder):
    await migrate_by_a_newer_release(database, folder, usable_from="0002")

    for start in (schema.require_usable, migrations.migrate):
        with pytest.raises(SettingsError, match=r"is at 0003, .*: only one that knows 0002. Start the newer release"):
            await start(database, folder, VERSION_TABLE)


async def test_refuses_the_schema_of_a_newer_release_that_says_nothing(database, folder):
    await migrate_by_a_newer_release(database, folder, usable_from=None)
    async with database.write() as connection:
        await connection.execute(text(f"DROP TABLE {VERSION_TABLE}_floor"))

    with pytest.raises(SettingsError, match="only one that knows 0003"):
        await schema.require_usable(database, folder, VERSION_TABLE)


async def test_builds_the_indexes_that_steps_want_later_and_makes_up_for_those_that_are_missing(database, folder):
    step = folder / "versions" / "0001.py"
    index = "later_indexes = (LaterIndex(name='first_by_id', table='first', columns=['id'], where='id > 0'),)"
    step.write_text(f"from servicekit.index_building import LaterIndex\n{step.read_text()}\n{index}\n")
    await migrations.migrate(database, folder, VERSION_TABLE)
    assert await indexes(database) == {"first_by_id"}
    async with database.write() as connection:
        await connection.execute(text("DROP INDEX first_by_id"))

    await migrations.migrate(database, folder, VERSION_TABLE)

    assert await indexes(database) == {"first_by_id"}


async def test_a_step_that_fails_undoes_the_steps_before_it(database, folder):
    add_step(folder, "0002", "0001", "CREATE TABLE second (id INTEGER)")
    add_step(folder, "0003", "0002", "INSERT INTO notes (id, body) VALUES (1, 'a'), (1, 'b')")

    with pytest.raises(IntegrityError):
        await migrations.migrate(database, folder, VERSION_TABLE)

    assert not {"first", "second", VERSION_TABLE} & await tables(database)
