"""What the steps are measured on: a store on each engine, and the event loop that the product has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks import databases
from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance
from services.delivery.sql_store import SqlMessageStore
from services.delivery.sql_webhooks import SqlWebhookStore
from tests.fakes import postgres

Runs = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Runs]:
    """Run a coroutine to its end, always on the same loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run a PostgreSQL, with fsync on."""
    with databases.temporary_folder() as folder, databases.running_postgres(folder, wanted=True) as running:
        assert running is not None
        yield running if isinstance(running, str) else running.url


@pytest.fixture(params=databases.ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path, run: Runs) -> Iterator[Database]:
    """Open Delivery's database, empty, in a file or on the server."""
    if request.param == databases.SQLITE:
        yield from _opened(f"sqlite:///{tmp_path / 'delivery.db'}", run)
        return
    with postgres.new_database(request.getfixturevalue("server")) as url:
        yield from _opened(url, run)


@pytest.fixture
def store(database: Database) -> SqlMessageStore:
    """Keep messages in it."""
    return SqlMessageStore(database)


@pytest.fixture
def webhooks(database: Database) -> SqlWebhookStore:
    """Keep webhook deliveries in it."""
    return SqlWebhookStore(database)


def _opened(url: str, run: Runs) -> Iterator[Database]:
    database = Database.open(url)
    run(migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE))
    yield database
    run(database.close())
