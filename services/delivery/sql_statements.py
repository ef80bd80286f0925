"""The statements that Delivery's SQL runs once for each row of a batch, and how a row is named in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Select, Table, and_, bindparam, delete, or_, update

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import HotStatement, insert_for
from servicekit.paging import PageRequest
from services.delivery.domain import shard_of
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES

# Parameters are named so as not to be taken for columns: `at_` for which row, `to_` for what it becomes.
THIS_MESSAGE: Final = and_(MESSAGES.c.shard == bindparam("at_shard"), MESSAGES.c.id == bindparam("at_id"))
THIS_DUE: Final = and_(DUE.c.shard == bindparam("at_shard"), DUE.c.message_id == bindparam("at_id"))
THIS_ATTEMPT: Final = and_(
    ATTEMPTS.c.shard == bindparam("at_shard"),
    ATTEMPTS.c.message_id == bindparam("at_id"),
    ATTEMPTS.c.number == bindparam("at_number"),
)
UPDATE_MESSAGE: Final = update(MESSAGES).where(THIS_MESSAGE)
UPDATE_DUE: Final = update(DUE).where(THIS_DUE)
UPDATE_ATTEMPT: Final = update(ATTEMPTS).where(THIS_ATTEMPT)
LEAVE_QUEUE: Final = HotStatement(delete(DUE).where(THIS_DUE), ("at_shard", "at_id"))


def at(message_id: str) -> dict[str, object]:
    """Return the parameters that name a message's rows."""
    return {"at_shard": shard_of(message_id), "at_id": message_id}


def shards_of(message_ids: Iterable[str]) -> list[int]:
    """Return the shards that messages live on, for queries over several."""
    return sorted({shard_of(message_id) for message_id in message_ids})


def wanted_of(wanted: Mapping[Column[Any], object]) -> list[ColumnElement[bool]]:
    """Return the conditions that columns have these values; None is no condition."""
    return [column == value for column, value in wanted.items() if value is not None]


def within(moment: ColumnElement[int], after: datetime | None, before: datetime | None) -> list[ColumnElement[bool]]:
    """Return the conditions that a moment is not before the one time and before the other; None is no condition."""
    conditions = []
    if after is not None:
        conditions.append(moment >= to_milliseconds(after))
    if before is not None:
        conditions.append(moment < to_milliseconds(before))
    return conditions


def newest_first(
    query: Select[Any], moment: ColumnElement[int], row_id: ColumnElement[str], page: PageRequest
) -> Select[Any]:
    """Return a query for one page by its key, never by an offset: newest first, rows of one moment by their ids."""
    if page.after:
        milliseconds, last_id = page.after
        query = query.where(or_(moment < milliseconds, and_(moment == milliseconds, row_id < last_id)))
    return query.order_by(moment.desc(), row_id.desc()).limit(page.size)


def insert_ignoring(connection: Connection, table: Table) -> Any:
    """Return an insert that leaves rows alone which are there already, in the connection's dialect."""
    return insert_for(connection.dialect.name, table).on_conflict_do_nothing()
