"""The databases that the product is measured on: SQLite files, and a PostgreSQL that is started for it or named."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fakes.postgres import PostgresServer, new_database

URL_SETTING: Final = "TEXTWAY_BENCH_POSTGRES_URL"
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
ENGINES: Final = (SQLITE, POSTGRESQL)


@dataclass(frozen=True, kw_only=True)
class Databases:
    """Empty databases for one product: the settings that name them, and the server's process if we started it."""

    settings: Mapping[str, str] = field(default_factory=dict)
    server_pid: int | None = None


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Have a folder meanwhile in which PostgreSQL, which runs as another user, can have one of its own."""
    folder = Path(tempfile.mkdtemp(prefix="textway-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh(engine: str, server: PostgresServer | str | None) -> Iterator[Databases]:
    """Have empty databases meanwhile."""
    if engine == SQLITE or server is None:
        yield Databases()  # files in the product's data folder
        return
    url = server if isinstance(server, str) else server.url
    with new_database(url) as integrations, new_database(url) as delivery:
        yield Databases(
            settings={
                "TEXTWAY_INTEGRATIONS_DATABASE_URL": integrations,
                "TEXTWAY_DELIVERY_DATABASE_URL": delivery,
            },
            server_pid=None if isinstance(server, str) else server.pid,
        )


@contextlib.contextmanager
def running_postgres(folder: Path, *, wanted: bool) -> Iterator[PostgresServer | str | None]:
    """Return the URL of the server that is set, or one that runs meanwhile with PostgreSQL's own defaults, fsync on."""
    if not wanted:
        yield None
        return
    if url := os.environ.get(URL_SETTING):
        yield url
        return
    own = Path(tempfile.mkdtemp(prefix="postgres-", dir=folder))
    server = PostgresServer(own)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(own, ignore_errors=True)
