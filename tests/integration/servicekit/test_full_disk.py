"""A service's SQLite file on a disk that fills up."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from servicekit.database import Database
from servicekit.errors import UnavailableError

DISK_BYTES = 8 * 1024 * 1024
ROW_BYTES = 2_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("a small disk can not be made here: there is no `mount`")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can not be mounted here, which takes root: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


async def write(database: Database, number: int) -> None:
    async with database.write() as connection:
        await connection.execute(
            text("INSERT INTO notes (id, body) VALUES (:id, :body)"), {"id": number, "body": "x" * ROW_BYTES}
        )


async def written(database: Database) -> list[int]:
    async with database.read() as connection:
        return list(await connection.scalars(text("SELECT id FROM notes ORDER BY id")))


@pytest.mark.faults
async def test_a_full_disk_is_unavailable_loses_nothing_and_is_over_when_there_is_room(small_disk):
    database = Database.open(f"sqlite:///{small_disk / 'probe.db'}")
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"))
    acknowledged: list[int] = []
    for number in range(100):
        await write(database, number)
        acknowledged.append(number)
    balloon = small_disk / "balloon"
    with contextlib.suppress(OSError), balloon.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

    refused = 0
    for number in range(100, 3_000):
        try:
            await write(database, number)
            acknowledged.append(number)
        except UnavailableError:
            refused += 1
        if refused == 20:
            break
    still_readable = await written(database)
    balloon.unlink()
    for number in range(5_000, 5_100):
        await write(database, number)
        acknowledged.append(number)

    assert refused == 20
    assert still_readable == [number for number in acknowledged if number < 5_000]
    await database.close()
    reopened = Database.open(f"sqlite:///{small_disk / 'probe.db'}")
    assert await written(reopened) == acknowledged
    async with reopened.read() as connection:
        assert await connection.scalar(text("PRAGMA integrity_check")) == "ok"
    await reopened.close()
