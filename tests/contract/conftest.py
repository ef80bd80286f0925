"""The engines that every store suite runs on."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest

from servicekit.database import Database
from tests.kit import schemas

MEMORY = "sqlite://"


@pytest.fixture
def postgres_database(postgres_with_schemas: str) -> str:
    """Here nobody needs an empty one."""
    return postgres_with_schemas


@pytest.fixture(params=["sqlite memory", "sqlite file", "postgresql"])
def database_url(request, tmp_path, sqlite_template):
    match request.param:
        case "sqlite memory":
            return MEMORY
        case "sqlite file":
            shutil.copy(sqlite_template, tmp_path / "store.db")
            return f"sqlite:///{tmp_path / 'store.db'}"
        case _:
            return request.getfixturevalue("postgres_database")


@pytest.fixture
async def database(database_url, sqlite_template) -> AsyncIterator[Database]:
    """One with the newest schema of every service, and no row yet."""
    async with Database.open(database_url) as database:
        if database_url == MEMORY:
            await schemas.copy(sqlite_template, database)
        yield database
