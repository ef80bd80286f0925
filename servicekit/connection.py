"""What a transaction can do, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy
from sqlalchemy import CursorResult, Dialect, Executable, ScalarResult

Result = TypeVar("Result")
Given = ParamSpec("Given")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
DriverParameters = tuple[Any, ...] | Sequence[tuple[Any, ...]] | Mapping[str, Any] | None


class Connection(Protocol):
    """A transaction's way to its database. Every result is there as a whole when it is returned."""

    @property
    def dialect(self) -> Dialect:
        """The engine's way of writing SQL."""

    async def execute(self, statement: Executable, parameters: Parameters = None, /) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement, once or, for a list of parameters, once for each of them."""

    async def scalar(self, statement: Executable, parameters: Parameters = None, /) -> Any:
        """Run a statement and return the first value of the first row; None when there is none."""
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: Executable, parameters: Parameters = None, /) -> ScalarResult[Any]:
        """Run a statement and return the first value of each row."""
        return (await self.execute(statement, parameters)).scalars()

    async def exec_driver_sql(
        self, statement: str, parameters: DriverParameters = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run a text as it is, with parameters as the driver takes them."""

    async def run_sync(
        self,
        work: Callable[Concatenate[sqlalchemy.Connection, Given], Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """Run a function over SQLAlchemy's own connection."""

    async def rows(self, statement: str, values: tuple[Any, ...], /) -> Sequence[tuple[Any, ...]]:
        """Run a text on the driver's own connection and return its rows, as the driver gives them.

        SQLAlchemy is left out, which takes longer for a statement than the driver does.
        """

    async def each(self, statement: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        """Run a text on the driver's own connection, once for each of the rows."""
