"""Schema steps: each service has a folder of Alembic revisions, run by `migrate` and checked at every start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from servicekit.database import Database
from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError

_CONNECTION: Final = "connection"
_VERSION_TABLE: Final = "version_table"
# Steps on a large table take their time, and a second `migrate` waits for the first.
MIGRATION_SECONDS: Final = 900.0
START_SECONDS: Final = 60.0
BETWEEN_TRIES_SECONDS: Final = 0.5


async def migrate(database: Database, folder: Path, version_table: str) -> None:
    """Bring the schema to the newest revision in `folder`, in one transaction; two at once run one after the other."""
    config = _config(folder, version_table)

    def upgrade(connection: Connection) -> None:
        config.attributes[_CONNECTION] = connection
        command.upgrade(config, "head")

    async with database.write(patience_seconds=MIGRATION_SECONDS) as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(version_table))))
        await connection.run_sync(upgrade)


@retry(
    retry=retry_if_exception_type(UnavailableError),
    wait=wait_fixed(BETWEEN_TRIES_SECONDS),
    stop=stop_after_delay(START_SECONDS),
    reraise=True,
)
async def require_current(database: Database, folder: Path, version_table: str) -> None:
    """Raise SettingsError when steps are pending, or when the schema is of a newer release.

    A database that is away is waited for, so that a service which starts during an outage is there at its end; after
    `START_SECONDS` UnavailableError is raised.
    """
    head = ScriptDirectory.from_config(_config(folder, version_table)).get_current_head()

    def current(connection: Connection) -> str | None:
        return MigrationContext.configure(connection, opts={_VERSION_TABLE: version_table}).get_current_revision()

    async with database.read() as connection:
        revision = await connection.run_sync(current)
    if revision != head:
        raise SettingsError(f"the schema of {version_table} is at {revision}, not {head}: run `textway migrate`")


def run_environment() -> None:
    """Run Alembic's steps on the connection that `migrate` opened; every `env.py` is this one call."""
    attributes: dict[str, Any] = context.config.attributes
    context.configure(connection=attributes[_CONNECTION], version_table=attributes[_VERSION_TABLE])
    context.run_migrations()


def _config(folder: Path, version_table: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes[_VERSION_TABLE] = version_table
    return config
