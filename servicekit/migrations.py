"""Schema steps: each service has a folder of Alembic revisions, run by `migrate` and checked at every start.

Replicas of two releases run beside each other during an upgrade, so that code must get along with a newer schema. A
step that takes something away says so with `usable_from = "<revision>"`: the oldest revision whose release's code may
run on the schema from then on. `migrate` writes the newest such word into the database, where code can read it that
does not know the step (docs/decisions/0024-expand-then-contract.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, Text, delete, func, insert, inspect, select, text
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from servicekit import index_building
from servicekit.database import PATIENCE_SECONDS, Database
from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError

_CONNECTION: Final = "connection"
_VERSION_TABLE: Final = "version_table"
# Steps on a large table take their time, and a second `migrate` waits for the first.
MIGRATION_SECONDS: Final = 900.0
START_SECONDS: Final = 60.0
BETWEEN_TRIES_SECONDS: Final = 0.5
# Whoever waits for a table's lock makes all wait that come later, and those have 1.5 s. So a step lets go and comes
# again, until whatever holds the table (a backup, a long query) is done.
LOCK_MS: Final = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a database says of its schema."""

    revision: str | None  # None when no step has been made
    usable_from: str | None  # None when nobody has said


def own_tables(version_table: str) -> frozenset[str]:
    """Return the names of the tables that steps are kept in."""
    return frozenset({version_table, _floor(version_table).name})


@retry(
    retry=retry_if_exception_type(UnavailableError),
    wait=wait_fixed(BETWEEN_TRIES_SECONDS),
    stop=stop_after_delay(START_SECONDS),
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
        schema = _read(connection, version_table)
        if _is_of_newer_release(schema, script):
            _check_usable(schema, script, version_table)
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


@retry(
    retry=retry_if_exception_type(UnavailableError),
    wait=wait_fixed(BETWEEN_TRIES_SECONDS),
    stop=stop_after_delay(START_SECONDS),
    reraise=True,
)
async def require_usable(database: Database, folder: Path, version_table: str) -> None:
    """Raise SettingsError when steps are pending, or when a newer release has taken away what this one needs.

    A database that is away is waited for, so that a service which starts during an outage is there at its end; after
    `START_SECONDS` UnavailableError is raised.
    """
    script = ScriptDirectory.from_config(_config(folder, version_table))
    async with database.read() as connection:
        schema = await connection.run_sync(_read, version_table)
    if _is_of_newer_release(schema, script):
        log.info("the schema is of a newer release", table=version_table, revision=schema.revision)
    _check_usable(schema, script, version_table)


class SchemaCheck:
    """Whether this release's code can use the schema as it is, asked again and again."""

    def __init__(self, database: Database, folder: Path, version_table: str) -> None:
        self._database = database
        self._version_table = version_table
        self._script = ScriptDirectory.from_config(_config(folder, version_table))

    async def problem(self, patience_seconds: float = PATIENCE_SECONDS) -> str:
        """Return why it can not; empty when it can. Raises UnavailableError when the database can not be had."""
        async with self._database.read(patience_seconds=patience_seconds) as connection:
            schema = await connection.run_sync(_read, self._version_table)
        try:
            _check_usable(schema, self._script, self._version_table)
        except SettingsError as error:
            return str(error)
        return ""


def run_environment() -> None:
    """Run Alembic's steps on the connection that `migrate` opened; every `env.py` is this one call."""
    attributes: dict[str, Any] = context.config.attributes
    context.configure(connection=attributes[_CONNECTION], version_table=attributes[_VERSION_TABLE])
    context.run_migrations()


def steps(folder: Path) -> Sequence[Script]:
    """Return the steps in a folder, oldest first."""
    return _steps(ScriptDirectory.from_config(_config(folder, "")))


def _check_usable(schema: Schema, script: ScriptDirectory, version_table: str) -> None:
    head = script.get_current_head()
    if schema.revision == head:
        return
    if not _is_of_newer_release(schema, script):
        raise SettingsError(f"the schema of {version_table} is at {schema.revision}, not {head}: run `textway migrate`")
    if schema.usable_from not in _known(script):
        raise SettingsError(
            f"the schema of {version_table} is at {schema.revision}, which a newer release has made, and this release,"
            f" whose last step is {head}, can not run on it: only one that knows {_oldest(schema)}."
            " Start the newer release again, or restore the backup from before its `textway migrate`"
        )


def _oldest(schema: Schema) -> str | None:
    return schema.usable_from or schema.revision


def _is_of_newer_release(schema: Schema, script: ScriptDirectory) -> bool:
    return schema.revision is not None and schema.revision not in _known(script)


def _known(script: ScriptDirectory) -> frozenset[str]:
    return frozenset(step.revision for step in _steps(script))


def _steps(script: ScriptDirectory) -> list[Script]:
    return list(reversed(list(script.walk_revisions())))


def _floor(version_table: str) -> Table:
    return Table(f"{version_table}_floor", MetaData(), Column("usable_from", Text(), primary_key=True))


def _read(connection: Connection, version_table: str) -> Schema:
    revision = MigrationContext.configure(connection, opts={_VERSION_TABLE: version_table}).get_current_revision()
    floor = _floor(version_table)
    has_floor = inspect(connection).has_table(floor.name)
    return Schema(revision=revision, usable_from=connection.scalar(select(floor)) if has_floor else None)


def _write_floor(connection: Connection, script: ScriptDirectory, version_table: str) -> None:
    revision = _read(connection, version_table).revision
    said = None
    for step in _steps(script):
        # Where nobody has said anything, the first step's own code is the oldest that there is.
        said = getattr(step.module, "usable_from", said or step.revision)
        if step.revision == revision:
            break
    floor = _floor(version_table)
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
