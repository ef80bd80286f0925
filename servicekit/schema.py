"""Whether the code of a release can use a database's schema as it is; asked at every start, and again and again.

Replicas of two releases run beside each other during an upgrade, so that code must get along with a newer schema: the
database says the oldest revision whose release's code may run on it (docs/decisions/0024-expand-then-contract.md). This
knows of the steps in a folder only what they are called, so that a process that serves has no need of Alembic, which
makes them (`servicekit.migrations`).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from servicekit.database import PATIENCE_SECONDS, Database
from servicekit.errors import UnavailableError
from servicekit.settings import SettingsError

START_SECONDS: Final = 60.0
BETWEEN_TRIES_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a database says of its schema."""

    revision: str | None  # None when no step has been made
    usable_from: str | None  # None when nobody has said


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
    steps = steps_in(folder)
    async with database.read() as connection:
        schema = await connection.run_sync(read, version_table)
    if is_of_newer_release(schema, steps):
        log.info("the schema is of a newer release", table=version_table, revision=schema.revision)
    check_usable(schema, steps, version_table)


class SchemaCheck:
    """Whether this release's code can use the schema as it is, asked again and again."""

    def __init__(self, database: Database, folder: Path, version_table: str) -> None:
        self._database = database
        self._version_table = version_table
        self._steps = steps_in(folder)

    async def problem(self, patience_seconds: float = PATIENCE_SECONDS) -> str:
        """Return why it can not; empty when it can. Raises UnavailableError when the database can not be had."""
        async with self._database.read(patience_seconds=patience_seconds) as connection:
            schema = await connection.run_sync(read, self._version_table)
        try:
            check_usable(schema, self._steps, self._version_table)
        except SettingsError as error:
            return str(error)
        return ""


def steps_in(folder: Path) -> Sequence[str]:
    """Return the revisions of the steps in a folder, oldest first. The steps themselves are not run."""
    following = {}
    for file in (folder / "versions").glob("*.py"):
        said = _constants(file.read_text(encoding="utf-8"))
        following[said["down_revision"]] = said["revision"]
    steps: list[str] = []
    revision: object = following.get(None)
    while isinstance(revision, str):
        steps.append(revision)
        revision = following.get(revision)
    return steps


def read(connection: Connection, version_table: str) -> Schema:
    """Return what the database says."""
    tables = inspect(connection)
    version = Table(version_table, MetaData(), Column("version_num", Text()))
    floor = floor_table(version_table)
    return Schema(
        revision=connection.scalar(select(version)) if tables.has_table(version.name) else None,
        usable_from=connection.scalar(select(floor)) if tables.has_table(floor.name) else None,
    )


def check_usable(schema: Schema, steps: Sequence[str], version_table: str) -> None:
    """Raise SettingsError when code whose newest step is the last of these can not use the schema."""
    head = steps[-1] if steps else None
    if schema.revision == head:
        return
    if not is_of_newer_release(schema, steps):
        raise SettingsError(f"the schema of {version_table} is at {schema.revision}, not {head}: run `textway migrate`")
    if schema.usable_from not in steps:
        raise SettingsError(
            f"the schema of {version_table} is at {schema.revision}, which a newer release has made, and this release,"
            f" whose last step is {head}, can not run on it: only one that knows {_oldest(schema)}."
            " Start the newer release again, or restore the backup from before its `textway migrate`"
        )


def is_of_newer_release(schema: Schema, steps: Sequence[str]) -> bool:
    """Tell whether the schema is at a step that is not one of these."""
    return schema.revision is not None and schema.revision not in steps


def floor_table(version_table: str) -> Table:
    """Return the table in which the oldest revision is kept whose release's code may run on the schema."""
    return Table(f"{version_table}_floor", MetaData(), Column("usable_from", Text(), primary_key=True))


def _oldest(schema: Schema) -> str | None:
    return schema.usable_from or schema.revision


def _constants(source: str) -> dict[str, object]:
    """Return the constants that a module gives names to."""
    return {
        target.id: statement.value.value
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
