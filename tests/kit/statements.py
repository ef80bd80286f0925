"""Sees what a process runs on its databases, whether SQLAlchemy is in between or not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from sqlalchemy import event
from sqlalchemy.engine import Engine

from servicekit.postgres_connection import PostgresConnection
from servicekit.sqlite_lines import Line, _SqliteConnection

# The driver's connection, the statement, its parameters, and whether these are rows of them.
Seen = Callable[[object, str, Any, bool], None]
Ended = Callable[[object], None]


@contextlib.contextmanager
def watched(seen: Seen, committed: Ended = lambda _: None) -> Iterator[None]:
    """Tell of each statement before it is run, of the one that begins a transaction too, and of commits on SQLite."""
    begin, commit = Line._begin, Line._commit

    def through_sqlalchemy(
        connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        # Rows that are inserted by one statement with many VALUES have their parameters in one tuple.
        seen(connection.connection.driver_connection, statement, parameters, many and isinstance(parameters, list))

    def on_begin(line: Any, *given: Any) -> Any:
        connection = begin(line, *given)
        seen(line._driver, line._begin_statement, (), False)
        return connection

    def on_commit(line: Any) -> None:
        commit(line)
        committed(line._driver)

    event.listen(Engine, "before_cursor_execute", through_sqlalchemy)
    try:
        with (
            mock.patch.multiple(Line, _begin=on_begin, _commit=on_commit),
            _direct_ones_told(_SqliteConnection, "_driver", seen),
            _direct_ones_told(PostgresConnection, "driver", seen),
        ):
            yield
    finally:
        event.remove(Engine, "before_cursor_execute", through_sqlalchemy)


def _direct_ones_told(connections: Any, driver: str, seen: Seen) -> contextlib.AbstractContextManager[Any]:
    rows, each = connections.rows, connections.each

    async def on_rows(connection: Any, statement: str, values: Any) -> Any:
        seen(getattr(connection, driver), statement, values, False)
        return await rows(connection, statement, values)

    async def on_each(connection: Any, statement: str, many: Any) -> None:
        seen(getattr(connection, driver), statement, many, True)
        await each(connection, statement, many)

    return mock.patch.multiple(connections, rows=on_rows, each=on_each)
