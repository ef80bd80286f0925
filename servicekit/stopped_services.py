"""Refuses work for which a service must be stopped, on a database that other processes may have open as well."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, column, func, select, table

from servicekit.database import Database
from servicekit.settings import SettingsError

_SESSIONS: Final = table("pg_stat_activity", column("datname"), column("application_name"))
_OPEN_BY_NAME: Final = (
    select(func.count())
    .select_from(_SESSIONS)
    .where(_SESSIONS.c.datname == func.current_database(), _SESSIONS.c.application_name == bindparam("by_name"))
)


async def require_stopped(database: Database, name: str, *, of: str) -> None:
    """Raise SettingsError when a process of a service uses the database, also one that stands still.

    `name` is that of its connections; SQLite lets no other process in.
    """
    number = await _count_connections(database, name)
    if number:
        counted = f"1 connection of {of} uses" if number == 1 else f"{number} connections of {of} use"
        raise SettingsError(
            f"{counted} this database: stop every process of {of} first. A connection that a machine has left which is"
            f" gone is `{name}` in pg_stat_activity, and pg_terminate_backend ends it"
        )


async def _count_connections(database: Database, name: str) -> int:
    if database.is_exclusive:
        return 0
    async with database.read() as connection:
        found = await connection.execute(_OPEN_BY_NAME, {"by_name": name})
        return int(found.scalar_one())
