"""Keep what a release leaves and does, for the tests of later ones: `make record-release`, when it is made."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from cryptography.fernet import Fernet

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance as delivery_service
from services.integrations import maintenance as integrations_service
from services.integrations.key_ring import KeyRing
from tests.fakes.postgres import new_database, shared_url
from tests.releases import delivery, integrations
from tests.releases.recording import Release, engine_of, fill, play, recorded, rows_in

Scenario = Callable[[Database], Awaitable[None]]


async def record(service: ModuleType, *, leave: Scenario, work: Scenario, key_ring: str, urls: list[list[str]]) -> None:
    """Run both scenarios on SQLite and PostgreSQL, and write what they did."""
    name = service.VERSION_TABLE.partition("_")[0]
    left = await _opened(service, "sqlite://")
    await leave(left)
    rows = await rows_in(left, service.VERSION_TABLE)
    await left.close()
    statements, touched = {}, {}
    for to_work, to_play in urls:
        database = await _opened(service, to_work)
        await fill(database, rows)
        with recorded() as statements[engine_of(to_work)]:
            await work(database)
        await database.close()
        again = await _opened(service, to_play)
        await fill(again, rows)
        await again.close()
        touched[engine_of(to_play)] = await play(to_play, statements[engine_of(to_play)])
    Release(
        service=name,
        revision=migrations.steps(service.MIGRATIONS)[-1].revision,
        key_ring=key_ring,
        rows=rows,
        statements=statements,
        touched=touched,
    ).save()


async def _opened(service: ModuleType, url: str) -> Database:
    database = Database.open(url)
    await migrations.migrate(database, service.MIGRATIONS, service.VERSION_TABLE)
    return database


def main() -> None:
    key = Fernet.generate_key().decode()
    ring = KeyRing([key])
    with tempfile.TemporaryDirectory() as folder, shared_url() as server:
        for service, leave, work, kept in (
            (delivery_service, delivery.leave, delivery.work, ""),
            (
                integrations_service,
                partial(integrations.leave, key_ring=ring),
                partial(integrations.work, key_ring=ring),
                key,
            ),
        ):
            files = [f"sqlite:///{Path(folder) / f'{service.VERSION_TABLE}-{number}.db'}" for number in range(2)]
            with new_database(server) as to_work, new_database(server) as to_play:
                urls = [files, [to_work, to_play]]
                asyncio.run(record(service, leave=leave, work=work, key_ring=kept, urls=urls))


if __name__ == "__main__":
    main()
