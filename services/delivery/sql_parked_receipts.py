"""Parked receipts in SQL: what carriers said of ids that we do not have, or not yet.

A carrier may call back before the outcome of the attempt, and with it the carrier's id, is on disk. Nothing is locked
against that, on any engine and with any number of processes, and yet no receipt is lost:

- A receipt that finds nothing with its id is on disk here before the carrier is answered.
- From then on two rows decide, and both stay: the parked receipt, and the attempt or part with the same id. Whichever
  is committed last, the next sweep sees both, for it reads what there is and waits for no event.
- The parked row goes in the transaction that applies it, so that a crash undoes both or neither.
- Where two sweeps take the same row, the lock of its message puts them in a row, and the second finds it recorded.

Only time and room end the wait: `PARKED_FOR`, and newer ones beyond `PARKED_PER_CARRIER` (receipt_rules).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, delete, func, literal_column, or_, select, union

from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.hot_statements import HotStatement
from services.delivery import rows
from services.delivery.domain import Receipt
from services.delivery.sql_statements import insert_ignoring
from services.delivery.tables import ATTEMPTS, PARKED_RECEIPTS, PARTS

_KEY: Final = ("carrier", "carrier_message_id", "message_id", "status")
_DELETE: Final = delete(PARKED_RECEIPTS).where(
    and_(*(PARKED_RECEIPTS.c[name] == bindparam(f"at_{name}") for name in _KEY))
)


async def park(connection: Connection, receipts: Sequence[Receipt]) -> None:
    """Keep receipts for later, each once.

    Call it last in a transaction, and so `remove`: both may wait for others who hold rows here, and those wait for
    nothing.
    """
    if receipts:
        parked = [rows.parked_receipt(receipt) for receipt in receipts]
        parked.sort(key=_in_order)
        await connection.execute(insert_ignoring(connection, PARKED_RECEIPTS), parked)


async def any_since(connection: Connection, since_ms: int) -> bool:
    """Tell whether a receipt is parked that came since a time."""
    young = select(PARKED_RECEIPTS.c.carrier).where(PARKED_RECEIPTS.c.received_at_ms >= since_ms)
    return await connection.scalar(young.limit(1)) is not None


def _due() -> Select[Any]:
    came = PARKED_RECEIPTS.c.received_at_ms >= bindparam("since_ms")
    same_attempt = and_(
        ATTEMPTS.c.carrier == PARKED_RECEIPTS.c.carrier,
        ATTEMPTS.c.carrier_message_id == PARKED_RECEIPTS.c.carrier_message_id,
        ATTEMPTS.c.carrier_message_id != literal_column("''"),  # as the partial index has it
    )
    same_part = and_(
        PARTS.c.carrier == PARKED_RECEIPTS.c.carrier,
        PARTS.c.carrier_message_id == PARKED_RECEIPTS.c.carrier_message_id,
    )
    found = union(
        select(PARKED_RECEIPTS).join(ATTEMPTS, same_attempt).where(came),
        select(PARKED_RECEIPTS).join(PARTS, same_part).where(came),
        select(PARKED_RECEIPTS).where(came, PARKED_RECEIPTS.c.message_id != ""),
    ).subquery()
    return select(found).order_by(found.c.received_at_ms).limit(bindparam("most"))


_DUE: Final = HotStatement(_due(), ("since_ms", "most"))


async def due(database: Database, since_ms: int, limit: int) -> list[Receipt]:
    """Return parked receipts that may be applied now, oldest first.

    Those that carry our id too are always among them: only their message says whether its attempt is over.
    """
    return [rows.parked(row) for row in await database.look(_DUE, since_ms, limit)]


async def remove(connection: Connection, receipts: Sequence[Receipt]) -> None:
    """Take receipts away that are settled."""
    if receipts:
        await _delete(connection, [rows.parked_receipt(receipt) for receipt in receipts])


async def remove_surplus(connection: Connection, before_ms: int, kept: int, limit: int) -> int:
    """Delete what came before a time, or beyond the newest of each carrier; return how many were found."""
    newest_first = PARKED_RECEIPTS.c.received_at_ms.desc()
    place = func.row_number().over(partition_by=PARKED_RECEIPTS.c.carrier, order_by=newest_first)
    each = select(PARKED_RECEIPTS, place.label("place")).subquery()
    surplus = (
        select(*(each.c[name] for name in _KEY))
        .where(or_(each.c.received_at_ms < before_ms, each.c.place > kept))
        .limit(limit)
    )
    found = [dict(row) for row in (await connection.execute(surplus)).mappings()]
    if found:
        await _delete(connection, found)
    return len(found)


async def _delete(connection: Connection, parked: list[dict[str, Any]]) -> None:
    ordered = sorted(parked, key=_in_order)
    await connection.execute(_DELETE, [{f"at_{name}": row[name] for name in _KEY} for row in ordered])


def _in_order(row: dict[str, Any]) -> tuple[str, ...]:
    # Everybody touches rows in this order, so that no two wait for each other.
    return tuple(row[name] for name in _KEY)
