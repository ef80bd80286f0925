"""The engines that every store suite runs on."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite memory", "sqlite file", "postgresql"])
def database_url(request, tmp_path):
    """An empty database."""
    match request.param:
        case "sqlite memory":
            return "sqlite://"
        case "sqlite file":
            return f"sqlite:///{tmp_path / 'store.db'}"
        case _:
            return request.getfixturevalue("postgres_database")
