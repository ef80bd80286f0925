"""Schema steps: each service has a folder of Alembic revisions, run by `migrate`; `servicekit.schema` checks them.

A step that takes something away says so with `usable_from = "<revision>"`: the oldest revision whose release's code may
run on the schema from then on. `migrate` writes the newest such word into the database, where code can read it that
does not know the step (docs/decisions/0024-expand-then-contract.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from alembic import command, context
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, delete, func, insert, select, text
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from servicekit import index_building, schema
from servicekit.database import Database
from servicekit.errors import UnavailableError

_CONNECTION: Final = "connection"
_VERSION_TABLE: Final = "version_table"
# Steps on a large table take their time, and a second `migrate` waits for the first.
MIGRATION_SECONDS: Final = 900.0
# Whoever waits for a table's lock makes all wait that come later, and those have 1.5 s. So a step lets go and comes
# again, until whatever holds the table (a backup, a long query) is done.
LOCK_MS: Final = 500


def own_tables(version_table: str) -> frozenset[str]:
    """Return the names of the tables that steps are kept in."""
    return frozenset({version_table, schema.floor_table(version_table).name})


@retry(
    retry=retry_if_exception_type(UnavailableError),
    wait=wait_fixed(schema.BETWEEN_TRIES_SECONDS),
    stop=stop_after_delay(schema.START_SECONDS),
    reraise=True,
)
async def migrate(database: Database, folder: Path, version_table: str, to: str = "head") -> None:
    """Bring the schema to a revision in `folder`, in one transaction; two at once run one after the other.

    A schema of a newer release that this one's code may use is left as it is; on any other, SettingsError is raised.
    Indexes that steps want to be built beside the writers follow after the transaction, and are made up for by the next
    `migrate` when this one is cut off.
    """
    config = _config(folder, version_table)
    script = ScriptDirectory.from_config(config)

    def upgrade(connection: Connection) -> bool:
        found, known = schema.read(connection, version_table), schema.steps_in(folder)
        if schema.is_of_newer_release(found, known):
            schema.check_usable(found, known, version_table)
            return False
        config.attributes[_CONNECTION] = connection
        command.upgrade(config, to)
        _write_floor(connection, script, version_table)
        return True

    async with database.write(patience_seconds=MIGRATION_SECONDS) as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(version_table))))
            await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
        is_own = await connection.run_sync(upgrade)
    if is_own:
        await index_building.build(database, _later_indexes(script, to), MIGRATION_SECONDS)


def run_environment() -> None:
    """Run Alembic's steps on the connection that `migrate` opened; every `env.py` is this one call."""
    attributes: dict[str, Any] = context.config.attributes
    context.configure(connection=attributes[_CONNECTION], version_table=attributes[_VERSION_TABLE])
    context.run_migrations()


def steps(folder: Path) -> Sequence[Script]:
    """Return the steps in a folder, oldest first."""
    return _steps(ScriptDirectory.from_config(_config(folder, "")))


def _steps(script: ScriptDirectory) -> list[Script]:
    return list(reversed(list(script.walk_revisions())))


def _write_floor(connection: Connection, script: ScriptDirectory, version_table: str) -> None:
    revision = schema.read(connection, version_table).revision
    said = None
    for step in _steps(script):
        # Where nobody has said anything, the first step's own code is the oldest that there is.
        said = getattr(step.module, "usable_from", said or step.revision)
        if step.revision == revision:
            break
    floor = schema.floor_table(version_table)
    floor.create(connection, checkfirst=True)
    connection.execute(delete(floor))
    connection.execute(insert(floor).values(usable_from=said))


def _later_indexes(script: ScriptDirectory, to: str) -> list[index_building.LaterIndex]:
    found: list[index_building.LaterIndex] = []
    for step in _steps(script):
        found += getattr(step.module, "later_indexes", ())
        if step.revision == to:
            break
    return found


def _config(folder: Path, version_table: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes[_VERSION_TABLE] = version_table
    return config
