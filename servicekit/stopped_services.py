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


async def count_connections(database: Database, name: str) -> int:
    """Return how many connections of that name the database's server has to it; SQLite lets no other process in."""
    if database.is_exclusive:
        return 0
    async with database.read() as connection:
        found = await connection.execute(_OPEN_BY_NAME, {"by_name": name})
        return int(found.scalar_one())


def refuse_while_running(number: int, *, one: str, several: str, of: str, remedy: str) -> None:
    """Raise SettingsError with what is to be done when any of a service's processes or connections has been counted."""
    if number:
        counted = f"1 {one} of {of} uses" if number == 1 else f"{number} {several} of {of} use"
        raise SettingsError(f"{counted} this database: {remedy}")
