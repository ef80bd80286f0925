"""What every test may use: a clock that stands still until it is moved, and a PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy.engine import make_url

from tests.fakes import postgres
from tests.kit import schemas

# Many services run in this process, and would all show their metrics at the same address.
for name in ("INTEGRATIONS", "INGRESS", "DELIVERY"):
    os.environ.setdefault(f"TEXTWAY_{name}_METRICS_LISTEN", "")


# To look for circles among all that stays takes a second here, in which no event loop turns.
gc.disable()


def pytest_collection_finish() -> None:
    """Look for circles in what the tests make, as rarely as the product does, and not in the tests themselves."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


class FixedClock:
    """A clock that only `advance` moves; sleepers wake when their time has come."""

    def __init__(self) -> None:
        self._now = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
        self._seconds = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._seconds + seconds, woken))
        await woken

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._seconds += seconds
        for due, woken in self._sleepers:
            if due <= self._seconds and not woken.done():
                woken.set_result(None)
        self._sleepers = [(due, woken) for due, woken in self._sleepers if not woken.done()]


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Undo what a command that was run in this process has set; others look for lines that it would leave out."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path has room for sockets behind it, which `tmp_path` may have not."""
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The PostgreSQL of this run, started when a test first asks for it."""
    with postgres.shared_url() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_scratch(postgres_url: str) -> Iterator[str]:
    with postgres.new_database(postgres_url) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_scratch: str) -> str:
    """An empty database on it."""
    postgres.empty(postgres_scratch)
    return postgres_scratch


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a database that is there to be copied."""
    with postgres.new_database(postgres_url) as url:
        schemas.bring_up(url)
        yield make_url(url).database or ""


@pytest.fixture
def postgres_with_schemas(postgres_url: str, postgres_template: str) -> Iterator[str]:
    """A database on it that has the newest schema of every service, and no row yet. Its steps take half a second."""
    with postgres.new_database(postgres_url, "STRATEGY file_copy", template=postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file with the same. What is copied from it is a database of its own."""
    path = tmp_path_factory.mktemp("schemas") / "template.db"
    schemas.bring_up(f"sqlite:///{path}")
    return path
