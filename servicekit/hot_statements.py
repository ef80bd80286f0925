"""Statements of the hot path: written once in Core, compiled once for each engine, and given values by their place.

What SQLAlchemy does for every row of a statement (naming, converting and ordering its values) takes longer than SQLite
takes for the row. Here it is done once for the statement. So values must be what the driver takes: texts, numbers,
booleans, bytes and None; and rows come back as the driver gives them, booleans on SQLite as 0 and 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Executable,
    Table,
    TableValuedAlias,
    bindparam,
    func,
    insert,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

from servicekit.connection import Connection

Values = tuple[Any, ...]
Written = Callable[[str], Executable]  # by the engine's name, where engines need different words


class HotStatement:
    """A statement whose parameters are given as tuples, in the order of `names`."""

    def __init__(self, statement: Executable | Written, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = tuple(names)
        self._compiled: dict[str, tuple[str, Callable[[Values], Values]]] = {}

    async def each(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it once for each of the rows, in one call of the driver; nothing for none."""
        if not rows:
            return
        text, ordered = self._for(connection.dialect)
        await connection.each(text, [ordered(row) for row in rows])

    async def rows(self, connection: Connection, *values: Any) -> Sequence[Values]:
        """Run it once and return its rows; a list is one value (see `one_of`)."""
        text, ordered = self._for(connection.dialect)
        if connection.dialect.name == "sqlite":
            values = tuple(json.dumps(value) if isinstance(value, list) else value for value in values)
        return await connection.rows(text, ordered(values))

    def _for(self, dialect: Dialect) -> tuple[str, Callable[[Values], Values]]:
        known = self._compiled.get(dialect.name)
        if known is None:
            known = self._compiled[dialect.name] = self._compile(dialect)
        return known

    def _compile(self, dialect: Dialect) -> tuple[str, Callable[[Values], Values]]:
        statement = self._statement if isinstance(self._statement, Executable) else self._statement(dialect.name)
        compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every one of ours has it
        places = tuple(compiled.positiontup)
        if places == self._names:
            return str(compiled), tuple
        fixed = {name: value for name, value in compiled.params.items() if name not in self._names}
        given = {name: place for place, name in enumerate((*self._names, *fixed))}
        pick, behind = itemgetter(*(given[name] for name in places)), tuple(fixed.values())
        if len(places) == 1:
            return str(compiled), lambda row: (pick(row + behind),)
        return str(compiled), lambda row: pick(row + behind)


def inserting(table: Table) -> HotStatement:
    """Return the insert of whole rows, their values in the order of the table's columns."""
    values = _parameters(table)
    return HotStatement(insert(table).values(values), tuple(values))


def inserting_new(table: Table) -> HotStatement:
    """Return the insert of whole rows, as `inserting` does, which leaves rows alone that are there already."""
    values = _parameters(table)
    return HotStatement(lambda engine: insert_for(engine, table).values(values).on_conflict_do_nothing(), tuple(values))


def insert_for(engine: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that can say what is to come of rows which are there already, in an engine's words."""
    return postgresql.insert(table) if engine == "postgresql" else sqlite.insert(table)


def _parameters(table: Table) -> dict[str, BindParameter[Any]]:
    return {column.name: bindparam(column.name) for column in table.columns}


def listed(engine: str, name: str, type_: TypeEngine[Any]) -> TableValuedAlias:
    """Return the values of the list parameter `name` as a table with the column `value`."""
    if engine == "sqlite":
        return func.json_each(bindparam(name)).table_valued("value")
    return func.unnest(bindparam(name, type_=ARRAY(type_))).table_valued("value").render_derived()


class OneOf(ColumnElement[bool]):
    """Whether a column has one of the values in a list that is given as one parameter.

    SQLAlchemy's own `in_` writes a statement anew for each number of values, and each must then be prepared.
    """

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: Column[Any], name: str) -> None:
        self.column = column
        self.listed: Any = bindparam(name, type_=ARRAY(column.type))

    def self_group(self, against: object = None) -> OneOf:  # noqa: ARG002  # it is a condition as it stands
        """See ColumnElement, which would compare it with 1 for SQLite."""
        return self


def one_of(column: Column[Any], name: str) -> OneOf:
    """Return the condition that a column has one of the values of the list parameter `name`."""
    return OneOf(column, name)


@compiles(OneOf, "postgresql")
def _compile_for_postgres(element: OneOf, compiler: Any, **words: Any) -> str:
    return f"{compiler.process(element.column, **words)} = ANY ({compiler.process(element.listed, **words)})"


@compiles(OneOf, "sqlite")
def _compile_for_sqlite(element: OneOf, compiler: Any, **words: Any) -> str:
    listed = compiler.process(element.listed, **words)
    column = compiler.process(element.column, **words)
    return f"{column} IN (SELECT value FROM json_each({listed}))"  # noqa: S608  # of names and a parameter
