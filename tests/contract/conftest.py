"""The engines that every store suite runs on."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def postgres_database(postgres_with_schemas: str) -> str:
    """Here nobody needs an empty one."""
    return postgres_with_schemas


@pytest.fixture(params=["sqlite memory", "sqlite file", "postgresql"])
def database_url(request, tmp_path, sqlite_template):
    """A database without a row; `migrate` has nothing left to do, save in memory."""
    match request.param:
        case "sqlite memory":
            return "sqlite://"
        case "sqlite file":
            shutil.copy(sqlite_template, tmp_path / "store.db")
            return f"sqlite:///{tmp_path / 'store.db'}"
        case _:
            return request.getfixturevalue("postgres_database")
